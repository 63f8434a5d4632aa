"""This thread's blocks of one class: an array of block numbers, filled and emptied by halves.

Thread-safety: a cache is its thread's alone, but for claiming (see caches).
Invariants: ``reserved`` is the sum of ``most * size`` and never above the primary's ``cache_bytes``; a bin's count is
at most ``most`` when nobody is inside.
Does not find the cache: the caller says at which seat a thread's pointer to it is; the default heap's is one word.
Follows: LLVM's SizeClassAllocator64LocalCache; tcmalloc's sizing of thread caches by use.
"""

import cython
from cython.cimports.freehold.core.bin import (
    BINS_MASK,
    CACHE_FIRST_BYTES,
    CACHE_ONE_WAY,
    Bin,
    Cache,
    bin_count,
    enter,
    leave,
    load_ceiling,
    load_until,
    mul_wide,
    store_ceiling,
    store_until,
)
from cython.cimports.freehold.core.fault import FREE_DOUBLE, fault_bad_free
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    least,
    load8_relaxed,
    load64_acquire,
    load64_relaxed,
    memmove,
    store8_relaxed,
    store64_relaxed,
)
from cython.cimports.freehold.core.primary import BLOCK_CACHED, BLOCK_LIVE, primary_give, primary_take
from cython.cimports.freehold.core.sampling import sampling_blocks, sampling_epoch
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t

# ---- the hot path: no call, no lock, no line that another thread writes ----


def cache_allocate(grains: uint64_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    """Take a block of at least so many times 16 bytes from this thread's cache; False if it has none."""
    return hit_take(cache_slot(), grains, p)


def cache_allocate_class(index: uint32_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    return hit_take_class(cache_slot(), index, p)


def cache_deallocate(address: cython.p_void) -> cython.bint:
    return hit_give(cache_slot(), cython.cast(uint64_t, address))


def cache_room(address: cython.p_void) -> uint64_t:
    """How many bytes the block that begins at an address can hold; 0 where this thread's cache can not tell at once."""
    b: cython.pointer[Bin] = hit_bin(cache_slot()[0], cython.cast(uint64_t, address))
    over: uint64_t = 0
    number: uint64_t = mul_wide(cython.cast(uint64_t, address) - b.base, b.multiplier, cython.address(over))
    if cython.unlikely(over >= b.multiplier or number >= b.made):
        return 0
    return b.size if cython.likely(load8_relaxed(b.states + number) == BLOCK_LIVE) else 0


def hit_take(
    seat: cython.pointer[cython.pointer[Cache]], grains: uint64_t, p: cython.pointer[cython.p_void]
) -> cython.bint:
    c: cython.pointer[Cache] = seat[0]
    return hit_pop(seat, c, cython.cast(cython.pointer[Bin], cython.cast(uint64_t, c) + c.direct[grains]), p)


def hit_take_class(
    seat: cython.pointer[cython.pointer[Cache]], index: uint32_t, p: cython.pointer[cython.p_void]
) -> cython.bint:
    c: cython.pointer[Cache] = seat[0]
    return hit_pop(seat, c, cython.address(c.bin[index]), p)


def hit_pop(
    seat: cython.pointer[cython.pointer[Cache]],
    c: cython.pointer[Cache],
    b: cython.pointer[Bin],
    p: cython.pointer[cython.p_void],
) -> cython.bint:
    """Pop the newest block."""
    enter(seat)
    word: uint64_t = load64_relaxed(cython.address(b.word))
    count: uint64_t = bin_count(word)
    if cython.unlikely(word >= load_until(cython.address(b.until)) or count == 0):
        leave(seat, c)
        return False
    number: uint64_t = b.slots[count - 1]
    store64_relaxed(cython.address(b.word), word + 0xFFFF)  # one allocation more, one block fewer
    store8_relaxed(cython.address(b.states[number]), BLOCK_LIVE)
    p[0] = cython.cast(cython.p_void, b.base + number * b.size)
    leave(seat, c)
    return True


def hit_give(seat: cython.pointer[cython.pointer[Cache]], address: uint64_t) -> cython.bint:
    """Put a block back into this thread's cache; False where that can not be done at once, or at all."""
    c: cython.pointer[Cache] = seat[0]
    b: cython.pointer[Bin] = hit_bin(c, address)
    over: uint64_t = 0
    number: uint64_t = mul_wide(address - b.base, b.multiplier, cython.address(over))
    if cython.unlikely(over >= b.multiplier or number >= b.made):
        return False
    state: cython.pointer[uint8_t] = b.states + number
    if cython.unlikely(load8_relaxed(state) != BLOCK_LIVE):
        return False
    enter(seat)
    word: uint64_t = load64_relaxed(cython.address(b.word))
    count: uint64_t = bin_count(word)
    if cython.unlikely(count >= load_ceiling(cython.address(b.ceiling))):
        leave(seat, c)
        return False
    store8_relaxed(state, BLOCK_CACHED)
    b.slots[count] = cython.cast(uint32_t, number)
    store64_relaxed(cython.address(b.word), word + 1)
    leave(seat, c)
    return True


def hit_bin(c: cython.pointer[Cache], address: uint64_t) -> cython.pointer[Bin]:
    """The bin that an address would belong to; what lies outside the primary comes to some bin, too.

    One multiplication by its multiplier tells both which block an address lies in and whether it begins there: the low
    word of offset times multiplier is what is left over, and below the multiplier exactly at a block's start. An
    address from outside comes to a number that is not made: it is at least 64 regions away, or has no class.
    """
    bins: uint64_t = cython.cast(uint64_t, cython.address(c.bin[0]))
    return cython.cast(cython.pointer[Bin], bins + ((address - c.base) >> c.bin_shift & BINS_MASK))


# ---- filling and emptying by halves ----


def cache_refill(c: cython.pointer[Cache], index: uint32_t) -> uint64_t:
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    # Allocations are counted, frees are not: more of the former than there were blocks means that some came back.
    came_back: cython.bint = (b.word >> 16) - (c.turned[index] >> 16) > bin_count(c.turned[index])
    cache_widen(c, index, came_back)
    got: uint64_t = primary_take(cython.address(c.primary.region[index]), c.primary, b.slots, most(1, b.most // 2))
    b.made = load64_acquire(cython.address(c.primary.region[index].made))
    store64_relaxed(cython.address(b.word), b.word + got)
    c.turned[index] = b.word
    return got


def cache_make_room(c: cython.pointer[Cache], index: uint32_t) -> cython.void:
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    went_out: cython.bint = b.word >> 16 != c.turned[index] >> 16
    if not cache_widen(c, index, went_out) and b.most > 0:
        bin_give(c, index, (bin_count(b.word) + 1) // 2, False)
    c.turned[index] = b.word


def cache_widen(c: cython.pointer[Cache], index: uint32_t, both_ways: cython.bint) -> cython.bint:
    """Let a bin that is used hold twice as many blocks, within the thread's allowance.

    A thread that only allocates, or only frees what others allocate, has no use for more than a batch: blocks that
    wait in its bin would come back cold.
    """
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    room: uint64_t = c.room[index]
    first: uint64_t = most(2, CACHE_FIRST_BYTES // b.size)
    wish: uint64_t = first if b.most == 0 else 2 * cython.cast(uint64_t, b.most)
    wish = least(wish, room if both_ways else least(room, most(first, CACHE_ONE_WAY)))
    if wish > b.most and c.reserved + (wish - b.most) * b.size > c.primary.config.cache_bytes:
        cache_sweep(c)
        allowed: uint64_t = (c.primary.config.cache_bytes - c.reserved) // b.size
        wish = least(wish, b.most + allowed)
    if wish <= b.most:
        return False
    store64_relaxed(cython.address(c.reserved), c.reserved + (wish - b.most) * b.size)
    bin_open(c, index, wish)
    return True


def cache_sweep(c: cython.pointer[Cache]) -> cython.void:
    """The allowance is used up: take back what was set aside for bins not used since the last sweep."""
    i: uint32_t = 0
    while i < c.classes:
        b: cython.pointer[Bin] = cython.address(c.bin[i])
        if b.most and c.swept[i] == b.word:
            bin_give(c, i, bin_count(b.word), False)
            store64_relaxed(cython.address(c.reserved), c.reserved - b.most * b.size)
            bin_open(c, i, 0)
        c.swept[i] = b.word
        i += 1


def bin_open(c: cython.pointer[Cache], index: uint32_t, most: uint64_t) -> cython.void:
    """Let hits have a bin of so many blocks, whether somebody shut it or not. The owner's, inside.

    Whoever begins or ends a profile changes the epoch, then shuts the bins; where that came just before this, the bin
    is shut again. (One that slips through is looked at when it is empty.)
    """
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    b.most = cython.cast(uint16_t, most)
    store_ceiling(cython.address(b.ceiling), b.most)
    store_until(cython.address(b.until), c.due[index])
    if cython.unlikely(c.epoch != sampling_epoch()):
        store_until(cython.address(b.until), 0)


# ---- sampling: allocations are counted in each bin's word, so a hit needs no count of its own ----


def cache_draw(c: cython.pointer[Cache]) -> cython.void:
    """Draw which block of each bin is sampled next: the profile is another one than when this was last done."""
    c.epoch = sampling_epoch()
    i: uint32_t = 0
    while i < c.classes:
        blocks: uint64_t = sampling_blocks(c.bin[i].size) if c.primary.config.sampled else NOWHERE
        c.due[i] = NOWHERE if blocks == NOWHERE else ((c.bin[i].word >> 16) + blocks - 1) << 16
        i += 1


def bin_is_due(c: cython.pointer[Cache], index: uint32_t) -> cython.bint:
    """Whether the block that is about to be taken is sampled; then draw the next."""
    word: uint64_t = c.bin[index].word
    if cython.likely(word < c.due[index]):
        return False
    blocks: uint64_t = sampling_blocks(c.bin[index].size)
    c.due[index] = NOWHERE if blocks == NOWHERE else ((word >> 16) + blocks) << 16
    return True


def bin_give(c: cython.pointer[Cache], index: uint32_t, n: uint64_t, aged: cython.bint) -> cython.void:
    """Give the n oldest blocks of a bin back to their region."""
    if n == 0:
        return
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    twice: uint64_t = primary_give(cython.address(c.primary.region[index]), b.slots, n, aged)
    while twice > 0:
        twice -= 1
        fault_bad_free(FREE_DOUBLE, b.base + b.slots[twice] * b.size, b.size)
    left: uint64_t = bin_count(b.word) - n
    memmove(b.slots, b.slots + n, left * 4)
    store64_relaxed(cython.address(b.word), b.word - n)


def cache_empty(c: cython.pointer[Cache], aged: cython.bint) -> uint64_t:
    """Give everything back. Each bin is left with no room, so that its next use is seen on the slow path."""
    blocks: uint64_t = 0
    i: uint32_t = 0
    while i < c.classes:
        b: cython.pointer[Bin] = cython.address(c.bin[i])
        blocks += bin_count(b.word)
        bin_give(c, i, bin_count(b.word), aged)
        b.most = 0
        store_ceiling(cython.address(b.ceiling), 0)
        i += 1
    store64_relaxed(cython.address(c.reserved), 0)
    return blocks
