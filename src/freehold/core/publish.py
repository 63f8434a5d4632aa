"""The published page: what this process's heaps hold, where other processes of its owner can read it.

Thread-safety: one thread writes, the reclaim thread, under its lock, from where `publish_bell` makes the page on. Other
processes read whenever they like.
Invariants: nothing that others can write is followed: the sequence and the sizes are kept here too. The page is a
memory file without a name: it can not be cut short under us, it ends with the process however that ends, and no file
system is asked for anything. A forked child has neither the file nor the mapping, and makes its own.
Does not lock a heap while it writes: each layer is read as `freehold.stats()` reads it, then written.
Follows: the sequence locks of the kernel's vDSO.
"""

import cython
from cython.cimports.freehold.core.account import (
    HeapStats,
    account_add_class,
    account_add_extents,
    account_add_pool,
    account_add_process,
    account_add_spans,
    account_take_held,
)
from cython.cimports.freehold.core.budget import budget_books, budget_limit, budget_refusals, budget_used
from cython.cimports.freehold.core.home import HOME_NAME_WORDS, Heap, home_extents, home_large
from cython.cimports.freehold.core.large import LARGE_POOLS
from cython.cimports.freehold.core.machine import (
    close,
    fetch_add64,
    getenv,
    getpid,
    least,
    load32_relaxed,
    load64_relaxed,
    memcpy,
    memset,
    munmap,
    now_ns,
    store64_relaxed,
    store64_release,
    strncmp,
)
from cython.cimports.freehold.core.publish import (
    PAGE_BYTES,
    PAGE_CALLS,
    PAGE_EXTENT,
    PAGE_HEAPS,
    PAGE_HUGE,
    PAGE_IS_BUSY,
    PAGE_IS_SECURE,
    PAGE_IS_SUM,
    PAGE_LARGE,
    PAGE_OPEN_TRIES,
    PAGE_SMALL,
    PAGE_VERSION,
    Page,
    PublishedHeap,
    PublishedLayer,
    PublishedProcess,
    page_file,
    page_inode,
    page_map,
    page_profile,
)
from cython.cimports.freehold.core.ranges import Range, RangeBook, ranges_of_heap
from cython.cimports.freehold.core.reclaim import reclaim_ticks
from cython.cimports.freehold.core.sizes import sizes_log2
from cython.cimports.freehold.core.space import space_base, space_size
from cython.cimports.freehold.core.vm import VM_CALLS, vm_read_stats
from cython.cimports.libc.stdint import uint32_t, uint64_t

page_is_hidden = cython.declare(cython.bint)  # constant after boot
page_is_said = cython.declare(cython.bint)  # whether it is was said before boot
the_page = cython.declare(cython.pointer[Page])  # NULL: there is none; this and the rest are the reclaim thread's
the_page_file = cython.declare(cython.int)  # a number of this process; the program may have closed it
the_page_inode = cython.declare(uint64_t)  # which file that is
the_page_tries = cython.declare(uint32_t)  # that failed
the_page_records = cython.declare(uint64_t)  # written so far, of those being published
the_page_books = cython.declare(uint64_t)  # bytes mapped for books of those heaps, found so far
the_page_ranges = cython.declare(RangeBook)  # in the page, behind the records
purge_heard = cython.declare(uint32_t)  # the readers' word when it was last looked at
map_heard = cython.declare(uint32_t)  # … and the others
profile_heard = cython.declare(uint32_t)
profile_done_heard = cython.declare(uint32_t)
the_profile_file = cython.declare(cython.int)  # 1 + its number; 0: none
the_profile_inode = cython.declare(uint64_t)
profiles_written = cython.declare(uint64_t)
purges_done = cython.declare(uint64_t)
purges_bytes = cython.declare(uint64_t)


def publish_boot() -> cython.void:
    global page_is_hidden
    wish: cython.p_char = getenv(b"FREEHOLD_PUBLISH")
    if not page_is_said:
        page_is_hidden = wish != cython.NULL and strncmp(wish, b"no", 3) == 0


def publish_hide(wish: cython.bint) -> cython.void:
    global page_is_hidden, page_is_said
    page_is_hidden = wish
    page_is_said = True


def publish_is_wanted() -> cython.bint:
    return not page_is_hidden


# ---- the page ----


def publish_bell() -> cython.pointer[uint32_t]:
    """A program that became a daemon may have closed every file it did not know: then nobody finds the page."""
    if the_page != cython.NULL and page_inode(the_page_file) != the_page_inode:
        publish_close()
    if the_page == cython.NULL and the_page_tries < PAGE_OPEN_TRIES:
        publish_open()
    return cython.NULL if the_page == cython.NULL else cython.address(the_page.knock.bell)


def publish_open() -> cython.void:
    global the_page, the_page_file, the_page_inode, the_page_tries
    global purge_heard, map_heard, profile_heard, profile_done_heard
    fd: cython.int = page_file(PAGE_BYTES)
    at: cython.p_void = cython.NULL
    if fd >= 0:
        at = page_map(fd, PAGE_BYTES)
    if at == cython.NULL:
        the_page_tries += 1
        if fd >= 0:
            close(fd)
        return
    the_page = cython.cast(cython.pointer[Page], at)
    the_page_file = fd
    the_page_inode = page_inode(fd)
    the_page.head.version = PAGE_VERSION
    the_page.head.bytes = PAGE_BYTES
    the_page.head.pid = getpid()
    the_page.head.opened_ns = now_ns()
    the_page.head.space = space_base() | sizes_log2(space_size())
    purge_heard = 0
    map_heard = 0
    profile_heard = 0
    profile_done_heard = 0
    memcpy(the_page.head.magic, cython.cast(cython.p_const_char, b"freehold"), 8)


def publish_close() -> cython.void:
    """Unmap it. The number of its file is not closed: by now it is another file's, or nobody's."""
    global the_page
    munmap(the_page, PAGE_BYTES)
    the_page = cython.NULL


def publish_forget() -> cython.void:
    """In a forked child, where the mapping is not: let go of the parent's file."""
    global the_page, the_page_tries
    if the_page != cython.NULL and page_inode(the_page_file) == the_page_inode:
        close(the_page_file)
    the_page = cython.NULL
    the_page_tries = 0
    publish_close_profile()


# ---- what is in it ----


def publish_takes_purge() -> cython.bint:
    global purge_heard
    asked: uint32_t = load32_relaxed(cython.address(the_page.knock.purge))
    if asked == purge_heard:
        return False
    purge_heard = asked
    return True


def publish_note_purge(bytes: uint64_t) -> cython.void:
    global purges_done, purges_bytes
    purges_done += 1
    purges_bytes += bytes


def publish_begin() -> cython.void:
    global the_page_records, the_page_books
    the_page_records = 0
    the_page_books = 0
    memset(cython.address(the_page_ranges), 0, cython.sizeof(RangeBook))
    fetch_add64(cython.address(the_page.head.sequence), 1)  # what follows is not seen before it


def publish_takes_map() -> cython.bint:
    """The ranges stand behind the records, as many as there is room for."""
    global map_heard
    asked: uint32_t = load32_relaxed(cython.address(the_page.knock.map))
    if asked == map_heard:
        return False
    map_heard = asked
    start: uint64_t = cython.cast(uint64_t, cython.address(the_page.heap[0]))
    start += the_page_records * cython.sizeof(PublishedHeap)
    the_page_ranges.range = cython.cast(cython.pointer[Range], start)
    the_page_ranges.room = (cython.cast(uint64_t, the_page) + PAGE_BYTES - start) // cython.sizeof(Range)
    return True


# ---- the profile, in a file of its own ----


def publish_takes_profile(ms: cython.pointer[uint64_t]) -> cython.bint:
    global profile_heard
    asked: uint32_t = load32_relaxed(cython.address(the_page.knock.profile))
    if asked == profile_heard:
        return False
    profile_heard = asked
    ms[0] = load32_relaxed(cython.address(the_page.knock.profile_ms))
    return True


def publish_profile_file() -> cython.int:
    publish_close_profile()
    return page_profile()


def publish_profile(fd: cython.int) -> cython.void:
    global the_profile_file, the_profile_inode, profiles_written, profile_done_heard
    the_profile_file = fd + 1
    the_profile_inode = page_inode(fd)
    if the_page == cython.NULL:  # a forked child, whose parent was asked: nobody reads it
        publish_close_profile()
        return
    number: uint64_t = fd if fd > 0 else 0
    profiles_written += 1
    profile_done_heard = load32_relaxed(cython.address(the_page.knock.profile_done))
    store64_release(cython.address(the_page.knock.profile_file), profiles_written << 32 | number)


def publish_profile_over() -> cython.void:
    global profile_done_heard
    done: uint32_t = load32_relaxed(cython.address(the_page.knock.profile_done))
    if done != profile_done_heard:
        profile_done_heard = done
        publish_close_profile()


def publish_close_profile() -> cython.void:
    """A program may have closed it, and have another file by that number."""
    global the_profile_file
    if the_profile_file and page_inode(the_profile_file - 1) == the_profile_inode:
        close(the_profile_file - 1)
    the_profile_file = 0


def publish_ranges(h: cython.pointer[Heap]) -> cython.void:
    ranges_of_heap(h, cython.address(the_page_ranges))


def publish_end(heaps: uint64_t, now: uint64_t) -> cython.void:
    publish_process(heaps, now)
    bytes: uint64_t = cython.sizeof(PublishedProcess) + the_page_records * cython.sizeof(PublishedHeap)
    bytes += the_page_ranges.count * cython.sizeof(Range)
    words: cython.pointer[uint64_t] = cython.cast(cython.pointer[uint64_t], cython.address(the_page.process))
    sum: uint64_t = 0
    i: uint64_t = 0
    while i < bytes // 8:
        sum += words[i]
        i += 1
    store64_relaxed(cython.address(the_page.head.checksum), sum)
    store64_relaxed(cython.address(the_page.head.body_bytes), bytes)
    store64_release(cython.address(the_page.head.sequence), load64_relaxed(cython.address(the_page.head.sequence)) + 1)


def publish_process(heaps: uint64_t, now: uint64_t) -> cython.void:
    all = cython.declare(HeapStats)
    memset(cython.address(all), 0, cython.sizeof(HeapStats))
    account_add_process(cython.address(all))
    p: cython.pointer[PublishedProcess] = cython.address(the_page.process)
    p.now_ns = now
    p.heaps = heaps
    p.records = the_page_records
    p.ticks = reclaim_ticks()
    p.purges = purges_done
    p.purges_bytes = purges_bytes
    p.metadata = all.metadata + the_page_books
    p.purged = all.purged
    p.purge_calls = all.purge_calls
    p.os_failures = all.os_failures
    p.bad_frees = all.bad_frees
    p.ranges = the_page_ranges.count
    p.ranges_left_out = the_page_ranges.left_out
    p.calls = least(VM_CALLS, PAGE_CALLS)
    i: uint32_t = 0
    while i < p.calls:
        vm_read_stats(i, cython.address(p.call[i]))
        i += 1


def publish_heap(h: cython.pointer[Heap]) -> cython.void:
    """Write the next record; where there is room for no more, add to the last one."""
    global the_page_books
    is_sum: cython.bint = the_page_records == PAGE_HEAPS
    into: cython.pointer[PublishedHeap] = cython.address(the_page.heap[the_page_records - is_sum])
    if not is_sum:
        publish_first(h, into)
    else:
        into.flags |= PAGE_IS_SUM
        into.limit = ~cython.cast(uint64_t, 0)
        memset(into.name, 0, cython.sizeof(into.name))
    into.flags |= (PAGE_IS_SECURE if h.config.secure else 0) | (PAGE_IS_BUSY if h.busy else 0)
    into.count += 1
    into.used += budget_used(cython.address(h.budget))
    into.peak += load64_relaxed(cython.address(h.budget.most))
    into.refused += budget_refusals(cython.address(h.budget))
    into.metadata += budget_books(cython.address(h.budget))
    the_page_books += load64_relaxed(cython.address(h.primary.metadata))
    publish_layers(h, into)


def publish_first(h: cython.pointer[Heap], into: cython.pointer[PublishedHeap]) -> cython.void:
    """Begin a record."""
    global the_page_records
    the_page_records += 1
    memset(into, 0, cython.sizeof(PublishedHeap))
    into.id = h.id
    into.limit = budget_limit(cython.address(h.budget))
    into.decay_ns = h.config.decay_ns
    i: uint32_t = 0
    while i < HOME_NAME_WORDS:
        into.name[i] = load64_relaxed(cython.address(h.name[i]))
        i += 1


def publish_layers(h: cython.pointer[Heap], into: cython.pointer[PublishedHeap]) -> cython.void:
    """The thread has every signal blocked, so it need not enter a cache of its own before it takes locks."""
    s = cython.declare(HeapStats)
    memset(cython.address(s), 0, cython.sizeof(HeapStats))
    i: uint32_t = 0
    while i < h.primary.classes:
        account_add_class(h, i, cython.address(s))
        i += 1
    account_take_held(h, cython.address(s))
    publish_layer(cython.address(into.layer[PAGE_SMALL]), cython.address(s))
    memset(cython.address(s), 0, cython.sizeof(HeapStats))
    if home_extents(h) != cython.NULL:
        account_add_extents(h, cython.address(s))
    publish_layer(cython.address(into.layer[PAGE_EXTENT]), cython.address(s))
    memset(cython.address(s), 0, cython.sizeof(HeapStats))
    i = 0
    while i < LARGE_POOLS and home_large(h) != cython.NULL:
        account_add_pool(h, i, cython.address(s))
        i += 1
    publish_layer(cython.address(into.layer[PAGE_LARGE]), cython.address(s))
    memset(cython.address(s), 0, cython.sizeof(HeapStats))
    account_add_spans(h, cython.address(s))
    publish_layer(cython.address(into.layer[PAGE_HUGE]), cython.address(s))


def publish_layer(into: cython.pointer[PublishedLayer], s: cython.pointer[cython.const[HeapStats]]) -> cython.void:
    into.allocated += s.allocated
    into.active += s.active
    into.dirty += s.dirty
    into.muzzy += s.muzzy
    into.retained += s.retained
    into.cached += s.cached
    into.blocks += s.blocks
    into.allocations += s.allocations
