"""freehold.plugins.prometheus: the figures of `freehold.stats()`, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import freehold
from freehold.plugins import prometheus

MIB = 1 << 20


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """Return a registry that tells of the heaps."""
    found = CollectorRegistry()
    collector = prometheus.register(found)
    yield found
    found.unregister(collector)


def read(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Return each sample by name and labels, as another program reads it."""
    text = generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, *sample.labels.values()): sample.value for sample in samples}

    assert len(samples) == len(found), text
    return found


def test_the_figures_are_those_of_stats(registry: CollectorRegistry) -> None:
    """Of each heap, in the unit and under the words that the documentation says."""
    with freehold.Heap("shop", limit=64 * MIB) as heap:
        blocks = [heap.block(3 * MIB) for _ in range(4)]
        blocks.pop().release()
        told, said = read(registry), heap.stats()

        for state in ("active", "dirty", "muzzy", "retained", "metadata"):
            assert told["freehold_bytes", "shop", state] == getattr(said, f"{state}_bytes"), state
        assert said.current_bytes == told["freehold_bytes", "shop", "live"] >= 9 * MIB
        assert (4, 1) == (told["freehold_allocations_total", "shop"], told["freehold_frees_total", "shop"])
        assert (64 * MIB, 0) == (told["freehold_limit_bytes", "shop"], told["freehold_refused_total", "shop"])
        with pytest.raises(freehold.LimitError):
            heap.block(64 * MIB)
        assert heap.stats().refused_count == read(registry)["freehold_refused_total", "shop"] > 0
        for block in blocks:
            block.release()


def test_what_was_given_back_is_counted(registry: CollectorRegistry) -> None:
    """For the process as a whole; it only grows."""
    before = read(registry)["freehold_purged_bytes_total",]
    with freehold.Heap("bakery") as heap:
        block = heap.block(8 * MIB)
        memoryview(block)[:] = bytes(8 * MIB)
        block.release()
        heap.purge()

        assert read(registry)["freehold_purged_bytes_total",] - before >= 8 * MIB


def test_heaps_of_one_name_are_told_of_together(registry: CollectorRegistry) -> None:
    """Prometheus takes a figure once; a heap without a limit has none to tell."""
    with freehold.Heap("twin") as a, freehold.Heap("twin") as b:
        held = [a.block(MIB), b.block(2 * MIB)]
        told = read(registry)

        assert 2 == told["freehold_allocations_total", "twin"]
        assert told["freehold_bytes", "twin", "live"] == a.stats().current_bytes + b.stats().current_bytes
        assert ("freehold_limit_bytes", "twin") not in told
        for block in held:
            block.release()


def test_the_default_heap_is_told_of_and_closed_ones_are_not(registry: CollectorRegistry) -> None:
    heap = freehold.Heap("gone")
    assert ("freehold_bytes", "gone", "live") in read(registry)
    heap.close()

    assert ("freehold_bytes", "gone", "live") not in read(registry)
    assert ("freehold_bytes", "default", "live") in read(registry)


def test_a_registry_tells_of_the_heaps_once(registry: CollectorRegistry) -> None:
    """The second time is refused, and changes nothing."""
    with pytest.raises(ValueError, match="freehold"):
        prometheus.register(registry)

    assert read(registry)
