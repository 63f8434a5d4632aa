"""Compiled modules through which Python meets the core.

Since 3.12 Python warns where a process that forks has other threads than the one that does. The heap can be forked at
any moment, but Python cannot know that of its thread: it ends before `os.fork`, and begins again after it where it was
at work. The hooks are C functions, since some versions count threads after the last of them: what resumes leaves
the beginning to the first instruction in Python behind the fork.
"""

import sys

if sys.version_info >= (3, 12):
    import os

    from freehold.face import process_heap

    os.register_at_fork(before=process_heap.rest, after_in_parent=process_heap.resume)
