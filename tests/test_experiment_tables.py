"""What the committed tables of the experiments were made of."""

# ruff: noqa: F811 - the fixture `script` is imported and then asked for by its name
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.test_experiments import FOLDER, Loader, script  # noqa: F401 - a fixture


def test_beside_a_table_stands_what_it_was_made_of_and_the_same_command_goes_on_from_there(
    script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("tagging")
    import cells

    words = ["--rows", "5", "--output", str(tmp_path / "a"), "--table", str(tmp_path / "t.md"), "--model", str(FOLDER / ".." / "tests")]
    monkeypatch.setattr(sys, "argv", [str(FOLDER / "tagging.py"), *words, "--hours=1", "bf16=true"])
    one, shared = {"score": 0.5}, ("model", "rows")
    cells.carry_out(module.parsed(words), shared, lambda made: made.get("x", lambda: one), lambda made, given: "t")
    kept = json.loads((tmp_path / "t.json").read_text())
    assert kept["command"] == ["experiments/tagging.py", "--rows", "5", "--model", "tests", "bf16=true"]
    assert kept["settings"] == {"model": "tests", "rows": 5} and kept["cells"] == {"x": one}
    again = [*words, "--output", str(tmp_path / "b"), "--table", str(tmp_path / "u.md"), "--cells", str(tmp_path / "t.json")]
    made: list[str] = []
    cells.carry_out(module.parsed(again), shared, lambda c: [c.get(k, lambda k=k: made.append(k)) for k in "xy"], lambda c, given: "u")
    assert made == ["y"]
    with pytest.raises(SystemExit, match=r"t\.json holds cells made with rows=5, and now rows=6"):
        cells.carry_out(module.parsed([*again, "--rows", "6"]), shared, lambda c: None, lambda c, given: "u")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("**/*.json")), ids=lambda p: str(p.relative_to(FOLDER)))
def test_a_committed_table_is_that_of_the_cells_beside_it(
    path: Path, script: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = json.loads(path.read_text())
    place = Path(kept["command"][0]).relative_to("experiments")
    module = script(place.stem if place.parent == Path() else f"{place.stem} in {place.parent}")
    words = [*kept["command"][1:], "--cells", str(path), "--output", str(tmp_path), "--table", str(tmp_path / "t.md"), "--hours", "0"]
    monkeypatch.setattr(sys, "argv", [kept["command"][0], *words])
    module.main()
    assert (tmp_path / "t.md").read_text() == path.with_suffix(".md").read_text()
    assert json.loads((tmp_path / "t.json").read_text()) == kept
