from types import TracebackType
from typing import Literal, NamedTuple, final

from typing_extensions import Buffer

class ArenaBlock(NamedTuple):
    address: int
    size: int
    kind: str
    arena: int | None
    block_index: int | None
    exclusive: bool
    pinned: bool
    initially_committed: bool
    initially_zero: bool

class ArenaArea(NamedTuple):
    address: int
    size: int

class HugeReserve(NamedTuple):
    arena: int | None
    pages: int

@final
class Arenas:
    def __init__(
        self,
        *,
        reserve_size: int = ...,
        max_arenas: int = 512,
        eager_commit: Literal[0, 1, "auto"] = "auto",
        purge_delay_ms: float = 10,
        purge_multiplier: float = 10,
        limit_os_alloc: bool = False,
        numa_nodes: int | None = None,
        virtual_reserve: bool | None = None,
    ) -> None: ...
    def __enter__(self) -> Arenas: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def close(self, force: bool = False) -> None: ...
    def reserve(
        self,
        size: int,
        *,
        commit: bool = False,
        allow_large: bool = False,
        exclusive: bool = False,
        numa_node: int = -1,
    ) -> int: ...
    def manage(
        self,
        buffer_or_address: Buffer | int,
        size: int | None = None,
        *,
        committed: bool,
        zero: bool,
        large: bool = False,
        numa_node: int = -1,
        exclusive: bool = False,
    ) -> int: ...
    def reserve_huge(self, pages: int, *, numa_node: int = -1, timeout_ms: float = 0) -> HugeReserve: ...
    def reserve_huge_interleaved(self, pages: int, nodes: int = 0, timeout_ms: float = 0) -> list[HugeReserve]: ...
    def allocate(
        self,
        size: int,
        *,
        alignment: int = 0,
        commit: bool = True,
        allow_large: bool = False,
        arena: int | None = None,
        numa_node: int = -1,
    ) -> ArenaBlock: ...
    def free(self, block: ArenaBlock, committed_size: int | None = None, *, now: float | None = None) -> None: ...
    def purge(self, force: bool = False, visit_all: bool = False, now: float | None = None) -> bool: ...
    def area(self, id: int) -> ArenaArea: ...
    def picture(self, id: int) -> str: ...
    def contains(self, address: int) -> bool: ...
    def stats(self) -> dict[str, int]: ...
    def check(self) -> None: ...
