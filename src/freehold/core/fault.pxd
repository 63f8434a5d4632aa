# fault.pxd: what happens when a caller frees what is not a live block.
#
# Any thread, any time; takes no lock, allocates nothing.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:                          # why an address can not be freed; 0: it can
    FREE_OK = 0
    FREE_DOUBLE = 1                 # a block's start, but the block is free already
    FREE_FOREIGN = 2                # not an address of ours
    FREE_INTERIOR = 3               # inside a block
    FREE_NEVER = 4                  # where a block could be, but none was made yet
    USED_FREED = 5                  # asked about or resized after it was freed
    FAULTS = 6

cdef void fault_boot() noexcept nogil
cdef void fault_only_report(bint wish) noexcept nogil                   # what the environment says, where more than one word of it does
cdef void fault_bad_free(int reason, uint64_t address, uint64_t size_class) noexcept nogil  # aborts; returns under FREEHOLD_ON_ERROR=report
cdef uint64_t fault_count(int reason) noexcept nogil                    # how often reported

# inside fault
cdef const char *fault_text(int reason) noexcept nogil
