# sampling.pxd: which allocations are sampled, and what is known of those that were: the tables of the heap profile.
#
# Any thread, any time: a sample is recorded and forgotten under one lock, which a signal handler does not wait for; what has
# been recorded is read without it. Dumps, and whoever begins and ends a profile, stand above (profile).
# Invariants: places below `stacks`, `frames`, `entries` and `text_bytes` are written once and stay; the sums of a stack change.
# Does not: touch a Python object, or allocate but by vm_map, once, when a profile begins.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:                          # who asked for a block; the numbers are the dump's
    SOURCE_OTHER = 0
    SOURCE_NUMPY = 1
    SOURCE_RAW = 2                  # Python's three domains, in the order of DOMAIN_…
    SOURCE_MEM = 3
    SOURCE_OBJ = 4
    SOURCE_ARROW = 5
    SOURCE_MALLOC = 6
    SOURCE_BLOCK = 7                # a block made by name

cdef enum:
    SAMPLE_DEPTH = 128              # frames of a stack at most, innermost first
    SAMPLES = 0x40000               # live at once: 128 GiB at the default interval
    STACKS = 0x10000
    ENTRIES = 0x180000              # of all stacks' lists of frames
    FRAMES = 0x8000
    TEXTS = 0x4000
    TEXT_BYTES = 0x200000
    SAMPLE_HEADS = 0x10000          # chains; powers of two
    STACK_HEADS = 0x8000
    FRAME_HEADS = 0x8000
    TEXT_HEADS = 0x2000
    COUNT_ONE = 256                 # counts of blocks are kept in so many parts of one
    HEAP_GONE = 0xFFFF              # of a stack: its heap was closed
    FILE_ROOM = 512
    FUNCTION_ROOM = 256

cdef struct RawFrame:               # what identifies a place in a program while it is on this thread's stack
    uint64_t code                   # address of the code object
    uint64_t place                  # … of the instruction
    uint64_t name                   # … of the object that is the qualified name
    uint64_t first                  # the code's first line

cdef struct FrameText:              # the same for people
    uint32_t line
    uint32_t first_line
    uint32_t file_bytes             # UTF-8, no NUL; of a file that is too long the end is kept, of a function the beginning
    uint32_t function_bytes
    char file[FILE_ROOM]
    char function[FUNCTION_ROOM]

ctypedef uint32_t (*walk_hook)(RawFrame *into, uint32_t most) noexcept nogil       # this thread's frames; how many
ctypedef void (*name_hook)(const RawFrame *frame, FrameText *into) noexcept nogil  # of a frame that the walk has just told

cdef struct Sample:                 # a live block; 32 bytes
    uint64_t address
    uint64_t bytes                  # that it stands for
    uint64_t count                  # … and how many blocks
    uint32_t stack
    uint32_t next                   # in its chain, or among the spare ones; 1 + index, 0: none. As in all that follows

cdef struct Stack:
    uint64_t hash                   # 0: its heap was closed, nothing is added any more
    uint64_t live_bytes             # atomic, written under the lock; as the next three
    uint64_t live_count             # in parts of one
    uint64_t total_bytes
    uint64_t total_count
    uint64_t peak_bytes             # what was live when most was, in all stacks together, or a little before
    uint64_t peak_count
    uint32_t heap                   # atomic: HEAP_GONE, once it is closed
    uint32_t source                 # constant, like the rest
    uint32_t depth
    uint32_t entry                  # its first one
    uint32_t next
    uint32_t spare

cdef struct Frame:
    uint64_t hash
    uint32_t line
    uint32_t first_line
    uint32_t file                   # texts
    uint32_t function
    uint32_t next
    uint32_t spare

cdef struct Text:
    uint64_t hash
    uint32_t start
    uint32_t bytes
    uint32_t next
    uint32_t spare

cdef struct Samples:                # all tables, in one mapping; memory comes at first touch
    uint64_t began_ns               # CLOCK_REALTIME
    uint64_t interval               # mean, bytes; constant
    uint64_t taken                  # atomic, written under the lock; like all counts here
    uint64_t dropped                # for which there was no room, or that a signal handler could not record
    uint64_t live_bytes             # estimated: the sum over all stacks
    uint64_t most_bytes             # … and its highest
    uint64_t mark_bytes             # from where on the stacks' peaks are noted anew. Under the lock, as the next two
    uint64_t grow_bytes             # where the next step up is; NOWHERE: nobody asks
    uint64_t grow_step
    uint64_t samples                # places used so far
    uint64_t stacks
    uint64_t entries
    uint64_t frames
    uint64_t texts
    uint64_t text_bytes
    uint32_t spare                  # samples that are free again, a chain
    uint32_t sample_head[SAMPLE_HEADS]
    uint32_t stack_head[STACK_HEADS]
    uint32_t frame_head[FRAME_HEADS]
    uint32_t text_head[TEXT_HEADS]
    Sample sample[SAMPLES]
    Stack stack[STACKS]
    uint32_t entry[ENTRIES]         # frames, innermost first
    Frame frame[FRAMES]
    Text text[TEXTS]
    char characters[TEXT_BYTES]

cdef void sampling_boot() noexcept nogil
cdef void sampling_name_frames(walk_hook walk, name_hook name) noexcept nogil      # constant once said
cdef uint64_t sampling_epoch() noexcept nogil                          # changes when what is drawn would be drawn otherwise
cdef bint sampling_is_on() noexcept nogil
cdef uint64_t sampling_blocks(uint64_t size) noexcept nogil            # the how-manieth block of a size from here on is sampled; NOWHERE: none
cdef bint sampling_draws(uint64_t bytes) noexcept nogil                # whether a block that no bin counts is
cdef bint sampling_record(uint64_t address, uint64_t bytes, uint64_t heap) noexcept nogil  # whether what lives is a step higher than ever
cdef bint sampling_knows_some() noexcept nogil                         # some block may be recorded
cdef bint sampling_forget(uint64_t address) noexcept nogil             # whether it was recorded; before anybody can be given the address
cdef void sampling_forget_heap(uint64_t heap) noexcept nogil           # it is closed: its number may be another's soon
cdef uint32_t sampling_source(uint32_t source) noexcept nogil          # who asks for what this thread allocates next; returns who did

# With the profile's lock held.
cdef int sampling_begin(uint64_t interval) noexcept nogil              # 0 or the errno
cdef void sampling_end() noexcept nogil
cdef Samples *sampling_tables() noexcept nogil                         # NULL: there is no profile
cdef void sampling_grow(uint64_t step) noexcept nogil                  # 0: no steps
cdef uint32_t sampling_go_inside(uint32_t inside) noexcept nogil       # a signal handler of this thread keeps away; returns what was

# inside sampling
cdef void sampling_fork_lock() noexcept nogil
cdef void sampling_fork_unlock() noexcept nogil
cdef void sampling_fork_reset() noexcept nogil
cdef extern from *:
    """
    struct fh_sampling_thread { uint64_t epoch, left, chance; uint32_t inside, source; };
    FH_TLS struct fh_sampling_thread fh_sampling;
    #define fh_sampling_here() (&fh_sampling)
    #define fh_real_ns() ({ struct timespec fh_t; clock_gettime(CLOCK_REALTIME, &fh_t); (uint64_t)fh_t.tv_sec * 1000000000u + (uint64_t)fh_t.tv_nsec; })
    """
    ctypedef struct SamplingThread "struct fh_sampling_thread":
        uint64_t epoch              # for which `left` holds
        uint64_t left               # bytes until the next sample, of blocks that no bin counts
        uint64_t chance             # state of the random numbers; 0: not seeded
        uint32_t inside             # 1: in the tables: a signal handler is not let in
        uint32_t source             # SOURCE_…
    SamplingThread *sampling_here "fh_sampling_here"() noexcept nogil
    uint64_t real_ns "fh_real_ns"() noexcept nogil
cdef uint64_t *sampling_chance() noexcept nogil
cdef bint sampling_add(uint64_t address, uint64_t bytes, uint64_t count, uint64_t stack) noexcept nogil
cdef void sampling_note_peak() noexcept nogil
cdef void sampling_drop(Sample *s) noexcept nogil
cdef bint sampling_unlink(uint64_t address) noexcept nogil
cdef uint32_t *sampling_chain(uint64_t address) noexcept nogil
cdef uint64_t sampling_stack(const RawFrame *raw, uint32_t depth, uint64_t heap, uint32_t source) noexcept nogil
cdef bint sampling_list(Stack *s, const RawFrame *raw, uint32_t depth) noexcept nogil
cdef uint64_t sampling_frame(const RawFrame *raw) noexcept nogil
cdef uint64_t sampling_text(const char *text, uint32_t bytes) noexcept nogil
cdef inline uint64_t sampling_hash_frame(const RawFrame *raw) noexcept nogil
cdef uint64_t sampling_mapped() noexcept nogil
cdef inline uint64_t sampling_mix(uint64_t hash, uint64_t with_this) noexcept nogil
