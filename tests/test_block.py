"""`freehold.Block`: bytes in a heap, and everything that speaks to them."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from freehold import Block, Heap, LimitError

MIB = 1 << 20


@pytest.fixture
def heap() -> Heap:
    return Heap(limit="64MiB")


def test_H2_a_block_is_bytes_of_its_heap(heap: Heap) -> None:
    """Length as asked, room for more, aligned, counted."""
    for size in (0, 1, 100, 5000, 200_000, 3 * MIB):
        block = heap.block(size, alignment=4096)
        assert isinstance(block, Block)
        assert (size, size, heap, 0) == (len(block), block.nbytes, block.heap, block.address % 4096)
        assert block.capacity >= size
    assert 1 == heap.stats().current_count
    block.release()
    assert 0 == heap.stats().current_count


def test_H2_zero_means_zero_also_where_memory_was_used(heap: Heap) -> None:
    """In every layer."""
    for size in (100, 5000, 200_000, 3 * MIB):
        with heap.block(size) as block:
            memoryview(block)[:] = b"\xff" * size
        with heap.block(size, zero=True) as block:
            assert bytes(size) == bytes(block)


def test_H2_a_block_speaks_buffer_interface_and_dlpack(heap: Heap) -> None:
    """All three are the same bytes, writable."""
    block = heap.block(1000, zero=True)
    memoryview(block)[3] = 7
    by_buffer, by_dlpack = np.frombuffer(block, "u1"), np.from_dlpack(block)
    interface = block.__array_interface__
    by_buffer[4] = 8

    assert [7, 8] == by_dlpack[3:5].tolist()
    assert (block.address, False) == interface["data"]
    assert ((1000,), "|u1", 3) == (interface["shape"], interface["typestr"], interface["version"])
    assert (1, 0) == block.__dlpack_device__()
    assert b"\x07\x08" == bytes(block)[3:5]


@pytest.mark.parametrize("export", [memoryview, np.asarray, np.from_dlpack, lambda b: b.__dlpack__()])
def test_H2_an_exported_block_neither_moves_nor_goes(heap: Heap, export) -> None:  # type: ignore[no-untyped-def]
    """`BufferError` until the last export is dropped."""
    block = heap.block(100)
    held = export(block)

    with pytest.raises(BufferError, match="1 exports can not be released"):
        block.release()
    with pytest.raises(BufferError, match="1 exports can not be resized"):
        block.resize(10_000)
    del held
    gc.collect()
    block.release()
    assert 0 == heap.stats().current_count


def test_H2_an_export_keeps_the_block_and_its_heap() -> None:
    """When nobody else does."""
    view = np.asarray(Heap().block(1000, zero=True))
    gc.collect()
    view[:] = 1

    assert 1000 == view.sum()


def test_H2_resizing_keeps_the_contents(heap: Heap) -> None:
    """Up and down, through all layers; what does not fit is refused and changes nothing."""
    block = heap.block(10)
    memoryview(block)[:] = b"0123456789"
    for size in (100, 5000, 200_000, 3 * MIB, 1000, 10):
        block.resize(size)
        assert (size, b"0123456789") == (len(block), bytes(memoryview(block)[:10]))
    with pytest.raises(LimitError):
        block.resize(100 * MIB)
    assert (10, b"0123456789") == (len(block), bytes(block))
    heap.check()


def test_H2_prefetch_has_pages_resident_before_they_are_touched(heap: Heap) -> None:
    """All of it or a part; never more than the heap counts."""
    from freehold.face.vm_face import Vm

    block = heap.block(8 * MIB)
    with Vm() as vm:
        before = vm.stats()["populate"]["calls"]
        block.prefetch(MIB, 2 * MIB)
        block.prefetch()
        block.prefetch(5, 5)
        assert before + 2 == vm.stats()["populate"]["calls"]
    for start, stop in ((-1, None), (0, 8 * MIB + 1), (10, 5)):
        with pytest.raises(ValueError, match=r"st(art|op) must be from"):
            block.prefetch(start, stop)


def test_H2_a_released_block_says_so(heap: Heap) -> None:
    """Releasing again does nothing; all else raises."""
    with heap.block(10) as block:
        pass
    block.release()

    assert "<freehold.Block, released>" == repr(block)
    assert 0 == len(block)
    for use in (
        lambda: block.address,
        lambda: block.capacity,
        lambda: block.resize(5),
        block.prefetch,
        lambda: memoryview(block),
        lambda: block.__array_interface__,
        block.__dlpack__,
    ):
        with pytest.raises(ValueError, match="the block is released"):
            use()


@pytest.mark.parametrize(
    ("arguments", "named", "kind"),
    [
        ((-1,), {}, ValueError),
        (("10",), {}, TypeError),
        ((10,), {"alignment": 3}, ValueError),
        ((10,), {"alignment": 0}, ValueError),
        ((10,), {"alignment": 1 << 40}, ValueError),
    ],
)
def test_H2_wrong_arguments_are_named(
    heap: Heap, arguments: tuple[object, ...], named: dict[str, int], kind: type[Exception]
) -> None:
    """nbytes from 0 up, alignment a power of two."""
    with pytest.raises(kind, match="alignment must be" if named else "nbytes must be"):
        heap.block(*arguments, **named)  # type: ignore[arg-type]
    assert 0 == heap.stats().current_count


def test_H2_dlpack_elsewhere_or_as_a_copy_is_refused(heap: Heap) -> None:
    """A block is where it is."""
    block = heap.block(10)

    with pytest.raises(BufferError, match="main memory"):
        block.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="without a copy"):
        block.__dlpack__(copy=True)
    block.release()
