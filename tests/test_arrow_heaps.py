"""`Heap.arrow_pool()`: Arrow's buffers in a heap: counted, bounded, and there as long as somebody has one."""

from arrow_programs import well


def test_H2_H3_a_heaps_pool_is_counted_and_bounded():
    """Its buffers are the heap's blocks; over the limit: ArrowMemoryError, with figures; after a free, there is room."""
    well("""
import pyarrow as pa, pyarrow.compute as pc
MIB = 1 << 20
heap = freehold.Heap("etl", limit="16MiB")
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as threads: (pool,) = set(threads.map(lambda _: heap.arrow_pool(), range(50)))
assert pool is heap.arrow_pool() and pool.backend_name == "freehold"
array = pa.array(range(100_000), memory_pool=pool)
assert owned(array) == {True} and heap.stats().current_count == 1 and 800_000 <= pool.bytes_allocated() < 900_000
b = pa.allocate_buffer(1000, pool, resizable=True)
at, n = b.address, 1000
bytes_of(b)[:1000] = bytes([7]) * 1000
while n < 3 * MIB:
    n = n * 3 // 2
    b.resize(n)
    assert b.address % 64 == 0 and bytes_of(b)[:1000] == bytes([7]) * 1000
for ask in (lambda: pa.allocate_buffer(20 * MIB, pool), lambda: b.resize(20 * MIB)):
    try:
        ask()
    except pa.ArrowMemoryError as problem:
        assert isinstance(problem, MemoryError)
        assert all(word in str(problem) for word in ("'etl'", f"asked {20 * MIB}", f"limit {16 * MIB}", "in use"))
    else:
        raise AssertionError("20 MiB in a heap of 16")
assert b.size == n and bytes_of(b)[:1000] == bytes([7]) * 1000 and array[99_999].as_py() == 99_999
assert heap.stats().peak_bytes <= 16 * MIB
heap.check()
b.resize(100, shrink_to_fit=True)
assert len(pa.allocate_buffer(9 * MIB, pool)) == 9 * MIB
del b, array
assert heap.stats().current_count == 0 and pool.bytes_allocated() == 0 < pool.max_memory()
before = pa.allocate_buffer(0, pool), pa.default_memory_pool().bytes_allocated()
table = pa.table({"a": pa.array(range(1000), memory_pool=pool)})
assert owned(pc.add(table["a"], 1, memory_pool=pool)) == {True} and before[1] == pa.default_memory_pool().bytes_allocated()
heap.check()
""")


def test_H3_F18_threads_racing_to_the_limit_and_a_callback_that_makes_room():
    """`on_limit` is asked from Arrow's calls, too; no figure ever passes the limit, and nothing is left."""
    well("""
import random, threading
import pyarrow as pa
asked, hoard = [], []
def make_room(heap, size):
    asked.append(size)
    if hoard: hoard.pop(); return True
    return False
heap = freehold.Heap("asking", limit="12MiB", on_limit=make_room)
pool = heap.arrow_pool()
hoard.append(pa.allocate_buffer(8 << 20, pool))
assert len(pa.allocate_buffer(7 << 20, pool)) == 7 << 20 and asked == [7 << 20]
refused = []
def work(number):
    roll, live = random.Random(number), []
    for _ in range(300):
        try:
            live.append(pa.allocate_buffer(roll.randrange(1, 1 << 20), pool, resizable=True))
            live[roll.randrange(len(live))].resize(roll.randrange(1 << 19))
        except pa.ArrowMemoryError:
            refused.append(number)
            live = live[len(live) // 2 + 1 :]
threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert refused and heap.stats().peak_bytes <= 12 << 20
assert heap.stats().current_count == 0 and pool.bytes_allocated() == 0
heap.check()
heap.close()
def end(heap, size): heap.close(force=True)
heap = freehold.Heap("ended from within", limit="12MiB", on_limit=end)
pool = heap.arrow_pool()
kept = pa.allocate_buffer(5 << 20, pool, resizable=True)
try:
    kept.resize(20 << 20)
except pa.ArrowMemoryError as problem:
    assert "is closed" in str(problem) and heap.closed
del kept
assert pool.bytes_allocated() == 0
dropped = []
def drop(heap, size): dropped.append(size)
pool = freehold.Heap("dropped", limit="12MiB", on_limit=drop).arrow_pool()
try: pa.allocate_buffer(20 << 20, pool)
except pa.ArrowMemoryError as problem: assert not dropped and "'dropped'" in str(problem)  # the Heap is gone: nobody to ask
""")


def test_H2_a_closed_heap_refuses_and_takes_back():
    """Not closed while buffers live; then it refuses; forced, what lives may still shrink and go back, and no more."""
    well("""
import pyarrow as pa
def refused(ask):
    try: ask()
    except pa.ArrowMemoryError as problem: return "is closed" in str(problem)
for force in (False, True):
    heap = freehold.Heap("over")
    pool = heap.arrow_pool()
    buffers = [pa.allocate_buffer(n, pool, resizable=True) for n in (100, 10_000, 300_000, 4 << 20)]
    try:
        heap.close()
    except freehold.BlocksLive as problem:
        assert problem.blocks == 4
    else:
        raise AssertionError("closed with live buffers")
    buffers.append(pa.allocate_buffer(100, pool, resizable=True))
    if not force: del buffers[:]
    heap.close(force=force)
    assert heap.closed and refused(lambda: pa.allocate_buffer(100, pool))
    for b in buffers:
        assert refused(lambda: b.resize(b.size * 2))
        b.resize(b.size // 2, shrink_to_fit=True)
    empty = pa.allocate_buffer(0, pool, resizable=True)
    assert refused(lambda: empty.resize(1))
    b = buffers = empty = None
    assert pool.bytes_allocated() == 0
""")


def test_H2_buffers_outlive_the_pool_and_the_heap_and_the_last_one_ends_it():
    """Whoever holds a buffer has its memory, unchanged; whoever holds the pool can go on; then the heap is closed."""
    well("""
import ctypes, gc, threading, time
import pyarrow as pa
def settle():  # where a thread is in the heap's cache at that moment, the reclaim thread ends it
    end = time.monotonic() + 20
    while count() != start and time.monotonic() < end: time.sleep(0.01)
    assert count() == start, count()
library = ctypes.CDLL(process_heap.__file__.rpartition("/face/")[0] + "/libfreehold.so")
library.fh_heaps_count.restype = ctypes.c_uint64
count = lambda: library.fh_heaps_count()
freehold.stats()  # the default heap is open
start = count()
pool = freehold.Heap("pool alone").arrow_pool()
gc.collect()
assert count() == start + 1
array = pa.array(range(100_000), memory_pool=pool)
del pool
gc.collect()
assert count() == start + 1 and array.to_pylist() == list(range(100_000))
thread = threading.Thread(target=lambda kept: kept.clear(), args=([array],))
del array
thread.start(); thread.join(); del thread
gc.collect()
settle()
for _ in range(50):  # with nothing in it, it goes with the last who has it
    freehold.Heap().arrow_pool()
gc.collect()
settle()
for _ in range(20):  # freed by several threads at once, which one is the last is chance
    heap = freehold.Heap()
    kept = [[pa.array(range(100), memory_pool=heap.arrow_pool()) for _ in range(50)] for _ in range(4)]
    del heap
    threads = [threading.Thread(target=part.clear) for part in kept]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
gc.collect()
settle()
""")


def test_H2_a_heap_that_is_closed_while_others_allocate_in_it():
    """Each request is served or refused, `close()` closes or says that blocks live, and nothing breaks."""
    well("""
import threading, time
import pyarrow as pa
for turn in range(12):
    heap = freehold.Heap("contested", limit="64MiB", on_limit=lambda heap, asked: False)
    pool, stop, closed = heap.arrow_pool(), threading.Event(), []
    def work():
        while not stop.is_set():
            try: pa.allocate_buffer(200_000 if turn % 2 else 100, pool, resizable=True).resize(300_000)
            except pa.ArrowMemoryError: pass
            time.sleep(0.001)
    def close():
        while not heap.closed:
            try: heap.close()
            except freehold.BlocksLive: pass
        closed.append(True)
    workers, closers = [threading.Thread(target=work) for _ in range(3)], [threading.Thread(target=close) for _ in range(2)]
    for thread in workers + closers: thread.start()
    for thread in closers: thread.join()
    stop.set()
    for thread in workers: thread.join()
    assert closed == [True, True] and pool.bytes_allocated() == 0
""")
