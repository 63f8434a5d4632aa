#!/bin/sh
# cythonize_face.sh CYTHON SOURCE OUT_DIR OUTPUT: compile a face beside the extern headers that join_core.py wrote.
# It is copied there first: Cython looks for a package's headers next to the source before anywhere else.
set -e
cython=$1 source=$2 out=$3 output=$4
name=$(basename "$source" .py)
mkdir -p "$out/freehold/face"
: > "$out/freehold/face/__init__.pxd"
cp "$source" "$out/freehold/face/"
# Headers are for every face: each is put there in one step, as others may be reading it.
for header in "$(dirname "$source")"/*.pxd; do
  cp "$header" "$out/freehold/face/$(basename "$header").$name"
  mv "$out/freehold/face/$(basename "$header").$name" "$out/freehold/face/$(basename "$header")"
done
"$cython" -3 --line-directives -Xcdivision=True -Xfreethreading_compatible=True \
  --module-name "freehold.face.$name" "$out/freehold/face/$name.py" -o "$output"
