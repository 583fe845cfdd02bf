"""``temper demo``: everything once, on the data that comes with the package, in about three minutes on two cores.

Nearly all of that goes into seven runs that pass through the model in every step: one to fit, three each of full and LoRA to compare. A
second size would nearly double it.
"""

from __future__ import annotations

from pathlib import Path

from tempering.commands import check, compare, fit, folder
from tempering.commands.console import say
from tempering.commands.inputs import Source, quoted

MODEL = "minilm"
SETTINGS: tuple[str, ...] = ()  # of the recipes, beside their own
RECIPES = "full,lora,head"
SIZES = "128"
SEEDS = 3


def run(output_dir: Path) -> None:
    """Check, fit, compare and report under ``output_dir``; a second call goes on where the first one stopped."""
    from tempering import demo

    data = Path(demo.path())
    files = {split: str(data / f"{split}.csv") for split in ("train", "dev", "test")}
    source = Source(files["train"], files["dev"], files["test"], text="message", label="topic")
    model, study = output_dir / "model", output_dir / "study"
    folder.check_free(output_dir, resume=True, overwrite=False)

    _title(f"1. Look at the data:  temper check {data.name}/train.csv --dev ... --test ...")
    check.run(source, MODEL, as_json=False, strict=False)
    _title("2. Fine-tune:  temper fit train.csv --recipe full")
    fit.run(fit.Request(source, "full", SETTINGS, MODEL, 0, dict.fromkeys(("sampling", "init", "order", "dropout")), (), (), _place(model)))
    _title(f"3. Which recipe is best?  temper compare train.csv --recipes {RECIPES} --sizes {SIZES} --seeds {SEEDS}")
    compare.run(compare.Request(source, RECIPES, SETTINGS, SIZES, SEEDS, 1, MODEL, 0, (), 0, study), dry_run=False, as_json=False)
    _title("Now with your own file:")
    say(
        "  temper check   mine.csv --text TEXT_COLUMN --label LABEL_COLUMN",
        "  temper fit     mine.csv --text TEXT_COLUMN --label LABEL_COLUMN --output-dir my-model",
        "  temper predict my-model new.csv --output predictions.csv",
        f"The report of this demo: {quoted(study / 'report.html')}",
    )


def _place(where: Path) -> fit.Place:
    return fit.Place(where, resume=True)


def _title(words: str) -> None:
    say("", words, "")
