# vm_face.pxd: what the face needs that only a header can say.
from libc.stdint cimport uint64_t

ctypedef int (*RangeCall)(uint64_t address, uint64_t size) noexcept nogil  # a call of vm over a range: 0 or the errno
