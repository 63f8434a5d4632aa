#!/bin/sh
# check_host.sh PYTHON: end with one line that says what to install, if this machine can not build freehold.
python=$1
command -v "$python" >/dev/null || { echo "freehold needs Python 3.11 or newer: install python3, or name one: make PYTHON=…" >&2; exit 1; }

# Where a virtual environment exists, it is what builds; else the Python that will make it.
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
  3.1[1-9]|3.[2-9][0-9]) ;;
  *) echo "freehold needs Python 3.11 or newer, and $python is $version: name another: make PYTHON=python3.13" >&2; exit 1;;
esac

missing=""
compiler=""
for name in ${CC:-cc gcc clang}; do
  if command -v "$name" >/dev/null; then compiler=$name; break; fi
done
if [ -z "$compiler" ]; then missing="a C compiler (apt install gcc libc6-dev)"; fi
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -f "$headers/Python.h" ]; then
  missing="$missing${missing:+ and }Python's headers (apt install python$version-dev)"
elif [ -n "$compiler" ] && ! echo '#include <Python.h>' | $compiler -fsyntax-only -I"$headers" -x c - 2>/dev/null; then
  missing="the C library's headers (apt install libc6-dev)"
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  missing="$missing${missing:+ and }Python's venv (apt install python$version-venv)"
fi
if [ -n "$missing" ]; then echo "freehold needs $missing" >&2; exit 1; fi
