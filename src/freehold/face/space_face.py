# cython: language_level=3
"""The process's one range of addresses as Python meets it: `Space`.

Thread-safety: every method may be called from any thread; the GIL is released around the core.
Invariant: a block taken here is owned by ``(0, 'space')`` until it is given back here.
Does not: commit memory (`Vm.commit` does), or give back what a layer has taken.
"""

import cython
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    LAYER_SPACE,
    layer_name,
    owner_heap,
    owner_layer,
    owner_word,
    space_base,
    space_disown,
    space_give_back,
    space_own,
    space_owner,
    space_size,
    space_take,
    space_taken_bytes,
)
from cython.cimports.libc.stdint import uint64_t

from freehold._arguments import WORD, any_integer, integer
from freehold.errors import BadFree, OSRefused, OutOfMemory

heap_boot()


class Space:
    """The process's reservation of addresses, in blocks of 4 MiB, and who owns each.

    There is one: ``Space() is Space()``.

    `close` makes further calls raise until ``Space()`` opens it again; blocks stay taken.

    Example:
        >>> space = Space()
        >>> address = space.take(2)
        >>> space.owner(address + space.block_size)
        (0, 'space')
        >>> space.give_back(address, 2)
        >>> space.owner(address) is None
        True

    Thread-safety: any method, any thread; `owner` takes no lock.
    """

    __slots__ = ("_closed",)

    def __new__(cls):
        the_space._closed = False
        return the_space

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Refuse further calls, until the next ``Space()``."""
        self._closed = True

    def _check_open(self):
        if self._closed:
            raise ValueError("the space is closed")

    @property
    def base(self) -> int:
        """The first address."""
        self._check_open()
        return space_base()

    @property
    def size(self) -> int:
        """Bytes of addresses."""
        self._check_open()
        return space_size()

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        self._check_open()
        return BLOCK_BYTES

    def owner(self, address):
        """Return ``(heap id, layer name)`` of whoever owns the block around any address at all, or None."""
        self._check_open()
        number = any_integer("address", address)
        if not 0 <= number < WORD:
            return None
        owner: uint64_t = space_owner(number)
        if owner == 0:
            return None
        return owner_heap(owner), layer_name(owner_layer(owner)).decode()

    def take(self, nblocks) -> int:
        """Take the lowest run of free blocks, and return its address. Nothing is mapped readable there.

        Raises:
            OutOfMemory: no run of free blocks is that long.
        """
        self._check_open()
        blocks: uint64_t = integer("nblocks", nblocks, 1)
        address: uint64_t = 0
        error: cython.int
        with cython.nogil:
            error = space_take(blocks, 1, cython.address(address))
            if not error:
                space_own(address, blocks, owner_word(0, LAYER_SPACE, 0))
        if error:
            raise OutOfMemory("no run of free blocks is that long", layer="space", asked=nblocks)
        return address

    def give_back(self, address, nblocks) -> None:
        """Give blocks back that `take` returned, all or some of them; their contents are lost.

        Raises:
            BadFree: not blocks of the space, or not taken through this face ('foreign'); not the start of a block
                ('misaligned'); free already ('double').
            OSRefused: the OS could not take the memory; the blocks stay taken.
        """
        self._check_open()
        number = any_integer("address", address)
        blocks: uint64_t = integer("nblocks", nblocks, 1)
        if not 0 <= number - space_base() < space_size():
            raise BadFree(address=number, reason="foreign")
        if (number - space_base()) % BLOCK_BYTES:
            raise BadFree(address=number, reason="misaligned")
        if blocks > (space_base() + space_size() - number) // BLOCK_BYTES:
            raise BadFree(address=number, reason="foreign")
        at: uint64_t = number
        mine: uint64_t = owner_word(0, LAYER_SPACE, 0)
        wrong: uint64_t
        error: cython.int = 0
        with cython.nogil:
            wrong = space_disown(at, blocks, mine)
            if wrong == 0:
                error = space_give_back(at, blocks)
                if error:
                    space_own(at, blocks, mine)
        if wrong:
            raise BadFree(address=wrong, reason="foreign" if space_owner(wrong) else "double")
        if error:
            raise OSRefused(errno=error, call="decommit", layer="space", asked=nblocks)

    def stats(self) -> dict:
        """Return the bytes reserved, and how many of them are taken and free: the last two add up to the first."""
        self._check_open()
        taken: uint64_t = space_taken_bytes()
        return {"reserved_bytes": space_size(), "taken_bytes": taken, "free_bytes": space_size() - taken}


the_space = object.__new__(Space)
the_space._closed = False
