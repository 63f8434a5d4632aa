#!/bin/sh
# lint.sh BIN: run every check of the text of the project; go on after one has failed, and end with which did.
bin=$1
failed=""
step() {
  name=$1
  shift
  echo "$name"
  "$@" || failed="$failed, $name"
}

# A stub is checked against the module that was built; what the build has no stub for is no interface.
stubs=$(cd src && find freehold/face -name '*.pyi' | sed 's/\.pyi$//; s,/,.,g' | sort)

step "ruff check" "$bin/ruff" check --quiet
step "ruff format --check" "$bin/ruff" format --check --quiet
step "mypy" "$bin/mypy" --no-error-summary
step "stubtest" "$bin/stubtest" --concise --ignore-missing-stub --allowlist tools/stubtest_allowed.txt $stubs
step "cython-lint" "$bin/cython-lint" src/freehold
step "import-linter" env PYTHONPATH=src "$bin/lint-imports" --no-logo --no-cache
if [ -n "$failed" ]; then echo "lint failed: ${failed#, }" >&2; exit 1; fi
