"""The house of the design, as a table: dependencies point downwards only, and siblings never import each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tempering
from tempering.methods import METHODS as CATALOGUE
from tempering.registry import find

SOURCE = Path(tempering.__file__).parent

# From the top to the bottom. A unit is a folder or a file; what stands on one floor are siblings. The learner writes itself to disk, so
# its file formats (saving, exporting, publishing) are one unit with it.
HOUSE = """
    __main__
    cli
    commands
    estimator | studying
    report
    study
    mixing
    trying | prompting
    fitting
    plan | choosing | ranking
    recipe | resuming | foretelling
    stages
    train
    tunings | framings | stabilizers
    passes | cache | corpora
    learner | outlining
    tasks | backbone | codec | dropout | footprint
    pretrained | registry | batching | quantizing | hashing
    contracts | streams | layouts | tags
    values | layout
    errors | demo | peak | methods | readme | forms
"""
WRITTEN = ("saving", "restoring", "base_model", "exporting", "exporting_text", "publishing")
ONE_UNIT = dict.fromkeys(WRITTEN, "learner") | {"schema": "codec", "overriding": "codec"}
METHODS = {"tunings", "framings", "stabilizers"}
METHODS_MAY = {"contracts", "values", "layout", "backbone", "layouts", "streams", "passes", "learner", "errors", "dropout", "tags"}
METHODS_MAY |= {"batching"}  # which rows go through the model together is theirs to say where they draw them

FLOOR = {
    unit.strip(): -height for height, floor in enumerate(line for line in HOUSE.splitlines() if line.strip()) for unit in floor.split("|")
}


def modules() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


def unit_of(dotted: str) -> str:
    """tempering.train.fit -> train."""
    first = dotted.split(".")[1]
    return ONE_UNIT.get(first, first)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of the library's own modules, also inside functions; those for type checkers aside."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports(ast.Module([other], []))
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("tempering."))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import; write the whole name"
            if node.module == "tempering":
                yield from ((node.lineno, f"tempering.{alias.name}") for alias in node.names if not alias.name.startswith("__"))
            elif node.module and node.module.startswith("tempering."):
                yield node.lineno, node.module
        yield from imports(node)


def wrong_arrows(unit: str, source: str) -> list[str]:
    """What ``source``, a file of ``unit``, imports although the table does not let it."""
    found = []
    for line, target in imports(ast.parse(source)):
        other = unit_of(target)
        if other == unit:
            continue
        if other not in FLOOR:
            found.append(f"line {line}: {other} is not in the house")
        elif FLOOR[other] >= FLOOR[unit]:
            found.append(f"line {line}: {unit} -> {other} does not point downwards")
        elif unit in METHODS and other not in METHODS_MAY:
            found.append(f"line {line}: a method ({unit}) may not know {other}")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_dependencies_point_downwards(path: Path) -> None:
    unit = unit_of(".".join(("tempering", *path.relative_to(SOURCE).with_suffix("").parts)))
    assert unit in FLOOR, f"{unit} has no floor in the house: give it one in the table above"
    assert not wrong_arrows(unit, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("unit", "source", "reason"),
    [
        ("contracts", "from tempering.learner import Learner", "does not point downwards"),
        ("tunings", "from tempering.framings.head import Head", "does not point downwards"),
        ("stabilizers", "import tempering.tunings.lora", "does not point downwards"),
        ("framings", "from tempering.tasks.task import Task", "may not know tasks"),
        ("train", "from tempering import fitting", "does not point downwards"),
        ("cli", "from tempering.attic import box", "is not in the house"),
        ("study", "def f():\n    from tempering.report import render", "does not point downwards"),
        ("learner", "if TYPE_CHECKING:\n    pass\nelse:\n    from tempering.train.fit import fit", "does not point downwards"),
    ],
)
def test_a_wrong_arrow_is_caught(unit: str, source: str, reason: str) -> None:
    (complaint,) = wrong_arrows(unit, source)
    assert reason in complaint


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("learner", "from tempering.saving import save"),
        ("framings", "from tempering.framings.losses import cross_entropy\nfrom tempering.contracts import Batch"),
        ("contracts", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tempering.learner import Learner"),
        ("cli", "from tempering import __version__"),
    ],
)
def test_a_right_arrow_is_let_through(unit: str, source: str) -> None:
    assert wrong_arrows(unit, source) == []


def test_no_floor_is_empty() -> None:
    present = {unit_of(".".join(("tempering", *p.relative_to(SOURCE).with_suffix("").parts))) for p in modules()}
    assert set(FLOOR) <= present


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_stay_small() -> None:
    assert {str(p.relative_to(SOURCE)): lines(p) for p in SOURCE.rglob("*.py") if lines(p) > 250} == {}
    assert lines(SOURCE / "registry.py") <= 80


def body_lines(function: ast.FunctionDef) -> int:
    """From the first statement after the docstring to the end."""
    documented = isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant)
    body = function.body[documented:]
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_stay_short() -> None:
    sizes = {
        f"{path.relative_to(SOURCE)}:{node.name}": body_lines(node)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: size for name, size in sizes.items() if size > 40} == {}
    assert sum(size < 25 for size in sizes.values()) >= 0.9 * len(sizes)


def family_literals(source: str, families: set[str]) -> list[str]:
    """String literals that are the name of a model family."""
    return [
        n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value in families
    ]


def test_only_layouts_names_a_model_family() -> None:
    from tempering.layouts import LAYOUTS

    families = set(LAYOUTS)
    assert family_literals('x = "bert" if y else "deberta-v2"', families) == ["bert", "deberta-v2"]
    others = [p for p in SOURCE.rglob("*.py") if p.name != "layouts.py"]
    assert {str(p.relative_to(SOURCE)): found for p in others if (found := family_literals(p.read_text(encoding="utf-8"), families))} == {}


def test_no_drawer_for_odds_and_ends() -> None:
    assert [p for p in SOURCE.rglob("*") if re.fullmatch(r"(utils?|helpers?|common|misc)(\.py)?", p.name)] == []
    classes = [n.name for p in modules() for n in ast.walk(ast.parse(p.read_text(encoding="utf-8"))) if isinstance(n, ast.ClassDef)]
    assert [name for name in classes if name.endswith(("Manager", "Helper", "Utils"))] == []


def test_every_registered_class_is_reached_by_its_own_name() -> None:
    for kind, entries in CATALOGUE.items():
        for method, path in entries.items():
            assert getattr(tempering, path.partition(":")[2]) is find(kind, method)


def test_public_names_are_sorted_and_there() -> None:
    names = tempering.__all__
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert set(names) == set(tempering._HOME)
    assert set(names) <= set(dir(tempering))
    for name in names:
        assert getattr(tempering, name).__name__ == name


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Lora'"):
        tempering.Lora  # noqa: B018


@pytest.mark.parametrize("statement", ["import tempering", "import tempering, tempering.registry, tempering.demo; tempering.DataError"])
def test_importing_the_library_imports_nothing_heavy(statement: str) -> None:
    heavy = "torch transformers numpy pandas pyarrow datasets sklearn scipy matplotlib peft accelerate optuna".split()
    code = f"import sys; {statement}; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_importing_the_library_takes_under_a_fifth_of_a_second() -> None:
    code = "import time; t = time.perf_counter(); import tempering; print(time.perf_counter() - t)"
    runs = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    assert min(runs) < 0.2
