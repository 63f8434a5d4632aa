"""Whole programs, none of them ours, each under every malloc: time, and how much memory they took at most.

A program's input is made once. In each round every peer runs it once, as its process's malloc: preloaded. Programs that
this machine does not have are left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from math import exp, log
from pathlib import Path
from statistics import median

from benchmarks.measure import Effort, paired_ratio, turned
from benchmarks.peers import FREEHOLD, MIMALLOC, Peer, c_environment, preloaded_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Programs of others under each malloc (s)"
BAR = 1.0  # of mimalloc's time, in the geometric mean
PEAK_BAR = 1.05
ROUNDS = {"smoke": 1, "quick": 5, "full": 15}
FUNCTIONS = 3000  # of the C file that gcc compiles
NUMBERS = 1_500_000  # of the file that is sorted and packed

PYTHON = """
import ast, json
text = json.dumps([{"id": i, "name": f"name {i}", "tags": [str(k) for k in range(i % 9)]} for i in range(%d)])
tables = json.loads(text)
tree = ast.parse("\\n".join(f"def f{i}(a, b):\\n    return [a * {i}, b, (a, b)]" for i in range(%d)))
print(len(text), len(tables), len(ast.dump(tree)), len(sorted(text.split('"'))))
"""
SQL = """
create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < %d)
  insert into t select i, hex(i * 7919) || 'x', i / 7.0 from n;
create index by_b on t(b);
select count(*), sum(length(b)), max(c) from t;
select count(*) from t x join t y on x.a = y.a + 1 where x.b < y.b;
select substr(b, 1, 3) k, count(*), avg(c) from t group by k order by 2 desc limit 5;
"""


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
    python = PYTHON % (max(100, int(60_000 * scale)), max(100, int(12_000 * scale)))
    sql = SQL % max(100, int(300_000 * scale))
    commands = {
        "gcc -O1, a large file": (["gcc", "-O1", "-c", "large.c", "-o", "large.o"], {}),
        "sqlite3, load and query": (["sqlite3", ":memory:", sql], {}),
        "sort, four threads": (["sort", "-n", "--parallel=4", "-o", "sorted", "numbers"], {"LC_ALL": "C"}),
        "xz -T2": (["xz", "-T2", "--block-size=1MiB", "-3", "-k", "-f", "numbers"], {}),
        "python, objects by malloc": ([sys.executable, "-S", "-c", python], {"PYTHONMALLOC": "malloc"}),
        "perl, a large hash": (["perl", "-e", f"my %h; $h{{$_ * 7919 % 999983}} .= $_ for 1..{int(600_000 * scale)}"], {}),
    }  # fmt: skip
    return {name: command for name, command in commands.items() if shutil.which(command[0][0])}


def _once(command: list[str], peer: Peer, environment: dict[str, str], folder: Path) -> tuple[float, int]:
    """Return seconds, and the bytes resident at most in the process or its largest child."""
    environment = {k: v for k, v in c_environment(peer).items() if k != "GLIBC_TUNABLES"} | environment
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} under {peer.name}: exit code {process.returncode}")
    return time.perf_counter() - begun, usage.ru_maxrss * 1024


def _mean_row(what: str, unit: str, rows: list[Row], bar: float) -> Row:
    """Return the geometric mean of all programs' ratios to the peer; each of the rows is one of its values."""
    against = MIMALLOC if all(MIMALLOC in row.cells for row in rows) else ""
    cells = {}
    for name in rows[0].cells:
        ratios = [paired_ratio(row.cells[name].rounds, row.cells[against or FREEHOLD].rounds) for row in rows]
        cells[name] = Cell([exp(sum(map(log, ratios)) / len(ratios))])
    return Row(what, unit, cells, bar if against else None)


def run(effort: Effort) -> Benchmark:
    peers = preloaded_peers()
    rows, peaks = [], []
    with tempfile.TemporaryDirectory(prefix="freehold-bench-") as name:
        folder = Path(name)
        for what, (command, environment) in _commands(folder, effort.scale).items():
            runs: dict[str, list[tuple[float, int]]] = {peer.name: [] for peer in peers}
            for number in range(ROUNDS[effort.name]):
                for peer in turned(peers, number):
                    runs[peer.name].append(_once(command, peer, environment, folder))
            memory = {name: int(median(peak for _, peak in figures)) for name, figures in runs.items()}
            cells = {
                name: Cell([seconds for seconds, _ in figures], also={"peak, MiB": memory[name] / (1 << 20)})
                for name, figures in runs.items()
            }
            rows.append(Row(what, "s", cells, against=MIMALLOC if MIMALLOC in cells else "best"))
            peaks.append(
                Row(what, "B", {name: Cell([float(peak) for _, peak in figures]) for name, figures in runs.items()})
            )
    means = [
        _mean_row("geometric mean of time, × mimalloc's", "×", rows, BAR),
        _mean_row("geometric mean of the peak, × mimalloc's", "×", peaks, PEAK_BAR),
    ]
    return Benchmark("programs", TITLE, rows + means)
