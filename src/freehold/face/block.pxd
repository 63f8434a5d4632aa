# block.pxd: a block's form in DLPack (dlpack.h, version 0.8: what "dltensor" capsules hold).
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t

cdef enum:
    DL_CPU = 1
    DL_UINT = 1

cdef struct DLDevice:
    int32_t device_type
    int32_t device_id

cdef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct DLTensor:
    void *data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t *shape
    int64_t *strides                # NULL: dense
    uint64_t byte_offset

cdef struct DLManagedTensor:
    DLTensor dl_tensor
    void *manager_ctx               # the Block, held
    void (*deleter)(DLManagedTensor *self) noexcept
