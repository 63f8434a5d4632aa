"""Prints, as JSON, what a program can see of how it was started."""

import json
import os
import sys

HIDDEN = ("PYTHONPATH", "FREEHOLD", "FREEHOLD_RUN", "_", "SHLVL")

here = sys.modules["__main__"]
json.dump(
    {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv[1:],
        "path": sys.path,
        "path_importer_cache": sorted(path for path in sys.path_importer_cache if f"{os.sep}freehold" not in path),
        "meta_path": [
            type(finder).__name__ for finder in sys.meta_path if type(finder).__module__ != "freehold.when_imported"
        ],
        "flags": repr(sys.flags),
        "warnoptions": sys.warnoptions,
        "xoptions": repr(sys._xoptions),
        "executable": sys.executable,
        "main": {name: repr(type(value)) for name, value in vars(here).items()},
        "file": vars(here).get("__file__"),
        "package": __package__,
        "spec": getattr(__spec__, "name", None),
        "builtins": type(__builtins__).__name__,
        "modules": sorted(name for name in sys.modules if not name.startswith("freehold") and name != "__future__"),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name not in HIDDEN},
        "stdin": sys.stdin.read() if "read" in sys.argv else None,
    },
    sys.stdout,
)
