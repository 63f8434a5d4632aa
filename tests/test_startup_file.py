"""`freehold enable`, `disable` and `doctor`: in an environment of their own, where a plain Python must find freehold."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import freehold
from freehold import start, startup_file

HERE = Path(freehold.__file__).parent
SAYS = "import freehold; print(freehold.install().taken)"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment in which freehold is installed, as far as a link can be."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "freehold").symlink_to(HERE)
    return folder


@pytest.fixture
def run(environment):
    """Run the environment's Python with nothing in its environment that names freehold, and put things right after."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FREEHOLD", "PYTHON"))}

    def run_python(*arguments, **more):
        command = [environment / "bin" / "python", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean | more, cwd="/")

    yield run_python
    for file in environment.glob("lib/python*/site-packages/*.pth"):
        file.unlink()


def file_of(environment):
    return next(environment.glob("lib/python*/site-packages")) / startup_file.NAME


def test_nothing_is_enabled_unasked(run, environment):
    """A fresh environment has no start-up file, and its Python starts without freehold."""
    assert not file_of(environment).exists()
    assert "False\n" == run("-c", "import sys; print('freehold' in sys.modules)").stdout


def test_enable_starts_every_python_and_disable_ends_that(run, environment):
    """From one to the other, also under -I, and in children; options hold where the environment does not say otherwise."""
    enabled = run("-m", "freehold", "enable", "--objects=yes")
    assert (0, f"enabled: {file_of(environment)}\n", "") == (enabled.returncode, enabled.stdout, enabled.stderr)
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {SAYS!r}])"
    for program in (["-c", SAYS], ["-I", "-c", SAYS], ["-c", child]):
        assert "('objects',)\n" == run(*program).stdout
    assert "()\n" == run("-c", SAYS, FREEHOLD_OBJECTS="no").stdout
    assert "()\n" == run("-c", SAYS, FREEHOLD="0").stdout

    disabled = run("-m", "freehold", "disable")
    assert (0, "") == (disabled.returncode, disabled.stderr)
    assert not file_of(environment).exists()
    assert "()\n" == run("-c", SAYS).stdout


def test_both_are_idempotent(run, environment):
    """Doing it twice says so, and changes nothing."""
    first, second = (run("-m", "freehold", "enable") for _ in range(2))
    text = file_of(environment).read_text()
    assert ("enabled", "already enabled") == (first.stdout.partition(":")[0], second.stdout.partition(":")[0])
    assert 1 == text.count("start_enabled")

    assert [0, 0] == [run("-m", "freehold", "disable").returncode for _ in range(2)]
    assert "not enabled" in run("-m", "freehold", "disable").stdout


def test_a_dry_run_changes_nothing(run, environment):
    """It shows the path and the text, and leaves the folder as it is."""
    shown = run("-m", "freehold", "enable", "--dry-run", "--decay=9s")
    assert f"would write: {file_of(environment)}\n" in shown.stdout
    assert "9s" in shown.stdout
    assert not file_of(environment).exists()

    run("-m", "freehold", "enable")
    assert "would remove" in run("-m", "freehold", "disable", "--dry-run").stdout
    assert file_of(environment).exists()


def test_a_wrong_option_is_named_and_nothing_is_written(run, environment):
    """One line, exit code 2."""
    done = run("-m", "freehold", "enable", "--objects=most")

    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert "objects='most' is not known" in done.stderr
    assert not file_of(environment).exists()


def test_a_file_of_somebody_elses_is_left_alone(run, environment):
    """Neither verb touches what it did not write."""
    file_of(environment).write_text("# mine\n")
    for verb in ("enable", "disable"):
        done = run("-m", "freehold", verb)
        assert 1 == done.returncode
        assert "was not written by `freehold enable`" in done.stderr
    assert "# mine\n" == file_of(environment).read_text()


@pytest.mark.parametrize("verb", ["write", "remove"])
def test_a_folder_that_can_not_be_written_is_named(verb, tmp_path, monkeypatch):
    """The error says which folder, why, and what to do. Nothing is left half done."""
    file = tmp_path / startup_file.NAME
    file.write_text(startup_file.content({}))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(startup_file, "path", lambda: str(file))
    monkeypatch.setattr(startup_file, "_check_installed", lambda: None)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "remove", refuse)
    with pytest.raises(startup_file.CanNot, match=f"{tmp_path}: Permission denied; .*venv"):
        startup_file.write("new") if verb == "write" else startup_file.remove()
    assert startup_file.content({}) == file.read_text()


def test_enabling_what_is_not_installed_is_refused(run, environment):
    """A freehold that only PYTHONPATH names would not be found by a plain Python."""
    site = file_of(environment).parent
    (site / "freehold").unlink()
    try:
        done = run("-m", "freehold", "enable", PYTHONPATH=str(HERE.parent))
    finally:
        (site / "freehold").symlink_to(HERE)

    assert (1, "") == (done.returncode, done.stdout)
    assert "freehold is not installed for" in done.stderr
    assert not file_of(environment).exists()


def test_the_file_does_no_harm_where_freehold_is_gone(run, environment):
    """Python starts as ever, without a word."""
    run("-m", "freehold", "enable")
    link = file_of(environment).parent / "freehold"
    link.unlink()
    try:
        done = run("-c", "print(1)")
    finally:
        link.symlink_to(HERE)

    assert (0, "1\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_trouble_at_the_start_is_said_and_python_starts(monkeypatch, capsys):
    """Whatever goes wrong, one line, and no exception."""
    monkeypatch.delenv("FREEHOLD", raising=False)
    monkeypatch.setattr(start, "_is_built", lambda: 1 / 0)
    start.start_enabled({})

    assert "freehold: not started: ZeroDivisionError: division by zero\n" == capsys.readouterr().err


# ---- doctor ----


def doctor(run, *arguments, **environ):
    done = run("-m", "freehold", "doctor", "--json", *arguments, **environ)
    return done.returncode, json.loads(done.stdout)


def test_doctor_says_what_works(run):
    """In a sound environment: objects can be taken, and the system's facts are there. Plain, the same lines."""
    code, found = doctor(run)
    plain = run("-m", "freehold", "doctor")

    assert (0, True) == (code, found["objects"]["good"])
    assert {"python", "numpy", "arrow", "libc", "kernel", "huge pages", "memory", "enabled"} <= set(found)
    assert 0 == plain.returncode
    assert len(found) == len(plain.stdout.splitlines())
    assert any(line.startswith("yes  objects") for line in plain.stdout.splitlines())


def test_doctor_says_what_does_not(run):
    """Debug hooks, tracing, a switch: each is found, and the exit code is 1 where objects can not be taken."""
    code, found = doctor(run, PYTHONMALLOC="debug", PYTHONTRACEMALLOC="1", FREEHOLD="0")

    assert (1, False) == (code, found["objects"]["good"])
    assert "debug hooks" in found["objects"]["says"]
    assert {"debug hooks", "tracemalloc", "FREEHOLD"} <= set(found)


def test_doctor_names_preloads(run):
    """A library in LD_PRELOAD is named; one that does not exist does no harm."""
    _, found = doctor(run, LD_PRELOAD="/nowhere/libjemalloc.so.2")

    assert "another allocator" in found["preload libjemalloc.so.2"]["says"]


def test_doctor_sees_the_start_up_file(run, environment):
    """Where freehold is enabled, it says by which file."""
    run("-m", "freehold", "enable")

    assert str(file_of(environment)) == doctor(run)[1]["enabled"]["says"]


def test_doctor_says_why_install_does_not_work(run, monkeypatch, capsys):
    """Where install() fails, its last line is the reason."""
    from freehold.cli import doctor as verb

    monkeypatch.setattr(verb, "ASK", "raise SystemExit('nothing works')")

    assert verb.Finding("install()", False, "does not work: nothing works") in list(verb.findings())
    assert sys.executable
