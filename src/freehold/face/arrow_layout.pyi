from types import ModuleType
from typing import Any

NAMES: dict[int, tuple[bytes, ...]]
TABLE: bytes
TYPEINFO: bytes
DEFAULT_POOL: bytes
STATUS: tuple[bytes, ...]

def look(lib: ModuleType, into: int) -> None: ...
def what_is_wrong(lib: ModuleType, pool: Any) -> str: ...
def owns(address: int) -> bool: ...
