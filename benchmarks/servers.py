"""Servers of others, each started under a peer's malloc, driven from outside, and looked at from outside.

A server lives in a folder of its own and is gone, with all its threads, when its `with` block ends. It listens on a
socket in that folder, or on a free port of the loopback interface. It is driven by a program made for that, which has
the C library's own malloc, whoever serves the server.

Thread-safety: none needed; one server runs at a time.
Does not: measure, nor judge: `bench_servers` does.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from benchmarks.peers import Peer, c_environment

PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
)  # where servers are, for those who are not root
ANSWERS_WITHIN_S = 20.0
ENDS_WITHIN_S = 10.0
PATIENCE_S = 120.0  # with what drives it


def _output(*command: object) -> str:
    words, environment = list(map(str, command)), c_environment() | {"PATH": PATH}
    run = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    if run.returncode != 0:
        raise RuntimeError(f"{command[0]}: exit code {run.returncode}: {run.stdout}{run.stderr}")
    return run.stdout


class Server:
    """One process that serves until the block ends; what each kind is, its class says."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]  # what the machine must have: the server, and what drives it
    holds_data: ClassVar[bool] = False  # the load leaves some behind

    def __init__(self, peer: Peer, folder: Path) -> None:
        self.peer = peer
        self.folder = folder
        self._log = folder / "log"
        folder.chmod(0o755)  # a server that gives up root still reads it
        self.prepare()
        environment = {name: value for name, value in c_environment(peer).items() if name != "GLIBC_TUNABLES"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self.command(), env=environment | {"PATH": PATH}, cwd=folder, stdout=log, stderr=log
            )

    @classmethod
    def why_not(cls) -> str:
        """Return what this machine lacks; empty when it has all."""
        return ", ".join(program for program in cls.programs if not shutil.which(program, path=PATH))

    # ---- what each kind says ----

    def prepare(self) -> None:
        """Write what it serves or reads."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def load(self, scale: float) -> tuple[float, float]:
        """Drive it; return the requests that it answered, and the seconds that took."""
        raise NotImplementedError

    def live_bytes(self) -> int:
        """Return what it says that it holds in blocks."""
        return 0

    def drop(self) -> None:
        """Have it drop what it holds."""

    # ---- what is the same for all ----

    def __enter__(self) -> Self:
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        died = self._process.poll()
        self._end()
        if died is not None:
            raise RuntimeError(f"{self.name} under {self.peer.name} died of {died}: {self._log.read_text()}") from value

    def _wait(self) -> None:
        given_up = time.monotonic() + ANSWERS_WITHIN_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > given_up:
                raise RuntimeError(f"{self.name} under {self.peer.name} does not answer: {self._log.read_text()}")
            time.sleep(0.02)

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def processor_s(self) -> float:
        """Return the seconds that all of its threads took so far, the kernel's part included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Redis(Server):
    """redis-server, not writing to disk: keys, lists, hashes, sets and sorted sets of values from 24 bytes to 20 KB."""

    name = "redis"
    programs = ("redis-server", "redis-benchmark", "redis-cli")
    holds_data = True
    KEYS = 200_000
    LOADS = (  # redis-benchmark's tests, the bytes of a value, requests of each
        ("set,get,incr", 24, 400_000),
        ("set,get,lpush,rpush,lpop,hset,sadd,zadd", 300, 200_000),
        ("set,get,lpush,rpop", 4_000, 30_000),
        ("set", 20_000, 4_000),
        ("set,get,sadd,spop,zpopmin", 60, 200_000),
    )

    def command(self) -> list[str]:
        return ["redis-server", "--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no"]

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    def _asked(self, *words: str) -> str:
        return _output("redis-cli", "-s", self._socket, *words)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asked:
            return asked.connect_ex(str(self._socket)) == 0

    def load(self, scale: float) -> tuple[float, float]:
        done, begun = 0, time.perf_counter()
        for tests, value_bytes, each in self.LOADS:
            count, keys = (max(100, int(number * scale)) for number in (each, self.KEYS))
            what = f"-q -P 16 -t {tests} -d {value_bytes} -n {count} -r {keys}"
            _output("redis-benchmark", "-s", self._socket, *what.split())
            done += count * len(tests.split(","))
        return done, time.perf_counter() - begun

    def live_bytes(self) -> int:
        found = re.search(r"used_memory:(\d+)", self._asked("info", "memory"))
        return int(found[1]) if found else 0

    def drop(self) -> None:
        self._asked("flushall")


APACHE = """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/pid
ErrorLog {folder}/errors
Listen 127.0.0.1:{port}
{user}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule autoindex_module {modules}/mod_autoindex.so
LoadModule mime_module {modules}/mod_mime.so
LoadModule filter_module {modules}/mod_filter.so
LoadModule deflate_module {modules}/mod_deflate.so
LoadModule lua_module {modules}/mod_lua.so
TypesConfig {folder}/types
ThreadsPerChild 48
MaxRequestWorkers 48
MaxKeepAliveRequests 0
DocumentRoot {folder}/pages
IndexOptions FancyIndexing
<Directory {folder}/pages>
  Options Indexes
</Directory>
AddOutputFilterByType DEFLATE text/html
LuaScope once
LuaMapHandler "^/made$" {folder}/made.lua
"""
MADE = """
function handle(r)
  local rows, names = {}, {}
  for i = 1, 400 do rows[i] = {id = i * 7919 % 997, name = "name " .. i, tags = {i, tostring(i)}} end
  table.sort(rows, function(a, b) return a.id < b.id end)
  for i, row in ipairs(rows) do names[i] = row.id .. ": " .. row.name .. " " .. table.concat(row.tags, ",") end
  r.content_type = "text/plain"
  r:puts(table.concat(names, "\\n"))
  return apache2.OK
end
"""
ASKED = """
local paths, number = {"/made", "/page.html", "/made", "/"}, 0
function request()
  number = number % #paths + 1
  return wrk.format("GET", paths[number], {["Accept-Encoding"] = "gzip"})
end
"""


def _who_serves() -> str:
    """Return what has apache2 give up root: it does not serve as root, and another may not name anyone."""
    if os.geteuid() != 0:
        return ""
    nobody = pwd.getpwnam("nobody")
    return f"User #{nobody.pw_uid}\nGroup #{nobody.pw_gid}"


class Apache(Server):
    """apache2, one process of 48 threads: what a Lua program makes, a page packed as it is sent, a folder's listing."""

    name = "apache2"
    programs = ("apache2", "wrk")
    MODULES = Path("/usr/lib/apache2/modules")
    FILES = 40
    CONNECTIONS = 16
    SECONDS = 6

    @classmethod
    def why_not(cls) -> str:
        modules = [cls.MODULES / f"mod_{name}.so" for name in ("mpm_event", "deflate", "lua")]
        return super().why_not() or ", ".join(str(module) for module in modules if not module.exists())

    def prepare(self) -> None:
        pages = self.folder / "pages"
        pages.mkdir()
        for number in range(self.FILES):
            (pages / f"file{number}.txt").write_text(f"{number}\n" * 100)
        (pages / "page.html").write_text("".join(f"<p>{i} {i * 7919 % 9973}</p>\n" for i in range(150)))
        (self.folder / "types").write_text("text/html html\ntext/plain txt\n")
        (self.folder / "asked.lua").write_text(ASKED)
        (self.folder / "made.lua").write_text(MADE)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        text = APACHE.format(folder=self.folder, port=self._port, user=_who_serves(), modules=self.MODULES)
        (self.folder / "conf").write_text(text)

    def command(self) -> list[str]:
        return ["apache2", "-X", "-f", str(self.folder / "conf")]

    def answers(self) -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", self._port)) == 0

    def load(self, scale: float) -> tuple[float, float]:
        seconds = max(1, round(self.SECONDS * scale))
        url = f"http://127.0.0.1:{self._port}/"
        said = _output("wrk", "-t1", f"-c{self.CONNECTIONS}", f"-d{seconds}", "-s", self.folder / "asked.lua", url)
        found = re.search(r"([1-9]\d*) requests in(?s:.*)Requests/sec:\s*([\d.]+)", said)
        if not found or "Non-2xx" in said:
            raise RuntimeError(f"apache2 under {self.peer.name}: {said}")
        return float(found[1]), float(found[1]) / float(found[2])


SERVERS: tuple[type[Server], ...] = (Redis, Apache)
