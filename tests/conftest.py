"""What all tests share: the `debug` marker, and programs run in a process of their own."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from freehold.face import process_heap
from freehold.face.vm_face import DEBUG
from watched import child  # noqa: F401  a fixture for all

# The same examples each time, so that a failure is the change's; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# These need the probe, which release builds do not hold.
collect_ignore = [] if DEBUG else ["core/test_bits.py", "core/test_sync.py"]

# Since 3.12 Python warns of a fork beside threads; programs here do that on purpose.
FORKS_BESIDE_THREADS = ("-W", "ignore:This process:DeprecationWarning")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure(config: pytest.Config) -> None:
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a job in the background: what is started here would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "debug: needs a build with checks (FH_CHECK > 0); left out elsewhere")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `debug` out of a release build."""
    left_out = [item for item in items if not DEBUG and item.get_closest_marker("debug")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def quiet() -> Iterator[None]:
    """Have nothing but the test take and give back addresses: what earlier ones dropped is gone, and the thread rests."""
    gc.collect()
    process_heap.rest()
    yield
    process_heap.resume()


@pytest.fixture
def run_program() -> Run:
    """Run a Python program in a fresh process, with a limit on its addresses if asked."""

    def run(program: str, *, address_limit: int | None = None) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            if address_limit is not None:
                resource.setrlimit(resource.RLIMIT_AS, (address_limit, address_limit))

        return subprocess.run(
            [sys.executable, *FORKS_BESIDE_THREADS, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=limit,
            check=False,
        )

    return run
