# heap_face.pxd: what a heap's memory handler for NumPy leads to, and a block's form in DLPack.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t

from freehold.core.home cimport Heap as CoreHeap

cdef enum:
    NUMPY_SET_HANDLER = 304         # place in NumPy's table of C functions; its neighbour reads (numpy_handler.pxd)

cdef struct Context:                # what NumPy passes to the hooks; lies in the Core
    CoreHeap *heap                  # NULL: closed
    void *core                      # borrowed: the Core
    bint asks                       # somebody wants to be asked before a refusal

ctypedef object (*SetHandler)(object capsule)
