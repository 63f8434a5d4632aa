"""Reading heap profiles: what was written is read, sums are the stacks', and no file, however damaged, does harm."""

from __future__ import annotations

import re
import struct
import tracemalloc
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import profile_dumps
from freehold import profile_dump, profiles
from freehold.profiles import Amount, BadProfile, Frame, Profile, Stack
from freehold.view.profile_text import SOURCE_NAMES
from profile_dumps import BEGAN, CLEAN, LOAD, MAIN, MIB, RUN, dump, profile, small

WORD = (1 << 64) - 1
words = st.integers(0, WORD)
lines = st.integers(0, (1 << 32) - 1)
names = st.text("abz/. é;中<&\x1b\n\0$\u202e", max_size=40)
frames = st.builds(Frame, names, lines, names, lines)
heaps = st.dictionaries(words, st.text("abz é;<", min_size=1, max_size=9), max_size=4)
moments = st.integers(0, WORD // 1000).map(lambda us: profile_dump.EPOCH + timedelta(microseconds=us))


@st.composite
def any_profile(draw: st.DrawFn) -> Profile:
    """Return a profile of any figures, as version 1 can hold."""
    named = draw(heaps) or {0: "default"}
    some = draw(st.lists(frames, min_size=1, max_size=6))
    stacks = st.builds(
        Stack, st.lists(st.sampled_from(some), max_size=5).map(tuple), st.sampled_from(sorted(named)),
        st.sampled_from(profiles.SOURCES), words, words, words, words,
    )  # fmt: skip
    return Profile(
        draw(words), draw(moments), draw(moments), draw(words), draw(st.sampled_from(profiles.REASONS)), draw(words),
        draw(words), draw(words), draw(words), tuple(draw(st.lists(stacks, max_size=6))), named,
    )  # fmt: skip


# ---- what is written is read ----


@given(any_profile())
def test_what_was_written_is_read(written: Profile) -> None:
    """By a writer that knows only the layout, and by our own."""
    assert written == Profile.read(dump(written))
    assert written == Profile.read(written.encode("raw"))


def test_a_path_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    """As text or as a path."""
    (tmp_path / "x.raw").write_bytes(dump(small()))

    assert small() == Profile.read(tmp_path / "x.raw") == Profile.read(str(tmp_path / "x.raw"))
    assert small() == Profile.read(memoryview(dump(small()))) == Profile.read(bytearray(dump(small())))


def test_a_heap_without_a_name_has_one() -> None:
    """The process's own is the default; one that was closed has its number."""
    stacks = [Stack((MAIN,), heap, "numpy", 8, 1, 8, 1) for heap in (0, 7)]
    read = Profile.read(dump(profile(stacks, {3: "etl", 5: ""})))

    assert {3: "etl", 5: "heap 5", 0: "default", 7: "heap 7"} == read.heaps


def test_text_that_is_no_utf8_is_read_with_marks() -> None:
    """A name that was cut by something else spoils nothing but itself."""
    content = dump(profile([Stack((Frame("/a/b.py", 1, "naïve"),), 0, "obj", 8, 1, 8, 1)]))
    read = Profile.read(content.replace("ï".encode(), b"\xff\xfe"))

    assert "na\ufffd\ufffdve" == read.stacks[0].frames[0].function


def test_names_that_are_too_long_keep_their_telling_end() -> None:
    """Of a file the end is kept, of a function the beginning, at a character."""
    frame = Frame("é" * 400, 1, "ü" * 400)
    read = Profile.read(profile([Stack((frame,), 0, "obj", 8, 1, 8, 1)], {0: "ö" * 30}).encode("raw"))

    assert ("é" * 256, "ü" * 128) == (read.stacks[0].frames[0].file, read.stacks[0].frames[0].function)
    assert {0: "ö" * 19} == read.heaps


# ---- what is damaged is refused ----


def changed(at: int, value: int) -> bytes:
    """Return the small dump with one word of its head changed."""
    content = bytearray(dump(small()))
    content[8 * at : 8 * at + 8] = struct.pack("<Q", value)
    return bytes(content)


def in_table(at: int, value: int) -> bytes:
    """Return a dump of one frame and one stack with one word of its tables changed."""
    content = bytearray(dump(profile([Stack((MAIN,), 0, "numpy", 8, 1, 8, 1)])))
    content[192 + 8 * at : 200 + 8 * at] = struct.pack("<Q", value)
    return bytes(content)


GOOD = dump(small())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"fhpro", "truncated"),
        (b"\x7fELF" + bytes(300), "not a heap profile"),
        (b"{}", "not a heap profile"),
        (GOOD[:100], "truncated: it has 100 bytes, and the head alone is 192"),
        (GOOD[:-1], f"truncated: it has {len(GOOD) - 1} of {len(GOOD)} bytes"),
        (GOOD + b"x", f"damaged: more follows its {len(GOOD)} bytes"),
        (changed(1, 2), "a profile of version 2; this freehold reads version 1"),
        (changed(7, 3), "damaged: it was written for reason 3, and there are 3"),
        (changed(12, 0), f"damaged: its tables need {len(GOOD) - 32 * 32} bytes, the file has {len(GOOD)}"),
        (changed(13, 1 << 61), f"damaged: its tables need {len(GOOD) + 80 * ((1 << 61) - 10)} bytes, the file has {len(GOOD)}"),
        (in_table(1, 1000), "damaged: the names of frame 0 lie outside the text"),
        (in_table(1, WORD), "damaged: the names of frame 0 lie outside the text"),
        (in_table(3, 19), "damaged: the names of frame 0 lie outside the text"),
        (in_table(2, 513 << 32), "damaged: frame 0 has names of 513 and 0 bytes"),
        (in_table(2, 257), "damaged: frame 0 has names of 0 and 257 bytes"),
        (in_table(11, 8), "damaged: stack 0 has source 8, and there are 8"),
        (in_table(12, 2), "damaged: stack 0 lies outside the lists of frames"),
        (in_table(12, WORD), "damaged: stack 0 lies outside the lists of frames"),
        (in_table(13, 1), "damaged: stack 0 lies outside the lists of frames"),
        (in_table(14, 1), "damaged: stack 0 has frame 1, and there are 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    """In one line; for a file with its name before it."""
    (tmp_path / "x.raw").write_bytes(content)

    with pytest.raises(BadProfile, match=f"^{re.escape(said)}$"):
        Profile.read(content)
    with pytest.raises(BadProfile, match=f"^{re.escape(str(tmp_path))}/x.raw: {re.escape(said)}$"):
        Profile.read(tmp_path / "x.raw")


def test_entries_that_many_stacks_share_are_refused() -> None:
    """Else a file of a megabyte could ask for a terabyte of stacks."""
    stacks = [Stack((MAIN, RUN), 0, "obj", 8, 1, 8, 1)] * 2
    content = bytearray(dump(profile(stacks)))
    second = 192 + 4 * 32 + 80
    content[second + 72 : second + 80] = bytes(8)

    assert 2 == len(Profile.read(content).stacks)
    content[second + 64 : second + 72] = struct.pack("<Q", 3)
    with pytest.raises(BadProfile, match="stack 1 lies outside the lists"):
        Profile.read(content)


def test_of_an_endless_file_only_the_beginning_is_read(tmp_path: Path) -> None:
    """Whether it is no profile, or claims to be one of any size."""
    with pytest.raises(BadProfile, match=r"^/dev/zero: not a heap profile$"):
        Profile.read("/dev/zero")
    (tmp_path / "x.raw").write_bytes(changed(2, WORD))
    tracemalloc.start()
    with pytest.raises(BadProfile, match=f"truncated: it has {len(GOOD)} of {WORD} bytes"):
        Profile.read(tmp_path / "x.raw")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 8 * MIB


@given(any_profile(), st.data())
def test_a_mutated_dump_is_read_or_refused(written: Profile, data: st.DataObject) -> None:
    """Words exchanged, bytes cut out, put in, torn off: what is read can be shown and written in every way."""
    content = bytearray(dump(written))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) // 8 - 1)))
        value = data.draw(st.sampled_from([0, 1, 2, 255, len(content), 1 << 31, 1 << 32, 1 << 63, WORD]) | words)
        kind = data.draw(st.sampled_from(["word", "byte", "cut", "end", "more"]))
        if kind == "word":
            content[8 * at : 8 * at + 8] = struct.pack("<Q", value)
        elif kind == "byte":
            content[at : at + 1] = bytes([value & 255])
        elif kind == "cut":
            del content[8 * at : 8 * at + value % 64]
        elif kind == "end":
            del content[8 * at :]
        else:
            content[8 * at : 8 * at] = bytes(value % 32)
    if data.draw(st.booleans()):  # so that what comes behind that look is looked at as well
        content[16:24] = struct.pack("<Q", len(content))
    try:
        read = Profile.read(content)
    except BadProfile as problem:
        assert str(problem).isprintable()
        return
    rows = [(0, 0, 0, 0), *(astuple(stack.amount) for stack in read.stacks)]
    assert Amount(*(sum(column) for column in zip(*rows, strict=True))) == read.total()
    assert Profile.read(read.encode("raw")).total() == read.total()
    for name in ("html", "speedscope", "pprof", "collapsed"):
        assert isinstance(read.encode(name), bytes)


# ---- what is in it ----


def test_totals_sources_and_heaps_add_up() -> None:
    """Each is the sum of its stacks, the one with most live first."""
    seen = small()

    assert Amount(1108 * MIB, 1_026_827, 4_658 * MIB, 1_967_068) == seen.total()
    assert ["numpy", "arrow", "obj", "block", "malloc", "mem"] == list(seen.by_source())
    assert Amount(508 * MIB, 148, 2_300 * MIB, 907) == seen.by_source()["numpy"]
    assert Amount(224 * MIB, 13, 1_424 * MIB, 73) == seen.by_heap()["model"]
    for sums in (seen.by_source(), seen.by_heap()):
        assert seen.total().live_bytes == sum(amount.live_bytes for amount in sums.values())


def test_a_line_has_what_it_allocated_and_what_it_called_did() -> None:
    """The innermost frame allocated; each frame of a stack counts once, however often it is in it."""
    stacks = [
        Stack((LOAD, RUN, RUN, MAIN), 0, "numpy", 10, 1, 20, 2),
        Stack((RUN, MAIN), 0, "obj", 5, 1, 100, 3),
        Stack((), 0, "malloc", 3, 1, 3, 1),
    ]
    by_line = {line.frame: (line.itself.live_bytes, line.under.live_bytes) for line in profile(stacks).by_line()}

    assert {LOAD: (10, 10), RUN: (5, 15), MAIN: (0, 15), None: (3, 3)} == by_line
    assert [LOAD, RUN] == [line.frame for line in profile(stacks).top(2)]
    assert [RUN, LOAD] == [line.frame for line in profile(stacks).top(2, live=False)]


def test_a_profile_can_not_be_changed() -> None:
    """Nor its stacks."""
    with pytest.raises(AttributeError):
        small().pid = 1
    with pytest.raises(AttributeError):
        small().stacks[0].live_bytes = 1


@given(any_profile(), any_profile())
def test_before_and_what_changed_is_after(before: Profile, after: Profile) -> None:
    """By stack, heap's name and source; what did not change is left out."""

    def sums(x: Profile, sign: int, into: dict) -> dict:
        for stack in x.stacks:
            key = (stack.frames, x.heaps[stack.heap], stack.source)
            into[key] = [a + sign * b for a, b in zip(into.get(key, [0] * 4), astuple(stack.amount), strict=True)]
        return into

    expected = sums(before, -1, sums(after, 1, {}))
    grown = after.minus(before)

    assert {key: row for key, row in expected.items() if any(row)} == sums(grown, 1, {})
    assert (after.written, before.written) == (grown.written, grown.since)
    assert after.live_bytes - before.live_bytes == grown.live_bytes


def test_nothing_has_changed_since_itself() -> None:
    """And a difference is no dump."""
    same = small().minus(small())

    assert ((), 0, 0) == (same.stacks, same.live_bytes, same.samples)
    with pytest.raises(ValueError, match="a difference of two profiles can not be written as a dump"):
        same.encode("raw")


# ---- saving ----


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("x.html", b"<!DOCTYPE html>"),
        ("x.json", b'{"$schema":"https://www.speedscope.app/'),
        ("x.pb.gz", b"\x1f\x8b"),
        ("x.txt", b"<module> (/srv/app/etl.py:88);run"),
        ("x.collapsed", b"<module> (/srv/app/etl.py:88);run"),
        ("x.raw", b"fhprofil"),
    ],
)
def test_the_ending_tells_the_format(name: str, begins: bytes, tmp_path: Path) -> None:
    """Of a path, or of its text."""
    small().save(tmp_path / name)

    assert begins == (tmp_path / name).read_bytes()[: len(begins)]


def test_an_ending_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    """Nothing is written; with a format named any name will do."""
    with pytest.raises(ValueError, match=r"x\.svg: expected a name that ends in \.html, .* or \.raw$"):
        small().save(tmp_path / "x.svg")
    with pytest.raises(ValueError, match="expected one of collapsed, html, pprof, raw, speedscope, not 'svg'"):
        small().save(tmp_path / "x.svg", "svg")
    assert [] == list(tmp_path.iterdir())
    small().save(tmp_path / "x.svg", "raw")
    assert small() == Profile.read(tmp_path / "x.svg")


def test_every_source_has_a_name_for_people() -> None:
    """In the order of the pictures."""
    assert sorted(profiles.SOURCES) == sorted(SOURCE_NAMES)
    assert list(profiles.SOURCES) == profile_dumps.SOURCES


def test_times_are_as_they_were() -> None:
    """In UTC, to the microsecond."""
    read = Profile.read(dump(small()))

    assert (BEGAN, timedelta(seconds=754)) == (read.began, read.written - read.began)
    assert CLEAN in {line.frame for line in read.by_line()}
