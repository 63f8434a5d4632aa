# Every verb sets up what it needs in .venv, from an empty clone. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Other programs of the virtual environment (ninja, cython, pycodestyle) are found there too.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# `make test` and `make demo` run what a user gets: the package, built for release and installed in .venv.
# The other flavours are built into build/NAME/site, which comes before it in PYTHONPATH.
SETUP_release := -Dbuildtype=release
SETUP_debug   := -Dbuildtype=debugoptimized -Dcheck=2
SETUP_tsan    := -Dbuildtype=debugoptimized -Dcheck=1 -Db_sanitize=thread
SETUP_asan    := -Dbuildtype=debugoptimized -Dcheck=1 -Db_sanitize=address
SETUP_ubsan   := -Dbuildtype=debugoptimized -Dcheck=1 -Db_sanitize=undefined -Dc_args=-fno-sanitize-recover=undefined

PYTEST   := $(BIN)/python -m pytest
TESTS    ?= tests
# Most tests wait for something most of their time: more of them at once than there are cores.
JOBS     ?= 3
AT_ONCE  := -n $(JOBS) --dist worksteal
# Of these a checked build shows nothing that the release build did not.
UNCHECKED := $(addprefix --ignore=tests/,test_benchmarks.py test_compare.py test_config.py test_demo.py test_figures.py test_hot_path.py \
	test_map.py test_pictures.py test_profile_command.py test_profile_page.py test_profile_view.py test_profiles.py test_project.py \
	test_prometheus.py test_report.py test_report_parts.py test_startup_file.py test_top.py preload/test_programs.py) \
	$(addprefix --deselect=tests/test_objects.py::,test_F35_a_thousand_installs_and_uninstalls test_F36_all_orders_of_installing_and_tracing)
# What the sanitizers see: the core, driven through its faces. They need terabytes of addresses for themselves, so tests that
# limit those are left out; and for ASan and TSan those that measure resident memory, of which they have much of their own.
# ASan's own allocator can not be forked beside threads that use it, and it ends a process at a fault in its own way.
LIMITS   := F16 or rlimit or S1_the_reservation_is_halved or S3_addresses_given_back or H9_F17 or A_without_a_reservation
RESIDENT := F54 or H8_two_seconds_later or H11_what_grows or V1_reserve_gives_exactly or H2_forced_closing_gives \
	or H3_the_limit_is_on_what or H3_a_hundred_thousand_refusals
ASANS    := storm_over_all_layers or storm_of_c_threads or secure_heap_ends_the_process
OF_CPYTHON ?= test_json test_dict test_list test_threading test_gc test_capi test_bytes test_fork1 test_interpreters $(OF_STRINGS)
OF_STRINGS  = $(shell $(BIN)/python -c 'import sys; print("test_str" if sys.version_info >= (3, 13) else "test_unicode")')
# What their wheels carry. Left out: what needs files that are in no wheel, a network, or the default memory pool by its name.
OF_PANDAS ?= frame.test_constructors groupby.test_groupby reshape.merge.test_merge strings.test_strings copy_view.test_methods
OF_PYARROW ?= test_array test_table test_pandas test_ipc test_io test_compute
# ThreadSanitizer also remembers each address that was ever written, so it sees only what has threads.
THREADS  ?= tests/core -k '(thread or storm or fork or witness or race or change_hands) and not ($(RESIDENT))'
# A sanitizer's library must come first in the process; the compiler knows where it is.
PRELOAD   = LD_PRELOAD=$$($${CC:-cc} -print-file-name=lib$(1).so)
SOURCES  := $(shell find src tools meson.build meson_options.txt pyproject.toml -type f -not -name '*.pyc')

.DEFAULT_GOAL := help
.PHONY: help host install demo test cpython packages check race asan ubsan bench lint format clean
.DELETE_ON_ERROR:

help: ## list the verbs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: build/installed ## install freehold into .venv and show six reported troubles without and with it
	@$(BIN)/freehold demo

test: build/installed ## release build: all tests that need no checked build
	@$(PYTEST) $(AT_ONCE) $(TESTS)

cpython: flavour-release ## a selection of CPython's own tests with Python's objects on the heap; slow
	@PYTHONPATH=build/release/site $(BIN)/python -m freehold run --objects=yes -m test -j2 $(OF_CPYTHON)

packages: flavour-release ## a selection of pandas' and pyarrow's own tests with Python's objects on the heap; slow
	@PYTHONPATH=build/release/site $(BIN)/python -m freehold run --objects=yes -m pytest -c /dev/null -p no:cacheprovider -q \
		--pyargs $(addprefix pandas.tests.,$(OF_PANDAS))
	@PYTHONPATH=build/release/site $(BIN)/python -m freehold run --objects=yes -m pytest -c /dev/null -p no:cacheprovider -q \
		--pyargs $(addprefix pyarrow.tests.,$(OF_PYARROW))

check: flavour-debug ## the tests with every lock witnessed and every structure verified after each operation
	@PYTHONPATH=build/debug/site $(PYTEST) $(AT_ONCE) $(TESTS) $(UNCHECKED)

race: flavour-tsan ## the core's tests with threads under ThreadSanitizer
	@$(call PRELOAD,tsan) TSAN_OPTIONS=halt_on_error=1:exitcode=66:die_after_fork=0:ignore_noninstrumented_modules=1 \
		PYTHONPATH=build/tsan/site $(PYTEST) $(THREADS)

asan: flavour-asan ## the core's tests under AddressSanitizer
	@$(call PRELOAD,asan) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=build/asan/site \
		$(PYTEST) tests/core -k 'not ($(LIMITS) or $(RESIDENT) or $(ASANS))'

ubsan: flavour-ubsan ## the core's tests under UndefinedBehaviorSanitizer
	@UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=build/ubsan/site $(PYTEST) tests/core -k 'not ($(LIMITS))'

bench: build/installed ## the benchmarks, beside the allocators that this machine has
	@$(BIN)/python -m benchmarks

lint: build/installed ## ruff, mypy, stubtest, cython-lint, and who may import whom
	@tools/lint.sh $(BIN)

format: $(VENV)/ready ## rewrite the Python files as ruff formats them
	@$(BIN)/ruff format && $(BIN)/ruff check --fix-only --quiet

install: build/installed ## install freehold, built for release, into .venv

clean: ## remove what was built; .venv stays
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

build/installed: $(SOURCES) $(VENV)/ready | host
	@mkdir -p build
	@echo "building freehold"
	@$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -Cbuild-dir=build/wheel '.[demo,top]' >build/wheel.log 2>&1 \
		|| { cat build/wheel.log; false; }
	@touch $@

flavour-%: $(VENV)/ready | host
	@mkdir -p build
	@test -f build/$*/build.ninja || $(BIN)/meson setup build/$* $(SETUP_$*) \
		-Dpython.platlibdir=$(CURDIR)/build/$*/site -Dpython.purelibdir=$(CURDIR)/build/$*/site >build/$*.log 2>&1 \
		|| { cat build/$*.log; false; }
	@$(BIN)/meson install -C build/$* --quiet

$(VENV)/ready: pyproject.toml | host
	@echo "setting up $(VENV)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --upgrade-deps $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --group dev
	@touch $@

host:
	@tools/check_host.sh $(PYTHON)
