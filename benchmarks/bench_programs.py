"""Whole programs, none of them ours, each under every malloc: time, and how much memory they took at most.

A program's input is made once. In each round every peer runs it once, as its process's malloc: preloaded. Programs that
this machine does not have are left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from math import exp, log
from pathlib import Path
from statistics import median

from benchmarks.c_programs import compiled
from benchmarks.measure import Effort, paired_ratio, turned
from benchmarks.peers import FREEHOLD, MIMALLOC, Peer, c_environment, preloaded_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Programs of others under each malloc (s)"
BAR = 1.0  # of mimalloc's time, in the geometric mean
PEAK_BAR = 1.05
ROUNDS = {"smoke": 1, "quick": 5, "full": 15}
FUNCTIONS = 600  # of the C file that gcc and clang compile
SHAPES = 16  # of the C++ file: each is what a dozen templates are made for
NUMBERS = 1_500_000  # of the file that is sorted and packed
RECORDS = 150_000  # of the JSON that jq reads
PAGES = 24

PYTHON = """
import ast, json
text = json.dumps([{"id": i, "name": f"name {i}", "tags": [str(k) for k in range(i & 7)]} for i in range(%d)])
tables = json.loads(text)
tree = ast.parse("\\n".join(f"def f{i}(a, b):\\n    return [a * {i}, b, (a, b)]" for i in range(%d)))
print(len(text), len(tables), len(ast.dump(tree)), len(sorted(text.split('"'))))
"""
GS = ["gs", "-q", "-dBATCH", "-dNOPAUSE", "-dSAFER", "-sDEVICE=ppmraw", "-r100", "-dTextAlphaBits=4"]
PERL = "my %h; $h{$_ * 7919 % 999983} .= $_ for 1..$ARGV[0]"
SQL = """
create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < %d)
  insert into t select i, hex(i * 7919) || 'x', i / 7.0 from n;
create index by_b on t(b);
select count(*), sum(length(b)), max(c) from t;
select count(*) from t x join t y on x.a = y.a + 1 where x.b < y.b;
select substr(b, 1, 3) k, count(*), avg(c) from t group by k order by 2 desc limit 5;
"""
CPP = """
struct Shape%d { int id; std::string name; bool operator<(const Shape%d &o) const { return id < o.id; } };
int use%d(int n) {
    std::map<std::string, std::vector<Shape%d>> by_name;
    for (int i = 0; i < n; i++) by_name[std::to_string(i %% 7)].push_back({i, "x"});
    std::set<Shape%d> all;
    for (auto &[name, shapes] : by_name) { std::sort(shapes.begin(), shapes.end()); all.insert(shapes[0]); }
    std::function<int(int)> f = [&](int i) { return int(all.size()) + i; };
    return f(n);
}
"""
INCLUDES = "".join(f"#include <{name}>\n" for name in ("algorithm", "functional", "map", "set", "string", "vector"))
POSTSCRIPT = """%%!PS
/Times-Roman findfont 9 scalefont setfont
/word 20 string def
1 1 %d {
  /page exch def
  0 1 69 { /line exch def
    30 780 line 11 mul sub moveto 0 1 11 { line mul page add word cvs show ( lorem ipsum ) show } for
  } for
  0 1 199 { /k exch def
    k 200 div 1 k 200 div sub 0.5 setrgbcolor
    newpath k 2.5 mul 50 add k page mul 700 mod 50 add 40 0 k 1.7 mul arc
    300 400 k page add 500 mod 20 k k curveto closepath fill
  } for
  << /ShadingType 2 /ColorSpace /DeviceRGB /Coords [0 0 500 page 15 mul]
     /Function << /FunctionType 2 /Domain [0 1] /C0 [1 0 0] /C1 [0 0 1] /N 1.5 >> >>
  gsave 100 100 200 200 rectclip shfill grestore
  showpage
} for
"""
JQ = "group_by(.id % 97) | map({n: length, m: (map(.name | length) | add), t: (map(.tags) | add | unique | length)})"


def _c_source(functions: int) -> str:
    body = """
static int f{i}(int *a, int n) {{
    int s = {i};
    for (int k = 0; k < n; k++) {{
        a[k] = a[k] * {i} + (s ^ k);
        if (a[k] > {j}) s += a[k] / (k + 1); else s -= a[(k * 7) % n];
    }}
    switch (s % 5) {{ case 0: return s; case 1: return s + {i}; case 2: return a[0]; default: return n; }}
}}
"""
    calls = "".join(f"    s += f{i}(a, n);\n" for i in range(functions))
    text = "".join(body.format(i=i, j=i * 31 + 7) for i in range(functions))
    return f"{text}\nint all(int *a, int n) {{\n    int s = 0;\n{calls}    return s;\n}}\n"


def _commands(folder: Path, scale: float) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Write the inputs; return each program's command, and what its environment needs."""
    (folder / "large.c").write_text(_c_source(max(10, int(FUNCTIONS * scale))))
    numbers = (str(i * 2654435761 % 1_000_003) for i in range(max(1000, int(NUMBERS * scale))))
    (folder / "numbers").write_text("\n".join(numbers))
    shapes = (CPP % ((i,) * 5) for i in range(max(2, int(SHAPES * scale))))
    (folder / "shapes.cc").write_text(INCLUDES + "".join(shapes))
    (folder / "pages.ps").write_text(POSTSCRIPT % max(1, int(PAGES * scale)))
    records = (
        {"id": i, "name": f"name {i}", "tags": [str(k) for k in range(i & 7)]} for i in range(int(RECORDS * scale))
    )
    (folder / "records.json").write_text(json.dumps(list(records)))
    python = PYTHON % (max(100, int(60_000 * scale)), max(100, int(12_000 * scale)))
    sql = SQL % max(100, int(300_000 * scale))
    return {
        "gcc -O1, a large file": (["gcc", "-O1", "-c", "large.c", "-o", "large.o"], {}),
        "clang -O1, a large file": (["clang", "-O1", "-c", "large.c", "-o", "large.o"], {}),
        "clang++ -O1, templates": (["clang++", "-std=c++17", "-O1", "-c", "shapes.cc", "-o", "shapes.o"], {}),
        "gs, many pages to a bitmap": ([*GS, "-sOutputFile=pages.ppm", "pages.ps"], {}),
        "jq, a large file": (["jq", JQ, "records.json"], {}),
        "sqlite3, load and query": (["sqlite3", ":memory:", sql], {}),
        "sort, four threads": (["sort", "-n", "--parallel=4", "-o", "sorted", "numbers"], {"LC_ALL": "C"}),
        "xz -T2": (["xz", "-T2", "--block-size=1MiB", "-3", "-k", "-f", "numbers"], {}),
        "python, objects by malloc": ([sys.executable, "-S", "-c", python], {"PYTHONMALLOC": "malloc"}),
        "perl, a large hash": (["perl", "-e", PERL, str(int(600_000 * scale))], {}),
    }


def _once(program: Path, command: list[str], peer: Peer, environment: dict[str, str], folder: Path) -> list[float]:
    """Return seconds, seconds of processor time, and the bytes resident at most in the process or its largest child."""
    without = ("GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {k: v for k, v in c_environment().items() if k not in without} | environment
    timed = [str(program), peer.environment.get("LD_PRELOAD", ""), *command]
    run = subprocess.run(timed, env=environment, cwd=folder, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{command[0]} under {peer.name}: {run.stderr.strip()}")
    return [float(word) for word in run.stdout.split()]


def _rows(what: str, runs: dict[str, list[list[float]]]) -> tuple[Row, Row]:
    """Return the row of times, and the one of peaks."""
    times, peaks = {}, {}
    for name, figures in runs.items():
        seconds, processor, peak = ([figure[i] for figure in figures] for i in range(3))
        also = {"processor, s": median(processor), "peak, MiB": median(peak) / (1 << 20)}
        times[name] = Cell(seconds, also=also)
        peaks[name] = Cell(peak)
    return Row(what, "s", times, against=MIMALLOC if MIMALLOC in times else "best"), Row(what, "B", peaks)


def mean_row(what: str, unit: str, rows: list[Row], bar: float | None) -> Row:
    """Return the geometric mean of all programs' ratios to the peer; each of the rows is one of its values."""
    against = MIMALLOC if all(MIMALLOC in row.cells for row in rows) else ""
    cells = {}
    for name in rows[0].cells:
        ratios = [paired_ratio(row.cells[name].rounds, row.cells[against or FREEHOLD].rounds) for row in rows]
        cells[name] = Cell([exp(sum(map(log, ratios)) / len(ratios))])
    return Row(what, unit, cells, bar if against else None)


def run(effort: Effort) -> Benchmark:
    peers = preloaded_peers()
    rows, notes = [], []
    with compiled("timed") as program, tempfile.TemporaryDirectory(prefix="freehold-bench-") as name:
        folder = Path(name)
        for what, (command, environment) in _commands(folder, effort.scale).items():
            if not shutil.which(command[0]):
                notes.append(f"left out: {what}: this machine lacks {command[0]}")
                continue
            runs: dict[str, list[list[float]]] = {peer.name: [] for peer in peers}
            for number in range(ROUNDS[effort.name]):
                for peer in turned(peers, number):
                    runs[peer.name].append(_once(program, command, peer, environment, folder))
            rows.append(_rows(what, runs))
    times, peaks = [row for row, _ in rows], [row for _, row in rows]
    means = [
        mean_row("geometric mean of time, × mimalloc's", "×", times, BAR),
        mean_row("geometric mean of the peak, × mimalloc's", "×", peaks, PEAK_BAR),
    ]
    return Benchmark("programs", TITLE, times + means, notes)
