"""The hooks of a host's allocators: routers between the heap and whoever was there before."""

from __future__ import annotations

import pytest
from c_programs import figures


@pytest.mark.parametrize("threads", [1, 4])
def test_F35_a_storm_through_the_hooks_while_the_switch_is_turned(threads: int) -> None:
    """Blocks of both sides keep their bytes and go home, through any domain and with any ctx, in threads."""
    seen = figures("hooks", threads, 700)

    assert seen["operations"] > 1_000
    assert min(seen["ours"], seen["theirs"]) > 100
    assert 0 == seen["broken"]
