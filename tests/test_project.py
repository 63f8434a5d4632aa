"""The project around the code: what its documents claim is there, and its public names say what they are."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import freehold
from freehold.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ROW = re.compile(r"[VSZAPERLHF]\d+")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def console_commands(text: str) -> list[list[str]]:
    """Return the words of each line that a console block shows after its prompt."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line[2:].split() for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def make_verbs() -> set[str]:
    return set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


def rows_of_tests() -> set[str]:
    """Return every row of the contract that the name of a test, or of a class of tests, has in it."""
    files = ROOT.glob("tests/**/test_*.py")
    trees = [ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in files]
    names = [node.name for tree in trees for node in tree if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    tests = [name for name in names if name.lower().startswith("test")]
    return {row for name in tests for row in ROW.findall(name)}


def test_every_promised_row_has_a_test_that_names_it() -> None:
    """No row of docs/contract.md is without a test."""
    promised = re.findall(rf"^\| ({ROW.pattern}) \|", read("docs/contract.md"), re.MULTILINE)
    named = rows_of_tests()

    assert promised
    assert [] == [row for row in promised if row not in named]


@pytest.mark.parametrize("name", ["freehold", "freehold.layers", "freehold.errors"])
def test_public_names_have_docstrings(name: str) -> None:
    """Everything in the module's `__all__` that can have a docstring has one."""
    module = importlib.import_module(name)
    values = {public: getattr(module, public) for public in module.__all__}

    assert [] == [public for public, value in values.items() if callable(value) and not inspect.getdoc(value)]


def test_public_classes_and_functions_are_the_packages_own() -> None:
    """What `freehold` offers is defined in freehold."""
    assert {"freehold"} == {getattr(freehold, name).__module__.partition(".")[0] for name in freehold.__all__}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_commands_exist(document: Path) -> None:
    """What a console block shows is a verb of the Makefile, or of the command line."""
    commands = console_commands(document.read_text(encoding="utf-8"))
    makes = [target for words in commands if words[0] == "make" for target in words[1:] if "=" not in target]
    verbs = [words[1] for words in commands if words[0] == "freehold"]

    assert [] == [target for target in makes if target not in make_verbs() and not target.startswith("flavour-")]
    assert [] == [verb for verb in verbs if verb not in VERBS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """Every relative link names a file of the tree."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))

    assert [] == [target for target in targets if not (document.parent / target).exists()]


def test_the_readmes_program_is_python() -> None:
    """The README's examples parse, and use only public names of freehold."""
    for block in re.findall(r"^```python\n(.*?)^```", read("README.md"), re.MULTILINE | re.DOTALL):
        used = [
            node.attr
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "freehold"
        ]

        assert [] == [name for name in used if name not in freehold.__all__]


def test_every_public_verb_of_make_is_explained() -> None:
    """`make help` lists each verb but the inner ones."""
    explained = set(re.findall(r"^([a-z]+):.*## ", read("Makefile"), re.MULTILINE))

    assert {"host"} == make_verbs() - explained


def test_the_versions_of_python_are_the_same_everywhere() -> None:
    """pyproject.toml's classifiers, its lower bound, and the matrix of the checks agree."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    classified = [name.rpartition(" ")[2] for name in project["classifiers"] if ":: Python :: 3." in name]
    tested = re.search(r"python: \[(.*)\]", read(".github/workflows/ci.yml"))

    assert tested is not None
    assert classified == re.findall(r"3\.\d+", tested.group(1))
    assert project["requires-python"] == f">={classified[0]}"


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    """CHANGELOG.md begins with what is not released yet."""
    assert "Unreleased" == re.findall(r"^## \[(.*?)\]", read("CHANGELOG.md"), re.MULTILINE)[0]
