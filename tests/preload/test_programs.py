"""Programs that are not ours, as any Debian has them: under the library they do what they do without it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from preloaded import CLEAN, run

SETUP = """
set -e
export HOME=$PWD LC_ALL=C GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_AUTHOR_DATE='2001-01-01T00:00:00Z'
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_COMMITTER_DATE='2001-01-01T00:00:00Z'
"""
PROGRAMS = {
    "ls": "ls -lR /usr/include /etc 2>/dev/null | cksum",
    "sh": 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); x="$x$i"; done; echo "$x" | cksum; (echo a; echo b) | while read l; do echo "<$l>"; done',
    "sort": "seq 1 200000 | sort -R --random-source=/usr/bin/env | sort -n --parallel=4 -S 20M | cksum",
    "awk": "seq 1 100000 | awk '{ s[$1 % 997] = s[$1 % 997] $1 } END { for (i = 0; i < 997; i++) print s[i] }' | cksum",
    "sed": "seq 1 50000 | sed -n 'H;${x;s/\\n/,/g;p}' | cksum",
    "grep": "grep -rhoE '[a-z]+_t' /usr/include/stdio.h /usr/include/stdlib.h | sort | uniq -c | cksum",
    "tar": "tar cf - /usr/include 2>/dev/null | tar tf - | sort | cksum",
    "xz": "seq 1 300000 | xz -T2 --block-size=500KiB -3 > a.xz && xz -t a.xz && cksum < a.xz && xz -dc a.xz | cksum",
    "gzip": "seq 1 300000 | gzip -n | cksum",
    "perl": "perl -e 'my %h; $h{$_ % 1009} .= $_ for 1..200000; print length(join q(,), map { qq($_$h{$_}) } sort keys %h), qq(\\n)'",
    "git": "git init -q . && seq 1 20000 > f && git add f && git commit -qm one && seq 1 3 20000 > f && git commit -qam two && git gc -q && git fsck --full && git log --stat -p | cksum",
    "gcc": "printf '#include <stdio.h>\\n#include <stdlib.h>\\nint main(void){char*p=malloc(9);puts(p?\"ok\":\"\");free(p);}' > a.c && gcc -O2 -c a.c -o a.o && cksum a.o && gcc a.o -o a && ./a",
    "g++": "printf '#include <map>\\n#include <string>\\n#include <iostream>\\nint main(){std::map<std::string,int> m;for(int i=0;i<9999;i++)m[std::to_string(i)]=i;std::cout<<m.size()<<m[\"77\"];}' > a.cpp && g++ -O1 a.cpp -o a && ./a",
    "python3": "python3 -c 'import json; d = {str(i): [i] * (i % 50) for i in range(20000)}; print(hash(json.dumps(d)) != 0, len(json.dumps(d)))'",
    "python3 malloc": "PYTHONMALLOC=malloc python3 -c 'import ast, json; t = ast.parse(open(json.__file__).read()); print(len(ast.dump(t)), sum(len(str(i)) for i in range(300000)))'",
    "sqlite3": "sqlite3 a.db 'create table t(a integer primary key, b text); with recursive n(i) as (select 1 union all select i+1 from n where i < 50000) insert into t select i, hex(i*7919) from n; create index x on t(b); select count(*), sum(length(b)), max(b) from t; pragma integrity_check;'",
    "find": "find /usr/lib -name '*.so*' -printf '%s %f\\n' 2>/dev/null | sort | cksum",
    "openssl": "seq 1 100000 | openssl dgst -sha256",
    "gdb": "gdb -nx -batch -ex 'p 6*7' -ex 'info line main' 2>&1 | head -1",
    "gs": "gs -q -dNODISPLAY -dBATCH -c '0 1 1 10000 {add} for == quit'",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_says_what_it_says_without_the_library(name: str, tmp_path: Path) -> None:
    """Exit code, output and errors are the same."""
    if shutil.which(name.split(maxsplit=1)[0]) is None:
        pytest.skip(f"no {name} here")
    seen = []
    for preload in (False, True):
        (folder := tmp_path / str(preload) / "w").mkdir(parents=True)
        seen.append(run("sh", "-c", SETUP + PROGRAMS[name], preload=preload, cwd=folder))
    plain, ours = ((done.returncode, done.stdout, done.stderr) for done in seen)

    assert 0 == plain[0], plain
    assert plain == ours


def test_redis_serves(tmp_path: Path) -> None:
    """A server that counts what it allocates by malloc_usable_size, and forks to save."""
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        pytest.skip("no redis-server here")
    script = """
    redis-server --port 0 --unixsocket $PWD/s --save '' --dir $PWD --daemonize no > log & server=$!
    for i in 1 2 3 4 5 6 7 8 9 10; do redis-cli -s $PWD/s ping > /dev/null 2>&1 && break; sleep 0.5; done
    seq 1 20000 | sed 's/.*/set key& value&/' | redis-cli -s $PWD/s --pipe > /dev/null
    redis-cli -s $PWD/s bgsave > /dev/null; sleep 1
    redis-cli -s $PWD/s get key777; redis-cli -s $PWD/s flushall; redis-cli -s $PWD/s shutdown nosave; wait $server
    """
    done = run("sh", "-c", script, cwd=tmp_path)

    assert (0, "value777\nOK\n") == (done.returncode, done.stdout), done.stderr


@pytest.mark.parametrize("first", ["jemalloc", "mimalloc", "tcmalloc_minimal"])
def test_F38_behind_another_malloc_it_keeps_out_of_the_way(first: str) -> None:
    """The first in LD_PRELOAD serves; C's and C++'s blocks all come from it."""
    found = sorted(Path("/usr/lib").glob(f"*-linux-gnu/lib{first}.so.?"))
    if not found:
        pytest.skip(f"no lib{first} here")
    code = "import ctypes; print(sum(i for i in range(1000))); ctypes.CDLL(None).free(ctypes.CDLL(None).strdup(b'x'))"
    plain = subprocess.run(["python3", "-c", "print(499500)"], env=CLEAN, capture_output=True, text=True, check=True)
    done = run("python3", "-c", code.replace("ctypes.CDLL(None).free(ctypes.CDLL(None).strdup(b'x'))", "pass"),
               before=str(found[0]))  # fmt: skip

    assert (0, plain.stdout) == (done.returncode, done.stdout), done.stderr
