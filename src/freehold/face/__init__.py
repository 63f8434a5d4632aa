"""Compiled modules through which Python meets the core.

Since 3.12 Python warns where a process that forks has other threads than the one that does. The heap can be forked at
any moment, but Python cannot know that of its thread: it ends before `os.fork`, and begins again after it where it was
at work. The hooks are C functions, since some versions count threads after the last of them: what resumes leaves
the beginning to the first instruction in Python behind the fork.

Raises:
    ImportError: there are no compiled modules for this very Python; their sources, where they lie beside, are none.
"""

import _imp
import sys


def _check() -> None:
    found = (finder.find_spec(f"{__name__}.process_heap", __path__) for finder in sys.meta_path)
    spec = next(filter(None, found), None)
    suffix = _imp.extension_suffixes()[0]
    if spec is None or not str(spec.origin).endswith(".so"):
        path = f"{__path__[0]}/process_heap{suffix}"
        raise ImportError(
            f"freehold is not built for this Python: there is no {path}. Install it for {sys.executable}: "
            "`pip install freehold`, or in a checkout `make install`",
            name=f"{__name__}.process_heap",
            path=path,
        )


_check()

if sys.version_info >= (3, 12):
    import os

    from freehold.face import process_heap

    os.register_at_fork(before=process_heap.rest, after_in_parent=process_heap.resume)
