"""The malloc family under programs of ours: one program for each concern."""

from __future__ import annotations

import os
import subprocess

import pytest
from preloaded import CLEAN, LIBRARY, compiled, output_of, run

SHARED = ("-shared", "-fPIC")
MIB = 1 << 20


def test_F7_F8_F9_each_function_does_what_glibc_says() -> None:
    """Zero sizes, sizes that nobody has, alignments, errno, contents; and what libc itself allocates for its callers."""
    output_of(compiled("family.c"))


def test_new_and_delete_in_all_forms() -> None:
    """Those that throw do, with the new-handler called; those that do not return a null pointer."""
    output_of(compiled("operators.cpp"))


def test_a_programs_own_operators_are_the_ones_that_are_called() -> None:
    """Also by the forms that the program does not have: it counts the same calls as without the library."""
    program = compiled("own_operators.cpp")

    assert output_of(program, preload=False) == output_of(program)


def test_F41_requests_while_the_heap_boots() -> None:
    """What the heap asks of libc may allocate: it is served, and what was given then can be freed at any time."""
    done = run(compiled("family.c"), before=compiled("meddler.c", *SHARED))

    assert (0, "meddled often\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize("place", ["before", "after"])
def test_F41_allocating_forking_and_threads_in_constructors(place: str) -> None:
    """In a program's constructors, and in those of libraries preloaded before and after."""
    library = compiled("early.c", *SHARED)
    order = f"{library}:{LIBRARY}" if place == "before" else f"{LIBRARY}:{library}"

    assert "constructor\n" == output_of(compiled("early.c"))
    assert "constructor\n" == output_of(compiled("early.c"), preload=False, environment={"LD_PRELOAD": order})


def test_F41_what_the_loader_allocated_is_let_be() -> None:
    """It may be freed, and resized."""
    assert "good\n" == output_of(compiled("loader.c"))


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_library_that_is_merely_loaded_replaces_nothing(scope: str) -> None:
    """As a dependency of an extension module: C and C++ allocate where they did, whatever the scope it is loaded in."""
    output_of(compiled("loaded.c"), LIBRARY, scope, compiled("operators.cpp", *SHARED), preload=False)


def test_F26_keys_destructors_allocate() -> None:
    """Three rounds of them, after the heap's own: nothing is left behind by 200 threads."""
    assert "0\n" == output_of(compiled("teardown.c"))


def test_F29_a_handler_allocates_in_threads_that_do() -> None:
    """A signal handler that allocates and frees interrupts threads that allocate, free and resize."""
    assert int(output_of(compiled("handler.c"), 3, 2)) > 100


def test_F22_children_of_a_process_with_threads() -> None:
    """Each child frees what its parent allocated, allocates, and forks again."""
    assert "40\n" == output_of(compiled("forks.c"), 40)


def test_another_heap_gives_back_while_the_default_one_is_tiny() -> None:
    """The reclaim thread that a small program does without is started for a heap beside the default one."""
    library = f"-L{LIBRARY.parent}"
    program = compiled("guests.c", library, "-lc", "-lfreehold", f"-Wl,-rpath,{LIBRARY.parent}")
    peak, after = map(int, output_of(program).split())

    assert peak > 28
    assert after < peak - 20


@pytest.mark.parametrize("threads", [1, 4])
def test_memory_is_given_back_two_seconds_after_a_burst(threads: int) -> None:
    """200 MB, one block in 5,000 kept, by a program that goes to sleep: 3 % of the peak and 8 MiB are left."""
    peak, after, count = map(int, output_of(compiled("burst.c"), threads, 2).split())

    assert peak > 190e6
    assert after <= 0.03 * peak + 8 * MIB
    assert 2 == count  # the program's, and the one that gave it back


def test_a_small_program_has_no_second_thread() -> None:
    """What is too small to be worth giving back costs nobody a thread."""
    assert "1\n" == output_of("sh", "-c", "ls /proc/self/task | wc -l")


# ---- settings ----


def test_the_environment_says_how_long_idle_memory_is_kept() -> None:
    """FREEHOLD_DECAY=never keeps it all; FREEHOLD_CONF stands below FREEHOLD_DECAY."""
    environment = {"FREEHOLD_DECAY": "never", "FREEHOLD_CONF": "decay=1ms,publish=no"}  # nothing is left for a thread
    kept = output_of(compiled("burst.c"), 1, 2, environment=environment)
    peak, after, count = map(int, kept.split())

    assert after > 0.9 * peak
    assert 1 == count
    soon = output_of(compiled("burst.c"), 1, 0.5, environment={"FREEHOLD_CONF": "huge_pages=never, decay=50 ms"})
    assert int(soon.split()[1]) <= 0.03 * peak + 8 * MIB


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FREEHOLD_DECAY", "soon", "FREEHOLD_DECAY: decay='soon' is not a duration: expected seconds, text like"),
        ("FREEHOLD_DECAY", "10 parsecs", "decay='10 parsecs' is not a duration"),
        ("FREEHOLD_DECAY", "-5s", "decay='-5s' is not a duration"),
        ("FREEHOLD_HUGE_PAGES", "yes", "huge_pages='yes' is not known: expected 'auto' or 'never'"),
        ("FREEHOLD_CONF", "on_error=ignore", "FREEHOLD_CONF: on_error='ignore' is not known"),
        ("FREEHOLD_DECY", "1s", "FREEHOLD_DECY: there is no option 'decy'; did you mean 'decay'?"),
        ("FREEHOLD_CONF", "hugepages=never", "there is no option 'hugepages'; did you mean 'huge_pages'?"),
    ],
)
def test_what_is_wrong_in_the_environment_is_said_once(name: str, value: str, said: str) -> None:
    """And the program goes on; in a process that `freehold run` started, which has said it already, nothing is said."""
    done = run(compiled("early.c"), environment={name: value})

    assert (0, "constructor\n", 1) == (done.returncode, done.stdout, done.stderr.count("freehold: "))
    assert said in done.stderr
    assert "constructor\n" == output_of(compiled("early.c"), environment={name: value, "FREEHOLD_RUN": "1 - "})


def test_the_library_knows_pythons_options() -> None:
    """Each option that Python has is one, and its default is a good value for it."""
    from freehold import config

    options = {f"FREEHOLD_{name.upper()}": option.default for name, option in config.OPTIONS.items()}

    assert "constructor\n" == output_of(compiled("early.c"), environment=options)


@pytest.mark.parametrize(
    "value", ["1", "0.5", "1e-1", "500ms", " 10 s ", "2min", "1h", "3us", "0", "never", "-1", ".5s"]
)
def test_durations_are_read_as_python_reads_them(value: str) -> None:
    """What Python takes for a duration, the library does."""
    from freehold import config

    config.parse_duration("decay", value)

    assert "constructor\n" == output_of(compiled("early.c"), environment={"FREEHOLD_DECAY": value})


@pytest.mark.parametrize("value", ["", "s", "1x", "1 2", "..", "nan", "inf", "0x10", "1,5s"])
def test_what_is_no_duration_is_none_for_either(value: str) -> None:
    """What Python refuses, the library does."""
    from freehold import config

    with pytest.raises(ValueError, match="is not a duration"):
        config.parse_duration("decay", value)

    assert "is not a duration" in run(compiled("early.c"), environment={"FREEHOLD_DECAY": value}).stderr


# ---- crimes ----

CRIMES = [
    ("double free", "double free of", 112),
    ("double free of a large block", "double free of", 0),
    ("interior", "free of an interior address", 112),
    ("static", "free of an address that is not ours", 0),
    ("stack", "free of an address that is not ours", 0),
    ("mapping", "free of an address that is not ours", 0),
    ("realloc of a freed block", "use of the freed block", 112),
    ("realloc of a foreign one", "free of an address that is not ours", 0),
    ("size of a freed block", "use of the freed block", 112),
]


@pytest.mark.parametrize(("crime", "what", "size_class"), CRIMES)
def test_F41_a_crime_is_named(crime: str, what: str, size_class: int) -> None:
    """One line with the address, and SIGABRT; under FREEHOLD_ON_ERROR=report the line, and the program goes on."""
    done = run(compiled("crimes.c"), crime)
    address = done.stdout.split()[0]

    assert -6 == done.returncode
    assert done.stderr.startswith(f"freehold: fatal: {what} {address} class={size_class} heap=default pid=")
    assert 1 == done.stderr.count("\n")
    for environment in ({"FREEHOLD_ON_ERROR": "report"}, {"FREEHOLD_CONF": "on_error=report"}):
        report = run(compiled("crimes.c"), crime, environment=environment)
        address, rest = report.stdout.split("\n", 1)
        assert (0, "went on\n") == (report.returncode, rest)
        assert report.stderr.startswith(f"freehold: fatal: {what} {address} class={size_class} ")


def test_nothing_but_libc_is_needed() -> None:
    """The library has no Python in it, and asks for no other library."""
    needed = subprocess.run(["ldd", LIBRARY], env=CLEAN, capture_output=True, text=True, check=True).stdout
    names = {os.path.basename(line.split()[0]) for line in needed.splitlines()}

    assert names <= {"libc.so.6", "libdl.so.2", "libpthread.so.0", "linux-vdso.so.1", "ld-linux-x86-64.so.2",
                     "ld-linux-aarch64.so.1"}  # fmt: skip
