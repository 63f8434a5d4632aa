# cython: language_level=3
"""`Block`: a run of bytes in a heap, for everything that speaks the buffer protocol, the array interface or DLPack.

Thread-safety: every method under the GIL. Two threads that resize and use one block must agree, as with a bytearray.
Invariants: a block holds its heap; while it is exported it neither moves nor goes back.
Does not track who reads `__array_interface__` or `address`: those are the reader's to keep.
"""

import cython
from cython.cimports.cpython.buffer import Py_buffer, PyBuffer_FillInfo
from cython.cimports.cpython.mem import PyMem_Free, PyMem_Malloc
from cython.cimports.cpython.pycapsule import PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cython.cimports.cpython.ref import Py_DECREF, Py_INCREF
from cython.cimports.freehold.face.block import DL_CPU, DL_UINT, DLManagedTensor
from cython.cimports.libc.stdint import int64_t, uintptr_t

from freehold._arguments import WORD, integer
from freehold.face import heap_face


@cython.final
@cython.auto_pickle(False)
@cython.cclass
class Block:
    """Bytes in a heap; `freehold.Heap.block` makes one.

    Example:
        >>> with freehold.Heap().block(1024, zero=True) as block:
        ...     memoryview(block)[0] = 1
        ...     len(block), block.capacity >= 1024
        (1024, True)

    Thread-safety: as a bytearray.
    """

    __weakref__ = cython.declare(object)
    _heap: object
    _core: object
    _address: uintptr_t
    _size: cython.Py_ssize_t
    _alignment: cython.size_t
    _exports: cython.Py_ssize_t
    _shape: int64_t[1]

    def __init__(self, heap, core, address: uintptr_t, size: cython.Py_ssize_t, alignment: cython.size_t):
        if self._core is not None:
            raise ValueError("a Block is made once")
        self._heap = heap
        self._core = core
        self._address = address
        self._size = size
        self._alignment = alignment

    def __dealloc__(self):
        if self._address:
            heap_face.deallocate(self._address)

    def __repr__(self) -> str:
        if not self._address:
            return "<freehold.Block, released>"
        return f"<freehold.Block of {self._size} bytes at {self._address:#x}>"

    def __enter__(self):
        self._live()
        return self

    def __exit__(self, *_):
        self.release()

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """The bytes asked for."""
        return self._size

    @property
    def address(self) -> int:
        """Where it begins. It stays there until `resize` or `release`."""
        self._live()
        return self._address

    @property
    def capacity(self) -> int:
        """The bytes that it can be resized to where it is."""
        self._live()
        return heap_face.usable_size(self._address)

    @property
    def heap(self):
        """The heap that it lives in."""
        return self._heap

    def resize(self, nbytes) -> None:
        """Change the size, keeping the contents up to the smaller one; the address may change.

        Raises:
            BufferError: it is exported.
            LimitError: the heap's limit stands in the way; nothing has changed.
        """
        self._live()
        size = integer("nbytes", nbytes, 0, WORD // 2 - 1)
        self._alone("resized")
        moved: uintptr_t = self._core.resize(self._address, max(size, 1), self._alignment)
        if not moved:
            raise self._heap._refusal(size)
        self._address = moved
        self._size = size

    def prefetch(self, start=0, stop=None) -> None:
        """Have the bytes from *start* to *stop* (None: the end) resident before they are touched.

        Raises:
            OSError: the operating system refuses.
        """
        self._live()
        first = integer("start", start, 0, self._size)
        last = self._size if stop is None else integer("stop", stop, first, self._size)
        error = heap_face.populate(self._address + first, last - first) if last > first else 0
        if error:
            raise OSError(error, "the operating system refuses to populate")

    def release(self) -> None:
        """Give the block back. Does nothing the second time.

        Raises:
            BufferError: it is exported.
        """
        if not self._address:
            return
        self._alone("released")
        address: uintptr_t = self._address
        self._address = 0
        self._size = 0
        heap_face.deallocate(address)

    @cython.cfunc
    def _live(self) -> object:
        if not self._address:
            raise ValueError("the block is released")

    @cython.cfunc
    def _alone(self, done: str) -> object:
        if self._exports:
            raise BufferError(f"a block with {self._exports} exports can not be {done}")

    # ---- how others see it ----

    def __getbuffer__(self, view: cython.pointer[Py_buffer], flags: cython.int):
        self._live()
        PyBuffer_FillInfo(view, self, cython.cast(cython.p_void, self._address), self._size, False, flags)
        self._exports += 1

    def __releasebuffer__(self, view: cython.pointer[Py_buffer]):
        self._exports -= 1

    @property
    def __array_interface__(self) -> dict:
        self._live()
        return {"version": 3, "shape": (self._size,), "typestr": "|u1", "data": (self._address, False), "strides": None}

    def __dlpack_device__(self) -> tuple:
        return DL_CPU, 0

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """Return a capsule with the bytes as a tensor of one dimension; it counts as an export until it is dropped."""
        self._live()
        if dl_device is not None and tuple(dl_device) != (DL_CPU, 0):
            raise BufferError(f"a block is in main memory, device (1, 0), not {tuple(dl_device)}")
        if copy:
            raise BufferError("a block is exported without a copy")
        managed: cython.pointer[DLManagedTensor] = cython.cast(
            cython.pointer[DLManagedTensor], PyMem_Malloc(cython.sizeof(DLManagedTensor))
        )
        if managed == cython.NULL:
            raise MemoryError
        self._shape[0] = self._size
        managed.dl_tensor.data = cython.cast(cython.p_void, self._address)
        managed.dl_tensor.device.device_type = DL_CPU
        managed.dl_tensor.device.device_id = 0
        managed.dl_tensor.ndim = 1
        managed.dl_tensor.dtype.code = DL_UINT
        managed.dl_tensor.dtype.bits = 8
        managed.dl_tensor.dtype.lanes = 1
        managed.dl_tensor.shape = self._shape
        managed.dl_tensor.strides = cython.NULL
        managed.dl_tensor.byte_offset = 0
        managed.manager_ctx = cython.cast(cython.p_void, self)
        managed.deleter = tensor_delete
        capsule: object = PyCapsule_New(managed, "dltensor", tensor_drop)
        Py_INCREF(self)
        self._exports += 1
        return capsule


@cython.cfunc
@cython.exceptval(check=False)
@cython.with_gil
def tensor_delete(managed: cython.pointer[DLManagedTensor]) -> cython.void:
    block: Block = cython.cast(Block, managed.manager_ctx)
    block._exports -= 1
    Py_DECREF(block)
    PyMem_Free(managed)


@cython.cfunc
@cython.exceptval(check=False)
def tensor_drop(capsule: object) -> cython.void:
    """A capsule that nobody took over (then it has another name) takes its tensor along."""
    if PyCapsule_IsValid(capsule, "dltensor"):
        tensor_delete(cython.cast(cython.pointer[DLManagedTensor], PyCapsule_GetPointer(capsule, "dltensor")))
