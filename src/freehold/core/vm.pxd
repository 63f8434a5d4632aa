# vm.pxd: the operating system's memory calls. The only module that knows which system this is.
#
# Any thread, any time; no lock. Each call returns 0 or the errno and is counted. Addresses and sizes are multiples of the
# OS page unless said. In the debug build each call can be made to fail at its n-th use (V2).
# Does not: remember what was mapped (space, and each layer, do).
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:                          # the calls, as `freehold.layers.Vm` names them; keep `vm_call_name` in this order
    VM_RESERVE = 0
    VM_COMMIT = 1
    VM_DECOMMIT = 2
    VM_UNMAP = 3
    VM_PURGE_LAZY = 4
    VM_PURGE_NOW = 5
    VM_ADVISE_HUGE = 6
    VM_ADVISE_NO_HUGE = 7
    VM_POPULATE = 8
    VM_WILL_NEED = 9
    VM_BIND = 10
    VM_MAP_FILE = 11
    VM_MAP_HUGE = 12
    VM_MAP = 13
    VM_REMAP = 14
    VM_CALLS = 15

cdef enum:
    HUGE_NEVER = 0                  # transparent huge pages: what the kernel is set to
    HUGE_ADVISED = 1
    HUGE_ALWAYS = 2

cdef struct VmCall:                 # atomic, relaxed: statistics only
    uint64_t calls
    uint64_t bytes
    uint64_t nanoseconds
    uint64_t failures

cdef struct VmFault:                # debug builds; atomic, written by one test at a time
    uint64_t nth                    # the first use that fails, from 1; 0: none does; stored last
    uint64_t times                  # how many uses fail from there on
    uint64_t seen                   # uses since it was set
    uint64_t failed                 # how many of them failed
    uint64_t error                  # an errno

cdef struct VmFacts:                # read once at boot, then constant
    uint64_t page_size
    uint64_t huge_page_size
    int huge_page_mode
    int numa_nodes
    int overcommit
    uint64_t rlimit_as              # 2^64 - 1: none
    uint64_t cgroup_limit           # 2^64 - 1: none

cdef void vm_boot() noexcept nogil
cdef int vm_check_level() noexcept nogil                        # FH_CHECK of this build
cdef uint64_t vm_cgroup_limit(const char *membership, const char *mount) noexcept nogil  # /proc/self/cgroup, /sys/fs/cgroup; 2^64 - 1: none
cdef VmFacts *vm_facts() noexcept nogil
cdef const char *vm_call_name(int call) noexcept nogil
cdef void vm_read_stats(int call, VmCall *into) noexcept nogil
cdef void vm_fail(int call, uint64_t nth, uint64_t times, int error) noexcept nogil          # nth 0: stop failing
cdef void vm_fail_counts(int call, uint64_t *seen, uint64_t *failed) noexcept nogil

cdef int vm_reserve(uint64_t size, uint64_t align, uint64_t *address) noexcept nogil         # addresses alone; not in core dumps
cdef int vm_reserve_at(uint64_t address, uint64_t size) noexcept nogil                       # EEXIST if anything is there
cdef int vm_commit(uint64_t address, uint64_t size) noexcept nogil                           # may be read and written; keeps contents
cdef int vm_commit_at(uint64_t address, uint64_t size) noexcept nogil                        # the same where nothing was reserved; EEXIST if anything is there
cdef int vm_decommit(uint64_t address, uint64_t size) noexcept nogil                         # back to addresses alone; contents are lost
cdef int vm_unmap(uint64_t address, uint64_t size) noexcept nogil
cdef int vm_purge_lazy(uint64_t address, uint64_t size) noexcept nogil                       # MADV_FREE
cdef int vm_purge_now(uint64_t address, uint64_t size) noexcept nogil                        # MADV_DONTNEED: reads 0 from here on
cdef int vm_advise_huge(uint64_t address, uint64_t size) noexcept nogil
cdef int vm_advise_no_huge(uint64_t address, uint64_t size) noexcept nogil
cdef int vm_populate(uint64_t address, uint64_t size) noexcept nogil
cdef int vm_will_need(uint64_t address, uint64_t size) noexcept nogil
cdef int vm_bind(uint64_t address, uint64_t size, int node) noexcept nogil
cdef int vm_map_file(int fd, uint64_t offset, uint64_t size, uint64_t *address) noexcept nogil
cdef int vm_map_huge(uint64_t size, uint64_t huge_page_size, uint64_t *address) noexcept nogil  # hugetlb pages of 2 MiB or 1 GiB
cdef int vm_map_huge_at(uint64_t address, uint64_t huge_page_size, bint reserved) noexcept nogil  # one page; EEXIST unless `reserved` if anything is there
cdef int vm_map(uint64_t size, uint64_t *address) noexcept nogil                             # zeroed, writable: our own metadata
cdef int vm_remap(uint64_t source, uint64_t to, uint64_t size) noexcept nogil                # moves pages without a copy; the source reads 0 from here on
cdef uint64_t vm_resident(uint64_t address, uint64_t size) noexcept nogil                     # bytes of it that are in memory; 0 if the OS does not say
cdef uint64_t vm_metadata_bytes() noexcept nogil                                             # mapped through vm_map and not unmapped
cdef int vm_unmap_metadata(uint64_t address, uint64_t size) noexcept nogil                   # what vm_map gave

# inside vm
cdef size_t vm_read_file(const char *path, char *into, size_t room) noexcept nogil
cdef uint64_t vm_read_number(const char *path, uint64_t otherwise) noexcept nogil
cdef bint vm_names(const char *words, const char *word) noexcept nogil
cdef uint64_t vm_limit_around(const char *mount, const char *hierarchy, char *path, const char *name) noexcept nogil
cdef int vm_must_fail(int call) noexcept nogil
cdef int vm_count(int call, uint64_t size, uint64_t began, int error) noexcept nogil
cdef int vm_mmap(uint64_t address, uint64_t size, int protection, int flags, int fd, uint64_t offset, uint64_t *got) noexcept nogil
cdef int vm_advise(int call, uint64_t address, uint64_t size, int advice) noexcept nogil
cdef int vm_huge_flags(uint64_t huge_page_size) noexcept nogil
cdef int vm_map_at(uint64_t address, uint64_t size, int protection) noexcept nogil
