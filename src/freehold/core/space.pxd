# space.pxd: the process's one range of addresses, and who owns each 4 MiB block of it.
#
# Any thread, any time. Taking and giving back hold the space's lock; `space_owner` takes none and reads nothing but the
# owner table, which is mapped for the whole range.
# Invariant: a block that has an owner is taken.
# Does not: commit memory for callers (space_commit does, when asked), or know what is inside a block.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    BLOCK_SHIFT = 22                # blocks of 4 MiB
    BLOCK_BYTES = 0x400000

cdef enum:                          # layers that own blocks; keep `layer_name` in this order
    LAYER_NONE = 0
    LAYER_SPACE = 1                 # taken through the Space face, by nobody else's layer
    LAYER_PRIMARY = 2
    LAYER_PAGES = 3
    LAYER_LARGE = 4
    LAYER_HUGE = 5                  # several blocks for one request
    LAYER_ARENA = 6
    LAYER_EXTENT = 7

# An owner is one word: heap << 48 | layer << 40 | what the layer wants to find there (40 bits).
cdef inline uint64_t owner_word(uint64_t heap, uint64_t layer, uint64_t note) noexcept nogil:
    return heap << 48 | layer << 40 | note
cdef inline uint32_t owner_heap(uint64_t word) noexcept nogil:
    return <uint32_t>(word >> 48)
cdef inline uint32_t owner_layer(uint64_t word) noexcept nogil:
    return <uint32_t>(word >> 40) & 0xFF
cdef inline uint64_t owner_note(uint64_t word) noexcept nogil:
    return word & (((<uint64_t>1) << 40) - 1)

cdef int space_boot() noexcept nogil                                    # 0 or the errno; idempotent
cdef uint64_t space_table_bytes() noexcept nogil                        # of the owner table: mapped, but resident only where it is written
cdef bint space_is_reserved() noexcept nogil                            # else each range is mapped when committed
cdef uint64_t space_base() noexcept nogil
cdef uint64_t space_size() noexcept nogil
cdef int space_take(uint64_t blocks, uint64_t align_blocks, uint64_t *address) noexcept nogil  # lowest free run; ENOMEM if none
# decommits all if reserved, else the caller has; by who took them, once; no owner left; EINVAL if not taken
cdef int space_give_back(uint64_t address, uint64_t blocks) noexcept nogil
cdef int space_commit(uint64_t address, uint64_t size) noexcept nogil   # of taken blocks, each range once until decommitted: reads 0
cdef int space_decommit(uint64_t address, uint64_t size) noexcept nogil
cdef void space_own(uint64_t address, uint64_t blocks, uint64_t owner) noexcept nogil  # owner 0: nobody
# all or none; 0, or the address of the first block with another owner
cdef uint64_t space_disown(uint64_t address, uint64_t blocks, uint64_t owner) noexcept nogil
cdef uint64_t space_owner(uint64_t address) noexcept nogil              # owner word of any address at all; 0: nobody
cdef bint space_is_taken(uint64_t address, uint64_t blocks) noexcept nogil
cdef uint64_t space_taken_bytes() noexcept nogil
cdef const char *layer_name(uint32_t layer) noexcept nogil
cdef void space_lock() noexcept nogil                                   # fork
cdef void space_unlock() noexcept nogil
cdef void space_reset() noexcept nogil

# inside space
cdef uint64_t space_look_for_room(uint64_t size) noexcept nogil
cdef int space_adopt(uint64_t base, uint64_t size, bint reserved) noexcept nogil
cdef uint64_t space_find(uint64_t i, uint64_t blocks, uint64_t align, uint64_t shift) noexcept nogil
cdef bint space_is_ownerless(uint64_t address, uint64_t blocks) noexcept nogil
