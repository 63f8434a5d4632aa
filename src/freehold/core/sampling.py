"""Which allocations are sampled, and what is known of those that were: the tables of the heap profile.

Thread-safety: any thread, any time. One lock guards the tables; a thread that is in them already, in a signal handler,
goes without. What has been recorded never moves: it is read while others are added.
Invariants: a stack's sums are what its samples stand for; a block is recorded while its state is BLOCK_SAMPLED (small
ones), or until it is freed. A place that is found again by its hash of 64 bits is taken for the same.
Does not know what a frame is: a face says how a thread's frames are told (`walk_hook`), and what they are called
(`name_hook`). The latter is asked at once when a place is first seen, while the thread's own frames keep it alive: so
no reference is held, and what has been recorded outlives the interpreter.
Follows: the samplers of tcmalloc, jemalloc and Go's runtime, whose sums are made unbiased as Go does it: each sample of
a size stands for as many blocks as chance would have passed over.
"""

import cython
from cython.cimports.freehold.core.chance import chance_interval, chance_next, chance_of
from cython.cimports.freehold.core.machine import (
    ENOMEM,
    NOWHERE,
    add64_relaxed,
    load64_acquire,
    load64_relaxed,
    memcmp,
    memcpy,
    now_ns,
    round_up,
    store32_relaxed,
    store64_relaxed,
    store64_release,
)
from cython.cimports.freehold.core.sampling import (
    COUNT_ONE,
    ENTRIES,
    FRAME_HEADS,
    FRAMES,
    HEAP_GONE,
    SAMPLE_DEPTH,
    SAMPLE_HEADS,
    SAMPLES,
    STACK_HEADS,
    STACKS,
    TEXT_BYTES,
    TEXT_HEADS,
    TEXTS,
    Frame,
    FrameText,
    RawFrame,
    Sample,
    Samples,
    SamplingThread,
    Stack,
    Text,
    name_hook,
    real_ns,
    sampling_here,
    walk_hook,
)
from cython.cimports.freehold.core.sync import (
    RANK_SAMPLES,
    Mutex,
    fork_cover,
    mutex_init,
    mutex_lock,
    mutex_reset,
    mutex_unlock,
)
from cython.cimports.freehold.core.vm import vm_facts, vm_map, vm_unmap_metadata
from cython.cimports.libc.stdint import uint32_t, uint64_t

the_interval = cython.declare(uint64_t)  # bytes, mean; 0: nothing is sampled; atomic
the_epoch = cython.declare(uint64_t)  # from 1; atomic
the_samples = cython.declare(cython.pointer[Samples])  # NULL: there is no profile; guarded by the_samples_lock
the_samples_live = cython.declare(uint64_t)  # recorded and not forgotten; atomic
the_samples_lock = cython.declare(Mutex)
the_walk_hook = cython.declare(walk_hook)  # NULL: no thread's frames can be told; constant once said, as the next one
the_name_hook = cython.declare(name_hook)


def sampling_boot() -> cython.void:
    global the_epoch
    the_epoch = 1
    mutex_init(cython.address(the_samples_lock), RANK_SAMPLES)
    fork_cover(RANK_SAMPLES, sampling_fork_lock, sampling_fork_unlock, sampling_fork_reset)


def sampling_name_frames(walk: walk_hook, name: name_hook) -> cython.void:
    global the_walk_hook, the_name_hook
    the_name_hook = name
    the_walk_hook = walk


def sampling_fork_lock() -> cython.void:
    mutex_lock(cython.address(the_samples_lock))


def sampling_fork_unlock() -> cython.void:
    mutex_unlock(cython.address(the_samples_lock))


def sampling_fork_reset() -> cython.void:
    """The child goes on with a copy of the tables."""
    mutex_reset(cython.address(the_samples_lock))


# ---- which ones ----


def sampling_epoch() -> uint64_t:
    return load64_acquire(cython.address(the_epoch))


def sampling_is_on() -> cython.bint:
    return load64_relaxed(cython.address(the_interval)) != 0


def sampling_chance() -> cython.pointer[uint64_t]:
    """This thread's random numbers: seeded by where its words lie, and when."""
    here: cython.pointer[SamplingThread] = sampling_here()
    if here.chance == 0:
        here.chance = cython.cast(uint64_t, here) * cython.cast(uint64_t, 0x9E3779B97F4A7C15) ^ now_ns() | 1
        chance_next(cython.address(here.chance))
    return cython.address(here.chance)


def sampling_blocks(size: uint64_t) -> uint64_t:
    interval: uint64_t = load64_relaxed(cython.address(the_interval))
    return NOWHERE if interval == 0 else (chance_interval(sampling_chance(), interval) + size - 1) // size


def sampling_draws(bytes: uint64_t) -> cython.bint:
    interval: uint64_t = load64_relaxed(cython.address(the_interval))
    here: cython.pointer[SamplingThread] = sampling_here()
    if interval == 0:
        return False
    if here.epoch != sampling_epoch():
        here.epoch = sampling_epoch()
        here.left = chance_interval(sampling_chance(), interval)
    if bytes < here.left:
        here.left -= bytes
        return False
    here.left = chance_interval(sampling_chance(), interval)
    return True


def sampling_source(source: uint32_t) -> uint32_t:
    before: uint32_t = sampling_here().source
    sampling_here().source = source
    return before


# ---- a block is recorded, and forgotten ----


def sampling_record(address: uint64_t, bytes: uint64_t, heap: uint64_t) -> cython.bint:
    if sampling_go_inside(1):
        if the_samples != cython.NULL:
            add64_relaxed(cython.address(the_samples.dropped), 1)
        return False
    raw = cython.declare(RawFrame[SAMPLE_DEPTH])
    depth: uint32_t = 0
    if the_walk_hook != cython.NULL:
        depth = the_walk_hook(raw, SAMPLE_DEPTH)
    grew: cython.bint = False
    mutex_lock(cython.address(the_samples_lock))
    t: cython.pointer[Samples] = the_samples
    if t != cython.NULL:
        p: cython.double = chance_of(bytes, t.interval)
        stack: uint64_t = sampling_stack(raw, depth, heap, sampling_here().source)
        grew = sampling_add(address, cython.cast(uint64_t, bytes / p), cython.cast(uint64_t, COUNT_ONE / p), stack)
    mutex_unlock(cython.address(the_samples_lock))
    sampling_go_inside(0)
    return grew


def sampling_go_inside(inside: uint32_t) -> uint32_t:
    before: uint32_t = sampling_here().inside
    sampling_here().inside = inside
    return before


def sampling_add(address: uint64_t, bytes: uint64_t, count: uint64_t, stack: uint64_t) -> cython.bint:
    """Add a sample to its stack, unless there was no room for that; and remember it while the block lives."""
    t: cython.pointer[Samples] = the_samples
    store64_relaxed(cython.address(t.taken), t.taken + 1)
    sampling_unlink(address)  # a block whose end was not seen
    if stack == NOWHERE or (t.spare == 0 and t.samples == SAMPLES):
        add64_relaxed(cython.address(t.dropped), 1)
        return False
    if t.spare == 0:
        t.samples += 1
        t.sample[t.samples - 1].next = 0
        t.spare = cython.cast(uint32_t, t.samples)
    index: uint32_t = t.spare
    s: cython.pointer[Sample] = cython.address(t.sample[index - 1])
    t.spare = s.next
    s.address = address
    s.bytes = bytes
    s.count = count
    s.stack = cython.cast(uint32_t, stack)
    head: cython.pointer[uint32_t] = sampling_chain(address)
    s.next = head[0]
    head[0] = index
    k: cython.pointer[Stack] = cython.address(t.stack[stack])
    store64_relaxed(cython.address(k.live_bytes), k.live_bytes + bytes)
    store64_relaxed(cython.address(k.live_count), k.live_count + count)
    store64_relaxed(cython.address(k.total_bytes), k.total_bytes + bytes)
    store64_relaxed(cython.address(k.total_count), k.total_count + count)
    store64_relaxed(cython.address(t.live_bytes), t.live_bytes + bytes)
    if t.live_bytes > t.most_bytes:
        store64_relaxed(cython.address(t.most_bytes), t.live_bytes)
        if t.live_bytes >= t.mark_bytes:
            sampling_note_peak()
    store64_relaxed(cython.address(the_samples_live), the_samples_live + 1)
    if t.live_bytes < t.grow_bytes:
        return False
    t.grow_bytes = t.live_bytes + t.grow_step
    return True


def sampling_note_peak() -> cython.void:
    """Note what each stack has, once what lives has risen by so much that it is worth the while."""
    t: cython.pointer[Samples] = the_samples
    t.mark_bytes = t.live_bytes + t.live_bytes // 32 + t.interval
    i: uint64_t = 0
    while i < t.stacks:
        k: cython.pointer[Stack] = cython.address(t.stack[i])
        store64_relaxed(cython.address(k.peak_bytes), k.live_bytes)
        store64_relaxed(cython.address(k.peak_count), k.live_count)
        i += 1


def sampling_knows_some() -> cython.bint:
    return load64_relaxed(cython.address(the_samples_live)) != 0


def sampling_forget(address: uint64_t) -> cython.bint:
    """A signal handler can not: the block stays recorded until another is sampled at its address."""
    if sampling_go_inside(1):
        return False
    mutex_lock(cython.address(the_samples_lock))
    known: cython.bint = the_samples != cython.NULL and sampling_unlink(address)
    mutex_unlock(cython.address(the_samples_lock))
    sampling_go_inside(0)
    return known


def sampling_unlink(address: uint64_t) -> cython.bint:
    t: cython.pointer[Samples] = the_samples
    link: cython.pointer[uint32_t] = sampling_chain(address)
    while link[0] and t.sample[link[0] - 1].address != address:
        link = cython.address(t.sample[link[0] - 1].next)
    if link[0] == 0:
        return False
    index: uint32_t = link[0]
    s: cython.pointer[Sample] = cython.address(t.sample[index - 1])
    link[0] = s.next
    sampling_drop(s)
    s.next = t.spare
    t.spare = index
    return True


def sampling_drop(s: cython.pointer[Sample]) -> cython.void:
    """Take a sample from the sums of its stack."""
    t: cython.pointer[Samples] = the_samples
    k: cython.pointer[Stack] = cython.address(t.stack[s.stack])
    store64_relaxed(cython.address(k.live_bytes), k.live_bytes - s.bytes)
    store64_relaxed(cython.address(k.live_count), k.live_count - s.count)
    store64_relaxed(cython.address(t.live_bytes), t.live_bytes - s.bytes)
    store64_relaxed(cython.address(the_samples_live), the_samples_live - 1)


def sampling_chain(address: uint64_t) -> cython.pointer[uint32_t]:
    hash: uint64_t = sampling_mix(0, address)
    return cython.address(the_samples.sample_head[hash & (SAMPLE_HEADS - 1)])


def sampling_forget_heap(heap: uint64_t) -> cython.void:
    """Its stacks stay as they are, but for what lived: a heap with its number is another one."""
    sampling_go_inside(1)
    mutex_lock(cython.address(the_samples_lock))
    t: cython.pointer[Samples] = the_samples
    chain: uint64_t = 0
    while t != cython.NULL and chain < SAMPLE_HEADS and t.live_bytes:
        link: cython.pointer[uint32_t] = cython.address(t.sample_head[chain])
        while link[0]:
            s: cython.pointer[Sample] = cython.address(t.sample[link[0] - 1])
            if t.stack[s.stack].heap == heap:
                sampling_unlink(s.address)
                link = cython.address(t.sample_head[chain])
            else:
                link = cython.address(s.next)
        chain += 1
    i: uint64_t = 0
    while t != cython.NULL and i < t.stacks:
        if t.stack[i].heap == heap:
            t.stack[i].hash = 0
            store32_relaxed(cython.address(t.stack[i].heap), HEAP_GONE)
        i += 1
    mutex_unlock(cython.address(the_samples_lock))
    sampling_go_inside(0)


# ---- stacks, their frames, and the frames' texts; each written once ----


def sampling_stack(
    raw: cython.pointer[cython.const[RawFrame]], depth: uint32_t, heap: uint64_t, source: uint32_t
) -> uint64_t:
    """Find a stack, or add it; NOWHERE: there is no room for it."""
    t: cython.pointer[Samples] = the_samples
    hash: uint64_t = sampling_mix(heap << 32 | source, depth)
    i: uint32_t = 0
    while i < depth:
        hash = sampling_mix(hash, sampling_hash_frame(raw + i))
        i += 1
    hash |= 1
    head: cython.pointer[uint32_t] = cython.address(t.stack_head[hash >> 8 & (STACK_HEADS - 1)])
    index: uint32_t = head[0]
    while index and t.stack[index - 1].hash != hash:
        index = t.stack[index - 1].next
    if index:
        return index - 1
    if t.stacks == STACKS:
        return NOWHERE
    s: cython.pointer[Stack] = cython.address(t.stack[t.stacks])
    if not sampling_list(s, raw, depth):
        return NOWHERE
    s.hash = hash
    s.heap = cython.cast(uint32_t, heap)
    s.source = source
    s.next = head[0]
    store64_release(cython.address(t.stacks), t.stacks + 1)
    head[0] = cython.cast(uint32_t, t.stacks)
    return t.stacks - 1


def sampling_list(
    s: cython.pointer[Stack], raw: cython.pointer[cython.const[RawFrame]], depth: uint32_t
) -> cython.bint:
    t: cython.pointer[Samples] = the_samples
    if t.entries + depth > ENTRIES:
        return False
    i: uint32_t = 0
    while i < depth:
        frame: uint64_t = sampling_frame(raw + i)
        if frame == NOWHERE:
            return False
        t.entry[t.entries + i] = cython.cast(uint32_t, frame)
        i += 1
    s.entry = cython.cast(uint32_t, t.entries)
    s.depth = depth
    store64_release(cython.address(t.entries), t.entries + depth)
    return True


def sampling_frame(raw: cython.pointer[cython.const[RawFrame]]) -> uint64_t:
    t: cython.pointer[Samples] = the_samples
    hash: uint64_t = sampling_hash_frame(raw)
    head: cython.pointer[uint32_t] = cython.address(t.frame_head[hash >> 8 & (FRAME_HEADS - 1)])
    index: uint32_t = head[0]
    while index and t.frame[index - 1].hash != hash:
        index = t.frame[index - 1].next
    if index:
        return index - 1
    if t.frames == FRAMES:
        return NOWHERE
    said = cython.declare(FrameText)
    said.file_bytes = 0
    said.function_bytes = 0
    the_name_hook(raw, cython.address(said))
    file: uint64_t = sampling_text(said.file, said.file_bytes)
    function: uint64_t = sampling_text(said.function, said.function_bytes)
    if file == NOWHERE or function == NOWHERE:
        return NOWHERE
    f: cython.pointer[Frame] = cython.address(t.frame[t.frames])
    f.hash = hash
    f.line = said.line
    f.first_line = said.first_line
    f.file = cython.cast(uint32_t, file)
    f.function = cython.cast(uint32_t, function)
    f.next = head[0]
    store64_release(cython.address(t.frames), t.frames + 1)
    head[0] = cython.cast(uint32_t, t.frames)
    return t.frames - 1


def sampling_text(text: cython.p_const_char, bytes: uint32_t) -> uint64_t:
    t: cython.pointer[Samples] = the_samples
    hash: uint64_t = bytes
    i: uint32_t = 0
    while i < bytes:
        hash = sampling_mix(hash, cython.cast(cython.uchar, text[i]))
        i += 1
    head: cython.pointer[uint32_t] = cython.address(t.text_head[hash >> 8 & (TEXT_HEADS - 1)])
    index: uint32_t = head[0]
    while index:
        x: cython.pointer[Text] = cython.address(t.text[index - 1])
        if x.hash == hash and x.bytes == bytes and memcmp(t.characters + x.start, text, bytes) == 0:
            return index - 1
        index = x.next
    if t.texts == TEXTS or t.text_bytes + bytes > TEXT_BYTES:
        return NOWHERE
    x = cython.address(t.text[t.texts])
    x.hash = hash
    x.start = cython.cast(uint32_t, t.text_bytes)
    x.bytes = bytes
    x.next = head[0]
    memcpy(t.characters + t.text_bytes, text, bytes)
    store64_release(cython.address(t.text_bytes), t.text_bytes + bytes)
    store64_release(cython.address(t.texts), t.texts + 1)
    head[0] = cython.cast(uint32_t, t.texts)
    return t.texts - 1


def sampling_hash_frame(raw: cython.pointer[cython.const[RawFrame]]) -> uint64_t:
    """Four products that do not wait for each other: a walk of a stack waits for one a frame."""
    return (
        raw.code * cython.cast(uint64_t, 0x9E3779B97F4A7C15)
        ^ raw.place * cython.cast(uint64_t, 0xC2B2AE3D27D4EB4F)
        ^ raw.name * cython.cast(uint64_t, 0x165667B19E3779F9)
        ^ raw.first * cython.cast(uint64_t, 0xD6E8FEB86659FD93)
    )


def sampling_mix(hash: uint64_t, with_this: uint64_t) -> uint64_t:
    hash = (hash ^ with_this) * cython.cast(uint64_t, 0xFF51AFD7ED558CCD)
    return hash ^ hash >> 32


# ---- the tables; with the profile's lock held ----


def sampling_begin(interval: uint64_t) -> cython.int:
    global the_samples
    at: uint64_t = 0
    if vm_map(sampling_mapped(), cython.address(at)) != 0:
        return ENOMEM
    t: cython.pointer[Samples] = cython.cast(cython.pointer[Samples], at)
    t.began_ns = real_ns()
    t.interval = interval
    t.grow_bytes = NOWHERE
    mutex_lock(cython.address(the_samples_lock))
    the_samples = t
    mutex_unlock(cython.address(the_samples_lock))
    store64_relaxed(cython.address(the_interval), interval)
    store64_release(cython.address(the_epoch), the_epoch + 1)
    return 0


def sampling_end() -> cython.void:
    global the_samples
    store64_relaxed(cython.address(the_interval), 0)
    store64_release(cython.address(the_epoch), the_epoch + 1)
    mutex_lock(cython.address(the_samples_lock))
    t: cython.pointer[Samples] = the_samples
    the_samples = cython.NULL
    store64_relaxed(cython.address(the_samples_live), 0)
    mutex_unlock(cython.address(the_samples_lock))
    vm_unmap_metadata(cython.cast(uint64_t, t), sampling_mapped())


def sampling_mapped() -> uint64_t:
    return round_up(cython.sizeof(Samples), vm_facts().page_size)


def sampling_tables() -> cython.pointer[Samples]:
    return the_samples


def sampling_grow(step: uint64_t) -> cython.void:
    mutex_lock(cython.address(the_samples_lock))
    the_samples.grow_step = step
    the_samples.grow_bytes = the_samples.live_bytes + step if step else NOWHERE
    mutex_unlock(cython.address(the_samples_lock))
