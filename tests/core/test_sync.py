"""sync: locks, and the witness that sees them taken out of order."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from freehold.face.probe import Lock, held, name_of_rank

if TYPE_CHECKING:
    from conftest import Run

RANKS = [
    "install",
    "reclaim",
    "profile",
    "heaps",
    "heap",
    "large refill",
    "large",
    "extents",
    "pages",
    "caches",
    "region",
    "arena",
    "space",
    "samples",
    "leaf",
]
SIGABRT = -6


def rank(name: str) -> int:
    return RANKS.index(name) + 1


def in_threads(*functions: object) -> None:
    threads = [threading.Thread(target=f) for f in functions]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_every_rank_has_its_name() -> None:
    """Ranks are named outermost first, as a fatal message names them."""
    assert RANKS == [name_of_rank(r) for r in range(1, len(RANKS) + 1)]
    assert "unranked" == name_of_rank(len(RANKS) + 1)


@pytest.mark.parametrize("threads", [2, 8])
def test_one_thread_at_a_time_holds_a_lock(threads: int) -> None:
    """Plain additions under the lock, from threads without the GIL, lose nothing."""
    lock, counter, times = Lock(rank("leaf")), np.zeros(1, dtype=np.uint64), 400_000 // threads

    in_threads(*[lambda: lock.add_under_lock(counter.ctypes.data, times)] * threads)

    assert threads * times == counter[0]


def test_a_waiter_sleeps_until_the_lock_is_free() -> None:
    """A thread that finds the lock held waits for it, however long, and gets it."""
    lock, counter = Lock(rank("leaf")), np.zeros(1, dtype=np.uint64)
    lock.lock()
    waiter = threading.Thread(target=lock.add_under_lock, args=(counter.ctypes.data, 1))
    waiter.start()
    waiter.join(0.05)

    assert (True, 0) == (waiter.is_alive(), counter[0])
    lock.unlock()
    waiter.join()
    assert 1 == counter[0]


def test_trying_a_held_lock_fails_at_once() -> None:
    """try takes a free lock and leaves a held one alone, whoever holds it."""
    lock, tried = Lock(rank("leaf")), []

    assert lock.try_lock()
    assert not lock.try_lock()
    in_threads(lambda: tried.append(lock.try_lock()))
    lock.unlock()
    assert [False] == tried
    assert 0 == held()


def test_locks_may_be_dropped_in_any_order() -> None:
    """What a thread holds is counted, whatever the order of release."""
    locks = [Lock(rank(name)) for name in ("heaps", "extents", "pages")]
    for lock in locks:
        lock.lock()

    assert 3 == held()
    for lock in (locks[1], locks[0], locks[2]):
        lock.unlock()
    assert 0 == held()


def test_equal_ranks_are_taken_in_order_of_address() -> None:
    """Two regions of a heap may be held together, the lower address first."""
    low, high = sorted((Lock(rank("region")), Lock(rank("region"))), key=lambda lock: lock.address)
    low.lock()
    high.lock()

    assert 2 == held()
    high.unlock()
    low.unlock()


def test_a_lock_that_is_only_tried_may_be_out_of_order() -> None:
    """A try cannot deadlock: the witness remembers it, but does not mind its rank."""
    inner, outer = Lock(rank("pages")), Lock(rank("heaps"))
    inner.lock()

    assert outer.try_lock()
    assert 2 == held()
    outer.unlock()
    inner.unlock()


def test_a_forked_child_may_reset_a_lock_whoever_held_it() -> None:
    """reset frees a lock that another thread holds, and one that this thread holds."""
    lock = Lock(rank("leaf"))
    in_threads(lock.lock)

    lock.reset()
    lock.lock()
    lock.reset()

    assert 0 == held()
    assert lock.try_lock()
    lock.unlock()


CRIMES = {
    "reversal": (
        f"pages = Lock({rank('pages')}); heaps = Lock({rank('heaps')}); pages.lock(); heaps.lock()",
        "freehold: fatal: lock 'heaps' taken while holding lock 'pages'\n",
    ),
    "reversal_after_a_try": (
        f"a, b, c = Lock({rank('pages')}), Lock({rank('heaps')}), Lock({rank('large')}); a.lock(); b.try_lock(); c.lock()",
        "freehold: fatal: lock 'large' taken while holding lock 'pages'\n",
    ),
    "equal_ranks_downward": (
        f"low, high = sorted((Lock({rank('region')}), Lock({rank('region')})), key=lambda lock: lock.address); high.lock(); low.lock()",
        "freehold: fatal: lock 'region' taken while holding lock 'region'\n",
    ),
    "recursion": (
        f"leaf = Lock({rank('leaf')}); leaf.lock(); leaf.lock()",
        "freehold: fatal: lock 'leaf' taken while holding lock 'leaf'\n",
    ),
    "unlock_of_a_free_lock": (
        f"Lock({rank('space')}).unlock()",
        "freehold: fatal: lock 'space' released by a thread that does not hold it\n",
    ),
    "lock_kept_on_leaving": (
        f"lock = Lock({rank('extents')}); lock.lock(); none_held(b'allocate')",
        "freehold: fatal: lock 'extents' held on entering or leaving allocate\n",
    ),
}


@pytest.mark.parametrize("crime", CRIMES)
def test_the_witness_aborts_and_names_the_locks(crime: str, run_program: Run) -> None:
    """Each crime aborts the process after one line that says which locks."""
    program, last_words = CRIMES[crime]

    result = run_program("from freehold.face.probe import *\n" + program)

    assert (SIGABRT, last_words) == (result.returncode, result.stderr)


def test_the_witness_lets_a_clean_program_be(run_program: Run) -> None:
    """Locks in order, dropped, and none held: nothing is said."""
    orderly = "a, b = Lock(3), Lock(8); a.lock(); b.lock(); b.unlock(); a.unlock(); none_held(b'x')"
    result = run_program("from freehold.face.probe import *\n" + orderly)

    assert (0, "") == (result.returncode, result.stderr)
