# cython: language_level=3
"""The page allocator as Python meets it: which pages of some addresses, ids or blocks are in use.

Thread-safety: every method may be called from any thread; the GIL is released around the core.
Invariant: a call that raises has changed nothing.
Does not: map the memory it hands out; with ``backed=False`` no address is ever touched.
"""

from typing import NamedTuple

import cython
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_FOREIGN, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.pagebook import (
    Pages,
    PagesCache,
    PagesWrong,
    pages_check,
    pages_corrupt,
    pages_wrong_text,
)
from cython.cimports.freehold.core.pagecache import pages_cache_allocate, pages_cache_fill, pages_cache_flush
from cython.cimports.freehold.core.pages import (
    PagesStats,
    pages_allocate,
    pages_allocate_range,
    pages_close,
    pages_find,
    pages_free,
    pages_grow,
    pages_huge_metadata,
    pages_next_known,
    pages_open,
    pages_read_chunk,
    pages_read_stats,
    pages_read_summary,
    pages_search_address,
)
from cython.cimports.freehold.core.scavenge import pages_scavenge, pages_shrink
from cython.cimports.freehold.core.tract import CHUNK_PAGES, Summary
from cython.cimports.freehold.core.vm import vm_facts
from cython.cimports.libc.errno import EEXIST
from cython.cimports.libc.stdint import uint32_t, uint64_t

from freehold._arguments import WORD, any_integer, integer, power_of_two, size_of
from freehold.errors import BadFree, Inconsistent, OSRefused
from freehold.face.vm_face import DEBUG

heap_boot()

LEVELS = 5
REASONS = {FREE_DOUBLE: "double", FREE_FOREIGN: "foreign", FREE_INTERIOR: "misaligned"}


class Chunk(NamedTuple):
    """The bitmaps of one chunk, 512 bits each; bit 0 is the lowest page."""

    in_use: int
    scavenged: int


class Sum(NamedTuple):
    """How many pages of a stretch are free: at its start, in its longest run, at its end."""

    start: int
    max: int
    end: int


@cython.cfunc
def page_count(name: str, value: object) -> uint64_t:
    """Return a number of pages, at least 1. What no word can hold is as good as the largest word: neither fits."""
    number = any_integer(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return min(number, WORD - 1)


@cython.cfunc
def bits512(words: cython.pointer[uint64_t]) -> object:
    """Return eight words as one int, the first lowest."""
    result: object = 0
    for i in range(8):
        word: object = words[i]
        result |= word << (64 * i)
    return result


@cython.final
@cython.cclass
class PageAllocator:
    """Address-ordered first fit over pages: what Go's runtime does for its heap.

    It works as well without memory behind it, as the book of any range of addresses, ids or blocks: ``page_size`` is
    then how far apart two of them are.

    Args:
        address_bits: addresses lie below 2 to this power.
        page_size: a power of two. A chunk, what it grows by, is 512 pages.
        huge_page_size: scavenging does not split a free page of this size; 0: there are none.
        backed: there is memory behind the addresses, mapped by the caller; `scavenge` gives it back to the OS.

    Attributes:
        chunk_size: bytes of a chunk.
        levels: address bits that each level of summaries resolves.
        in_use: the known ranges, ``(base, limit)``, ascending, merged.
        search_address: no free page lies below it; None when no page is free.

    Example:
        >>> with PageAllocator() as pages:
        ...     pages.grow(0, pages.chunk_size)
        ...     pages.allocate(3)
        (0, 24576)

    Thread-safety: any method, any thread.
    """

    _pages: Pages
    _closed: cython.bint
    _address_bits: uint32_t
    _limit: object  # one past the last address
    _page_size: uint64_t
    _backed: cython.bint

    def __cinit__(self, *, address_bits=48, page_size=8192, huge_page_size=2 << 20, backed=False):
        self._closed = True
        page = power_of_two("page_size", page_size, 1, 2**36)
        chunk = page * CHUNK_PAGES
        bits = integer("address_bits", address_bits, chunk.bit_length() - 1 + 12, 57)
        huge = (
            power_of_two("huge_page_size", huge_page_size, 1, chunk) if integer("huge_page_size", huge_page_size) else 0
        )
        if backed and page < vm_facts().page_size:
            raise ValueError(
                f"page_size must be at least the OS page of {vm_facts().page_size} bytes when backed, not {page}"
            )
        self._address_bits = bits
        self._limit = 2**bits
        self._page_size = page
        self._backed = bool(backed)
        pages_open(cython.address(self._pages), bits, page.bit_length() - 1, huge, self._backed)
        self._closed = False

    def __dealloc__(self):
        if not self._closed:
            pages_close(cython.address(self._pages))

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Forget everything and give the tables back. The memory of the pages is the caller's and stays as it is."""
        if not self._closed:
            self._closed = True
            with cython.nogil:
                pages_close(cython.address(self._pages))

    @cython.cfunc
    def _check_open(self) -> object:
        if self._closed:
            raise ValueError("this PageAllocator is closed")

    @property
    def chunk_size(self) -> int:
        self._check_open()
        return self._page_size * CHUNK_PAGES

    @property
    def levels(self) -> tuple:
        self._check_open()
        return (self._root_bits(), 3, 3, 3, 3)

    @cython.cfunc
    def _root_bits(self) -> object:
        return self._address_bits - (int(self._page_size) * CHUNK_PAGES).bit_length() + 1 - 12

    def grow(self, base, size) -> None:
        """Know a range from now on; its pages are free, and count as scavenged.

        Args:
            base: its first address, a multiple of the chunk size.
            size: its bytes, a multiple of the chunk size.

        Raises:
            ValueError: the range overlaps known memory, or ends outside the address space.
            OSRefused: there was no room for the tables.
        """
        self._check_open()
        chunk = self.chunk_size
        first = integer("base", base, 0, (self._limit) - 1)
        if first % chunk:
            raise ValueError(f"base must be a multiple of {chunk}, not {first}")
        number = size_of("size", size, chunk)
        if first + number > self._limit:
            raise ValueError(
                f"size must not lead out of {self._address_bits} address bits, as {number} does from {first:#x}"
            )
        at: uint64_t = first
        n: uint64_t = number
        error: cython.int
        with cython.nogil:
            error = pages_grow(cython.address(self._pages), at, n)
        if error:
            self._check_open()
        if error == EEXIST:
            raise ValueError(f"base and size overlap known memory: {first:#x} to {first + number:#x}")
        if error:
            raise OSRefused(errno=error, call="map", layer="pages", asked=number)

    def chunk(self, i) -> Chunk:
        """Return the bitmaps of chunk i, the one at address ``i * chunk_size``.

        Raises:
            KeyError: that chunk is not known.
        """
        self._check_open()
        number = any_integer("i", i)
        used = cython.declare(uint64_t[8])
        scavenged = cython.declare(uint64_t[8])
        known: cython.bint = 0 <= number < 2**48
        if known:
            index: uint64_t = number
            with cython.nogil:
                known = pages_read_chunk(cython.address(self._pages), index, used, scavenged)
        if not known:
            raise KeyError(number)
        return Chunk(bits512(used), bits512(scavenged))

    def summary(self, level, i) -> Sum:
        """Return what the tree says of stretch i at a level, 0 being the root: see `levels`.

        Raises:
            IndexError: there is no such level, or no such stretch in it.
        """
        self._check_open()
        at: uint32_t = 0
        index: uint64_t = 0
        at, index = self._entry(level, i)
        sum = cython.declare(Summary)
        with cython.nogil:
            pages_read_summary(cython.address(self._pages), at, index, cython.address(sum))
        return Sum(sum.start, sum.max, sum.end)

    @cython.cfunc
    def _entry(self, level: object, i: object) -> tuple:
        number = any_integer("level", level)
        index = any_integer("i", i)
        if not 0 <= number < LEVELS:
            raise IndexError(f"level must be from 0 to {LEVELS - 1}, not {number}")
        entries = 2 ** (self._root_bits() + 3 * number)
        if not 0 <= index < entries:
            raise IndexError(f"i must be from 0 to {entries - 1} at level {number}, not {index}")
        return number, index

    @property
    def in_use(self) -> list:
        self._check_open()
        ranges = []
        base: uint64_t = 0
        limit: uint64_t = 0
        while pages_next_known(cython.address(self._pages), limit, cython.address(base), cython.address(limit)):
            ranges.append((base, limit))
        return ranges

    def first_known(self, address):
        """Return the lowest known address at or above this one, or None."""
        self._check_open()
        number = any_integer("address", address)
        if number < 0:
            raise ValueError(f"address must not be negative, not {number}")
        if number >= self._limit:
            return None
        at: uint64_t = number
        base: uint64_t = 0
        limit: uint64_t = 0
        found: cython.bint
        with cython.nogil:
            found = pages_next_known(cython.address(self._pages), at, cython.address(base), cython.address(limit))
        return max(number, base) if found else None

    def allocate(self, npages):
        """Take the lowest run of free pages; return ``(address, scavenged_bytes)``, or None if nothing fits.

        ``scavenged_bytes`` is how much of it the OS has to provide anew at the first touch.
        """
        self._check_open()
        n: uint64_t = page_count("npages", npages)
        address: uint64_t = 0
        scavenged: uint64_t = 0
        found: cython.bint
        with cython.nogil:
            found = pages_allocate(cython.address(self._pages), n, cython.address(address), cython.address(scavenged))
        return (address, scavenged) if found else None

    def allocate_range(self, address, npages) -> int:
        """Take these very pages; return how many bytes of them were scavenged.

        Raises:
            ValueError: a page is unknown or in use.
        """
        self._check_open()
        number = integer("address", address)
        if number % self._page_size:
            raise ValueError(f"address must be a multiple of {self._page_size}, not {number}")
        n: uint64_t = page_count("npages", npages)
        at: uint64_t = number
        scavenged: uint64_t = 0
        taken: cython.bint
        with cython.nogil:
            taken = pages_allocate_range(cython.address(self._pages), at, n, cython.address(scavenged))
        if not taken:
            self._check_open()  # closed meanwhile: then nothing is known
            raise ValueError(
                f"address and npages name a page that is unknown or in use: {npages} pages from {number:#x}"
            )
        return scavenged

    def free(self, address, npages) -> None:
        """Give pages back. Any run of pages in use will do, whatever calls they came from.

        Raises:
            BadFree: not a page's start ('misaligned'); a page is unknown ('foreign') or free ('double').
        """
        self._check_open()
        number = any_integer("address", address)
        n: uint64_t = page_count("npages", npages)
        if number < 0:
            raise ValueError(f"address must not be negative, not {number}")
        if number >= WORD:
            raise BadFree(address=number, reason="misaligned" if number % self._page_size else "foreign")
        at: uint64_t = number
        state: cython.int
        with cython.nogil:
            state = pages_free(cython.address(self._pages), at, n)
        if state != FREE_OK:
            self._check_open()
            raise BadFree(address=number, reason=REASONS[state])

    @property
    def search_address(self):
        self._check_open()
        address: uint64_t = pages_search_address(cython.address(self._pages))
        return None if address == ~cython.cast(uint64_t, 0) else address

    def find(self, npages):
        """Return ``(address, hint)``: what `allocate` would take, and the lowest free page; or None."""
        self._check_open()
        n: uint64_t = page_count("npages", npages)
        address: uint64_t = 0
        hint: uint64_t = 0
        found: cython.bint
        with cython.nogil:
            found = pages_find(cython.address(self._pages), n, cython.address(address), cython.address(hint))
        return (address, hint) if found else None

    def scavenge(self, nbytes, *, background=False) -> int:
        """Release free pages, highest first, until so many bytes are or none is left; return how many bytes were.

        What the OS refuses to take stays free and is tried again at the next call.
        """
        self._check_open()
        number = any_integer("nbytes", nbytes)
        if number < 0:
            raise ValueError(f"nbytes must not be negative, not {number}")
        n: uint64_t = min(number, WORD - 1)
        is_background: cython.bint = bool(background)
        released: uint64_t
        with cython.nogil:
            released = pages_scavenge(cython.address(self._pages), n, is_background)
        return released

    def shrink(self) -> list:
        """Forget every chunk that is wholly free and wholly scavenged; return them, ``(base, size)``, merged."""
        self._check_open()
        ranges = []
        base: uint64_t = 0
        size: uint64_t = 0
        more: cython.bint = True
        while more:
            with cython.nogil:
                more = pages_shrink(
                    cython.address(self._pages), base + size, cython.address(base), cython.address(size)
                )
            if more:
                ranges.append((base, size))
        return ranges

    def huge_metadata(self) -> bool:
        """Put the tables on huge pages where they are large enough; return whether the OS took the advice."""
        self._check_open()
        accepted: cython.bint
        with cython.nogil:
            accepted = pages_huge_metadata(cython.address(self._pages))
        return bool(accepted)

    def cache(self):
        """Set aside all free pages of the group of 64 that holds the lowest free page."""
        self._check_open()
        cache: PageCache = PageCache.__new__(PageCache, self)
        return cache

    def stats(self) -> dict:
        """Return counts of pages, and bytes scavenged so far; ``pages == in_use_pages + free_pages``."""
        self._check_open()
        s = cython.declare(PagesStats)
        with cython.nogil:
            pages_read_stats(cython.address(self._pages), cython.address(s))
        return {
            "chunks": s.chunks,
            "pages": s.pages,
            "in_use_pages": s.in_use_pages,
            "free_pages": s.free_pages,
            "scavenged_pages": s.scavenged_pages,
            "cached_pages": s.cached_pages,
            "scavenged_background_bytes": s.scavenged_background_bytes,
            "scavenged_eager_bytes": s.scavenged_eager_bytes,
            "metadata_bytes": s.metadata_bytes,
        }

    def check(self) -> None:
        """Recompute everything from the bitmaps, and compare.

        Raises:
            Inconsistent: something differs; the text says what and where.
        """
        self._check_open()
        wrong = cython.declare(PagesWrong)
        text = cython.declare(cython.char[400])
        sound: cython.bint
        with cython.nogil:
            sound = pages_check(cython.address(self._pages), cython.address(wrong))
        if sound:
            return
        pages_wrong_text(cython.address(wrong), text, 400)
        none: cython.bint = wrong.search_address == ~cython.cast(uint64_t, 0)
        values = {"search_address": None if none else wrong.search_address}
        if wrong.counted:
            values |= {"expected": wrong.expected, "actual": wrong.actual}
        else:
            stored: Summary = wrong.fault.stored
            recomputed: Summary = wrong.fault.recomputed
            values |= {
                "level": wrong.fault.level,
                "index": wrong.fault.index,
                "stored": Sum(stored.start, stored.max, stored.end),
                "recomputed": Sum(recomputed.start, recomputed.max, recomputed.end),
            }
        raise Inconsistent(
            cython.cast(bytes, text).decode(), invariant=cython.cast(bytes, wrong.law).decode(), values=values
        )

    def corrupt(self, level, index, summary) -> None:
        """Make the tree say something else of one stretch, without touching the bitmaps. Debug build only: for tests.

        Args:
            level: 0, the root, to 4.
            index: which stretch of that level.
            summary: ``(start, max, end)`` in pages.

        Raises:
            RuntimeError: this is a release build.
            KeyError: nothing was ever known there.
        """
        self._check_open()
        if not DEBUG:
            raise RuntimeError("summaries can be corrupted in the debug build alone")
        at: uint32_t = 0
        i: uint64_t = 0
        at, i = self._entry(level, index)
        sum = cython.declare(Summary)
        sum.start, sum.max, sum.end = [integer("summary", count, 0, 2**21) for count in summary]
        if not pages_corrupt(cython.address(self._pages), at, i, cython.address(sum)):
            raise KeyError(index)


@cython.final
@cython.cclass
class PageCache:
    """Some pages set aside by `PageAllocator.cache`, handed out without its lock. Dropping it gives the rest back.

    Attributes:
        base: address of the group of 64 pages; None if it was empty from the start.
        free: 64 bits, bit 0 the lowest page: what can still be handed out.
        scavenged: 64 bits: which of the free ones are scavenged.
        empty: whether nothing is left.

    Thread-safety: any method, any thread.
    """

    _allocator: PageAllocator
    _cache: PagesCache
    _filled: cython.bint

    def __cinit__(self, allocator: PageAllocator):
        self._allocator = allocator
        with cython.nogil:
            pages_cache_fill(cython.address(allocator._pages), cython.address(self._cache))
        self._filled = self._cache.free != 0

    def __dealloc__(self):
        pages_cache_flush(cython.address(self._cache))

    @property
    def base(self):
        return self._cache.base if self._filled else None

    @property
    def free(self) -> int:
        return self._cache.free

    @property
    def scavenged(self) -> int:
        return self._cache.scavenged

    @property
    def empty(self) -> bool:
        return self._cache.free == 0

    def allocate(self, npages=1):
        """Take the lowest run of its free pages; return ``(address, scavenged_bytes)``, or None if nothing fits."""
        self._allocator._check_open()
        n: uint64_t = page_count("npages", npages)
        address: uint64_t = 0
        scavenged: uint64_t = 0
        if not pages_cache_allocate(cython.address(self._cache), n, cython.address(address), cython.address(scavenged)):
            return None
        return address, scavenged

    def flush(self) -> None:
        """Give what is left back to the allocator."""
        self._allocator._check_open()
        with cython.nogil:
            pages_cache_flush(cython.address(self._cache))
