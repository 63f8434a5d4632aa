from types import TracebackType
from typing import NamedTuple, final

class LargeBlock(NamedTuple):
    address: int
    capacity: int
    clean: bool

@final
class LargePools:
    def __init__(
        self,
        *,
        enabled: bool = True,
        interval_ms: float = 1000,
        clear_bytes: int = ...,
        eager_return: bool = False,
        growth_dampener: int = 0,
        local_buffer_bytes: int = ...,
        decay_ms: float = 1000,
        lazy_clear: bool = False,
    ) -> None: ...
    def __enter__(self) -> LargePools: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def configure(
        self,
        *,
        enabled: bool | None = None,
        interval_ms: float | None = None,
        clear_bytes: int | None = None,
        eager_return: bool | None = None,
        growth_dampener: int | None = None,
        local_buffer_bytes: int | None = None,
        decay_ms: float | None = None,
        lazy_clear: bool | None = None,
    ) -> None: ...
    def close(self, force: bool = False) -> None: ...
    def allocate(self, nbytes: int, *, alignment: int = 0, zero: bool = False) -> LargeBlock: ...
    def free(self, block: LargeBlock) -> None: ...
    def prefetch(self, block: LargeBlock, start: int, stop: int, itemsize: int = 1) -> None: ...
    def maintain(self, now_ms: float) -> int: ...
    def stats(self) -> dict[int, dict[str, int]]: ...
    def check(self) -> None: ...
