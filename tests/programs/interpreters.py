"""Interpreters beside the main one, of the kind its argument names: made, run and ended with blocks alive, in threads (F33)."""

import sys
import threading

import freehold

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

KIND = sys.argv[1]
PROGRAM = """
import sys
kept = [{str(i): [i]} for i in range(5000)]
sys.kept = kept, [bytes(n) for n in range(2000)]
import freehold
assert 'objects' in freehold.install(objects=True).taken
from freehold.face import process_heap
assert process_heap.owns(id(bytes(3000)))
assert freehold.stats().current_count > 0
"""


def create() -> object:
    if sys.version_info >= (3, 13):
        return interpreters.create(KIND)
    return interpreters.create(isolated=KIND == "isolated")


def live() -> None:
    for _ in range(3):
        interpreter = create()
        problem = interpreters.run_string(interpreter, PROGRAM)
        if problem is not None:
            problems.append(problem)
        interpreters.destroy(interpreter)
    # A thread frees its own state without the GIL when it ends; where Python, in another one, makes an interpreter, it has put
    # its default allocators back for a moment (up to 3.13), and the C library would be given what is not its own.
    all_done.wait(timeout=60)


all_done = threading.Barrier(3)
problems: list = []
assert "objects" in freehold.install(objects=True).taken
threads = [threading.Thread(target=live) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not problems, problems
print("well")
