"""Starts freehold before the program, then makes way for the program's own `sitecustomize`.

It is found first because `freehold run` puts this folder in PYTHONPATH. Children inherit that, so Python may be any
version here.
Leaves no trace: the folder leaves `sys.path`, and `sys.modules` ends up as if this file did not exist.
"""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _here]
sys.path_importer_cache.pop(_here, None)

if sys.version_info >= (3, 11):
    _packages = os.path.dirname(os.path.dirname(_here))
    sys.path.insert(0, _packages)  # the freehold that this file belongs to, wherever that is
    try:
        try:
            import freehold
        finally:
            sys.path.remove(_packages)
        import freehold.view.at_end

        freehold.view.at_end.begin()
        if os.environ.get("FREEHOLD", "0") != "0":
            import freehold.start

            freehold.start.start()
    except Exception as problem:
        sys.stderr.write("freehold: not started: %s: %s\n" % (type(problem).__name__, problem))

# If there is none, this raises what Python expects when there is none.
del sys.modules["sitecustomize"]
import sitecustomize  # noqa: E402, F401
