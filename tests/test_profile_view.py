"""Heap profiles as pictures and tables: every format, read back by somebody else's reader, has the profile's figures."""

from __future__ import annotations

import base64
import collections
import gzip
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from browser import CHROMIUM, browser
from freehold.profiles import Frame, Profile, Stack
from freehold.view import profile_html, profile_text
from profile_dumps import MAIN, MIB, RUN, large, profile, small
from test_profiles import any_profile

ODD = Frame("/a;b/c d\n.py", 3, "f\x1b[31m <b>;\u202e $x", 1)
FIGURES = ("live_count", "live_bytes", "total_count", "total_bytes")


def odd() -> Profile:
    """Return a profile of names that could be taken for markup, commands or separators."""
    return profile([Stack((ODD, MAIN), 0, "obj", 7, 1, 9, 2)], {0: "</script><b>"})


def grown() -> Profile:
    """Return a difference: one stack grew by 8, one shrank by 5, one kept its memory and allocated more."""
    stacks = [((MAIN,), 10, 20), ((RUN, MAIN), 5, 5), ((ODD,), 3, 3)]
    after = [((MAIN,), 18, 40), ((RUN, MAIN), 0, 5), ((ODD,), 3, 9)]
    first, second = (profile([Stack(f, 0, "obj", live, 1, all_, 1) for f, live, all_ in x]) for x in (stacks, after))
    return second.minus(first)


# ---- collapsed ----


def unfolded(text: bytes) -> collections.Counter[tuple[str, ...]]:
    """Return the bytes of each stack, outermost frame first, as flamegraph.pl takes a line apart."""
    sums: collections.Counter[tuple[str, ...]] = collections.Counter()
    for line in text.decode().splitlines():
        found = re.fullmatch(r"(.*)\s+?(\d+(?:\.\d*)?)", line)
        assert found is not None
        sums[tuple(found[1].split(";"))] += int(found[2])
    return sums


def test_collapsed_stacks_have_the_profiles_bytes() -> None:
    """A line for each stack, whatever its source; what has none is left out."""
    live, total = (unfolded(small().encode("collapsed", live=live)) for live in (True, False))

    assert (1108 * MIB, 4_658 * MIB) == (live.total(), total.total())
    main, run = "<module> (/srv/app/etl.py:88)", "run (/srv/app/etl.py:71)"
    assert 149 * MIB == live[main, run, "clean (/srv/app/etl.py:41)"]
    assert 24 * MIB == live["[no Python]",]
    assert (7, 8) == (len(live), len(total))


def test_no_name_takes_a_collapsed_line_apart() -> None:
    """What separates is replaced."""
    assert [2] == [len(stack) for stack in unfolded(odd().encode("collapsed"))]
    assert 1 == odd().encode("collapsed").count(b"\n")


# ---- speedscope ----


@pytest.mark.parametrize("live", [True, False])
def test_speedscopes_profiles_have_the_profiles_bytes(live: bool) -> None:
    """Two `sampled` profiles, of which the one asked for is shown; every frame they mention is there."""
    document = json.loads(small().encode("speedscope", live=live))
    frames, shown = document["shared"]["frames"], document["profiles"]

    assert ["bytes", "bytes"] == [x["unit"] for x in shown]
    assert [1108 * MIB, 4_658 * MIB] == [sum(x["weights"]) for x in shown] == [x["endValue"] for x in shown]
    assert [0, 1][not live] == document["activeProfileIndex"]
    for x in shown:
        assert len(x["samples"]) == len(x["weights"])
        named = [[frames[i]["name"] for i in sample] for sample in x["samples"]]
        assert ["<module>", "run", "load", "read_parquet", "read_table"] in named
        assert ["[no Python]"] in named


@pytest.fixture(scope="module")
def speedscope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of speedscope itself, as npm has it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to run speedscope in")
    folder = tmp_path_factory.mktemp("speedscope")
    npm = shutil.which("npm")
    command = [npm or "", "pack", "speedscope@1.25.0", "--silent"]
    if npm is None or subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("no npm that can fetch speedscope")
    with tarfile.open(folder / "speedscope-1.25.0.tgz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "package/dist/release/index.html"


@pytest.mark.parametrize(
    ("format", "name", "said"),
    [
        ("speedscope", "x.json", "412.00 MB (37%) 412.00 MB (37%) read_table"),
        ("pprof", "x.pb.gz", "412.00 MB (37%) 412.00 MB (37%) read_table"),
        ("collapsed", "x.txt", "432,013,312 (37%) 432,013,312 (37%) read_table"),
    ],
)
def test_speedscope_reads_it(speedscope: Path, format: str, name: str, said: str, tmp_path: Path) -> None:
    """Its own importers of three formats find the bytes of the line that has most, and its share."""
    content = base64.b64encode(small().encode(format)).decode()
    script = tmp_path / "load.js"
    script.write_text(f"speedscope.loadFileFromBase64({name!r}, {content!r})")
    with browser() as page:
        page.open(f"{speedscope.as_uri()}#view=sandwich&localProfilePath={script}")
        seen = page.run("""
            new Promise(done => {
              const end = Date.now() + 20000, look = () =>
                document.body.innerText.includes('read_table') || Date.now() > end ? done(document.body.innerText) : setTimeout(look, 20);
              look();
            })""")

        assert said in " ".join(seen.split())


# ---- pprof ----


MESSAGES = {  # of profile.proto: name, number, type, repeated
    "ValueType": [("type", 1, "int64", 0), ("unit", 2, "int64", 0)],
    "Label": [("key", 1, "int64", 0), ("str", 2, "int64", 0), ("num", 3, "int64", 0), ("num_unit", 4, "int64", 0)],
    "Sample": [("location_id", 1, "uint64", 1), ("value", 2, "int64", 1), ("label", 3, "Label", 1)],
    "Mapping": [("id", 1, "uint64", 0)],
    "Line": [("function_id", 1, "uint64", 0), ("line", 2, "int64", 0)],
    "Location": [("id", 1, "uint64", 0), ("mapping_id", 2, "uint64", 0), ("address", 3, "uint64", 0), ("line", 4, "Line", 1)],
    "Function": [
        ("id", 1, "uint64", 0), ("name", 2, "int64", 0), ("system_name", 3, "int64", 0), ("filename", 4, "int64", 0),
        ("start_line", 5, "int64", 0),
    ],
    "Profile": [
        ("sample_type", 1, "ValueType", 1), ("sample", 2, "Sample", 1), ("mapping", 3, "Mapping", 1),
        ("location", 4, "Location", 1), ("function", 5, "Function", 1), ("string_table", 6, "string", 1),
        ("drop_frames", 7, "int64", 0), ("keep_frames", 8, "int64", 0), ("time_nanos", 9, "int64", 0),
        ("duration_nanos", 10, "int64", 0), ("period_type", 11, "ValueType", 0), ("period", 12, "int64", 0),
        ("comment", 13, "int64", 1), ("default_sample_type", 14, "int64", 0),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def proto() -> Any:
    """The class of pprof's profiles, as the library of protocol buffers makes it from the numbers of the fields."""
    pytest.importorskip("google.protobuf", reason="no library of protocol buffers")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="p", syntax="proto3")
    kinds = {"int64": 3, "uint64": 4, "string": 9}
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            field = made.field.add(name=name, number=number, label=3 if repeated else 1, type=kinds.get(kind, 11))
            if kind not in kinds:
                field.type_name = f".p.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Profile"))


def pprof_stacks(read: Any) -> list[Any]:
    """Return the stacks as tuples: frames, heap, source, figures; every number is looked up where it is defined."""
    texts = read.string_table
    functions = {x.id: x for x in read.function}
    locations = {x.id: x for x in read.location}
    assert (len(functions), len(locations)) == (len(read.function), len(read.location))
    stacks = []
    for sample in read.sample:
        places = [locations[i].line[0] for i in sample.location_id]
        frames = tuple(
            (texts[f.filename], x.line, texts[f.name], f.start_line) for x in places if (f := functions[x.function_id])
        )
        labels = {texts[label.key]: texts[label.str] for label in sample.label}
        stacks.append((frames, labels["heap"], labels["source"], tuple(sample.value)))
    return stacks


def test_pprof_has_every_stack(proto: Any) -> None:
    """With frames, source, heap and the four figures; the strings begin with the empty one."""
    from google.protobuf import unknown_fields

    seen = small()
    read = proto.FromString(gzip.decompress(seen.encode("pprof")))
    texts = read.string_table

    assert [
        (
            tuple((f.file, f.line, f.function, f.first_line) for f in stack.frames) or (("", 0, "[no Python]", 0),),
            seen.heaps[stack.heap], profile_text.SOURCE_NAMES[stack.source],
            tuple(getattr(stack, name) for name in FIGURES),
        ) for stack in seen.stacks
    ] == pprof_stacks(read)  # fmt: skip
    assert [
        ("live_objects", "count"),
        ("live_space", "bytes"),
        ("total_objects", "count"),
        ("total_space", "bytes"),
    ] == [(texts[x.type], texts[x.unit]) for x in read.sample_type]
    assert ("", "live_space", 1 << 19) == (texts[0], texts[read.default_sample_type], read.period)
    assert (1795293000 * 10**9, 754 * 10**9) == (read.time_nanos, read.duration_nanos)
    assert "process: 4711" in [texts[i] for i in read.comment]
    assert 0 == len(unknown_fields.UnknownFieldSet(read))


@given(any_profile())
def test_pprof_holds_any_figures(proto: Any, seen: Profile) -> None:
    """What is larger than its numbers can be stands as the largest."""
    read = proto.FromString(gzip.decompress(seen.encode("pprof")))

    most = (1 << 63) - 1
    assert [tuple(min(getattr(x, name), most) for name in FIGURES) for x in seen.stacks] == [
        figures for *_, figures in pprof_stacks(read)
    ]


def test_of_a_difference_pprof_has_what_shrank_too(proto: Any) -> None:
    """As pprof's own differences have it; and the same profile is always the same file."""
    read = proto.FromString(gzip.decompress(grown().encode("pprof")))

    assert [8, -5, 0] == [x.value[1] for x in read.sample]
    assert grown().encode("pprof") == grown().encode("pprof")


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go, whose pprof would read it")
def test_gos_pprof_reads_it(tmp_path: Path) -> None:
    """The tool itself finds the bytes and the lines."""
    small().save(tmp_path / "x.pb.gz")
    done = subprocess.run(
        ["go", "tool", "pprof", "-top", "-lines", "-unit=b", str(tmp_path / "x.pb.gz")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    assert "Type: live_space" in done.stdout
    assert re.search(rf"of {1108 * MIB}B total|100% of {1108 * MIB}B", done.stdout)
    for name in (
        "<module> /srv/app/etl.py:88",
        "[no Python]",
        "JSONDecoder.raw_decode /usr/lib/python3.11/json/decoder.py:353",
    ):
        assert f" {name}" in done.stdout
    assert re.search(rf"{412 * MIB}B .* read_table .*core.py:1843", done.stdout)


# ---- differences ----


def test_pictures_of_a_difference_show_what_grew() -> None:
    """Less than nothing can not be drawn: the page tells how much that is."""
    assert {("<module> (/srv/app/etl.py:88)",): 8} == dict(unfolded(grown().encode("collapsed")))
    assert [8, 26] == [x["endValue"] for x in json.loads(grown().encode("speedscope"))["profiles"]]
    assert "Elsewhere 5 B less are live than before." in grown().encode("html").decode()


# ---- the page, as text ----


def embedded(page: bytes) -> Any:
    found = re.search(r'<script type="application/json" id="profile">(.*?)</script>', page.decode(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def rebuilt(document: Any) -> collections.Counter[Any]:
    """Return the figures of each stack of a page's document: its path in the tree, its source and its heap."""
    sums: collections.Counter[Any] = collections.Counter()
    for node, source, heap, *figures in document["stacks"]:
        path, at = [], node
        while at:
            name, file, line = document["frames"][document["places"][at]]
            path.append((name, document["files"][file][1], line))
            at = document["parents"][at]
        for name, figure in zip(("live_bytes", "live_count", "total_bytes", "total_count"), figures, strict=True):
            sums[tuple(path), document["sources"][source][0], document["heaps"][heap], name] += figure
    return sums


@pytest.mark.parametrize("seen", [small(), large(200, 30)], ids=["small", "large"])
def test_the_page_holds_every_stack(seen: Profile) -> None:
    """As paths of a tree whose nodes come after their parents, each once."""
    document = embedded(seen.encode("html"))
    expected: collections.Counter[Any] = collections.Counter()
    for stack in seen.stacks:
        path = tuple((f.function, f.file, f.line) for f in stack.frames) or (("[no Python]", "", 0),)
        for name in FIGURES:
            expected[path, stack.source, seen.heaps[stack.heap], name] += getattr(stack, name)

    assert expected == rebuilt(document)
    nodes = list(zip(document["parents"], document["places"], strict=True))
    assert all(parent < i for i, (parent, _) in enumerate(nodes) if i)
    assert len(nodes) == len(set(nodes))


def test_no_name_is_markup_in_the_page() -> None:
    """The profile is in the page once, and nothing in it ends the element that holds it."""
    page = odd().encode("html").decode()

    assert "</script><b>" not in page
    assert 2 == page.count("</script>")
    assert ["</script><b>"] == embedded(page.encode())["heaps"]
    assert profile_text.clean(ODD.function) == embedded(page.encode())["frames"][1][0]


def test_the_page_loads_nothing() -> None:
    """It says so itself, to the browser; and there is no address in it."""
    page = small().encode("html").decode()

    assert "default-src 'none'" in page
    assert [] == re.findall(r"https?://", page)
    assert "$" not in re.sub(r"(?s)<script>.*?</script>", "", page)


def test_the_page_says_what_it_can_not_show() -> None:
    """Samples that were dropped, and that there is nothing."""
    assert "12 samples found no room" in profile([], dropped=12).encode("html").decode()
    assert "Nothing was sampled" in profile([]).encode("html").decode()
    assert "Nothing changed" in small().minus(small()).encode("html").decode()
    assert [] == list(profile_html._remarks(small()))


# ---- texts ----


@pytest.mark.parametrize(
    ("file", "short"),
    [
        ("/x/.venv/lib/python3.11/site-packages/numpy/_core/numeric.py", "numpy/_core/numeric.py"),
        ("/usr/lib/python3/dist-packages/yaml/reader.py", "yaml/reader.py"),
        ("/usr/lib/python3.11/json/decoder.py", "json/decoder.py"),
        ("/home/me/work/project/src/app/etl.py", "src/app/etl.py"),
        ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
        ("etl.py", "etl.py"),
        ("", ""),
    ],
)
def test_a_file_is_named_from_its_library_on(file: str, short: str) -> None:
    """Or by its last two folders."""
    assert short == profile_text.short(file)


def test_no_text_can_steer_a_terminal() -> None:
    """Nor turn its direction, nor break a line."""
    assert "f\ufffd[31m <b>;\ufffd $x" == profile_text.clean(ODD.function)
    assert profile_text.place(ODD).isprintable()
