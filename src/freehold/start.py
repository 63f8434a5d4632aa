"""What runs before the program in a process started by `freehold run`, and in its children.

`freehold run` puts the folder `startup` in PYTHONPATH; the `sitecustomize` in it calls `start`. Children inherit the
environment, so they do the same, whatever starts them: spawn, forkserver, loky, subprocess. (Forked ones have it
already.)
Not those started with ``python -I``, ``-E`` or ``-S``: these ignore PYTHONPATH or do not look for a `sitecustomize`.

Does not: import NumPy, or anything else that the program might not; or raise.
"""

from __future__ import annotations

import os
import sys

from freehold import arrow_import, config, domains, numpy_import, opening

__all__ = ["FOLDER", "LIBRARY", "default_environment", "environment", "preload", "start", "start_enabled"]

LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libfreehold.so")
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "startup")


def environment(options: dict[str, str], *, address: str = "") -> dict[str, str]:
    """Return the environment for a program that this process becomes by exec.

    Args:
        options: as texts, by name: they are told to children too.
        address: where it says that it begins and ends, or an empty text. Its children say nothing.
    """
    environ = _with_our_folder()
    environ["FREEHOLD"] = "1"
    environ["FREEHOLD_RUN"] = f"{os.getpid()} {address}"
    environ.update({f"FREEHOLD_{name.upper()}": value for name, value in options.items()})
    return environ


def default_environment() -> dict[str, str]:
    """Return the environment for the same program under the default allocator.

    Of freehold there is nothing in it but the folder in PYTHONPATH, so that the program says when it begins and ends.
    """
    environ = _with_our_folder()
    environ["FREEHOLD"] = "0"
    environ.pop("FREEHOLD_RUN", None)
    others = [path for path in environ.pop("LD_PRELOAD", "").replace(" ", ":").split(":") if path not in ("", LIBRARY)]
    return environ | ({"LD_PRELOAD": ":".join(others)} if others else {})


def _with_our_folder() -> dict[str, str]:
    """Return this process's environment, with the folder `startup` first in PYTHONPATH."""
    environ = dict(os.environ)
    followed = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != FOLDER]
    return environ | {"PYTHONPATH": os.pathsep.join([FOLDER, *followed])}


def preload(environ: dict[str, str]) -> None:
    """Have the library be the malloc of the program that *environ* is for, behind whatever is preloaded already.

    Raises:
        ValueError: its path can not be written in LD_PRELOAD.
    """
    if " " in LIBRARY or ":" in LIBRARY:
        raise ValueError(f"--preload: {LIBRARY}: a path in LD_PRELOAD can hold neither spaces nor colons")
    before = [path for path in environ.get("LD_PRELOAD", "").replace(" ", ":").split(":") if path]
    environ["LD_PRELOAD"] = ":".join(before if LIBRARY in before else [*before, LIBRARY])


def start() -> None:
    """Have Python's objects taken now if the options say so, and NumPy and Arrow when they are imported."""
    if os.environ.get("FREEHOLD", "0") == "0" or not _is_built():
        return
    # `freehold run` has read everything, and has said what is wrong with it.
    said = "FREEHOLD_RUN" in os.environ
    settings = config.resolve(folder="", say=(lambda _: None) if said else None)
    pid, _, address = os.environ.get("FREEHOLD_RUN", "").partition(" ")
    if address and pid == str(os.getpid()) and not settings["profile"].value:
        from freehold import profiling

        profiling.begin_report()
    _begin(settings)


def start_enabled(options: dict[str, str]) -> None:
    """Do the same where `freehold enable` asks for it. Under `freehold run` both are done, which does no harm.

    Args:
        options: what `freehold enable` was told; the environment comes before them.
    """
    try:
        if os.environ.get("FREEHOLD") != "0" and _is_built():
            _begin(config.resolve(enabled=options, folder=""))
    except Exception as problem:  # whatever it is, Python starts
        sys.stderr.write(f"freehold: not started: {type(problem).__name__}: {problem}\n")


def _begin(settings: dict[str, config.Setting]) -> None:
    opening.choose(settings)
    for remark in domains.take(settings["objects"].value, opening.open_heap, first=True):
        sys.stderr.write(f"freehold: {remark}\n")
    numpy_import.arm(opening.open_heap)
    arrow_import.take(opening.open_heap, on=settings["arrow"].value)
    if settings["log"].value:
        from freehold import logs

        logs.start_logging()
    if settings["profile"].value:
        from freehold import profiling

        profiling.begin_program(
            settings["profile"].value,
            interval=settings["profile_interval"].value,
            growth=settings["growth"].value,
            its_own=os.environ.get("FREEHOLD_RUN", "").partition(" ")[0] == str(os.getpid()),
        )


def _is_built() -> bool:
    """Return whether there are compiled modules for this very interpreter: a child may run under another one.

    None is imported for that: a program that uses none has none.
    """
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "face")
    found = (finder.find_spec("freehold.face.process_heap", [folder]) for finder in sys.meta_path)
    spec = next(filter(None, found), None)
    return spec is not None and str(spec.origin).endswith(".so")
