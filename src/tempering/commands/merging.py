"""``temper merge``: fold what a tuning added into the weights, or add several saved changes of one base model up."""

from __future__ import annotations

from pathlib import Path

from tempering.commands.console import say
from tempering.commands.folder import check_apart, check_foreign, check_free, clear, finished
from tempering.commands.inputs import quoted
from tempering.contracts import predicts
from tempering.errors import ModelError, RecipeError


def run(folders: list[str], weights: str | None, output_dir: Path, overwrite: bool, model: str | None = None) -> None:
    """Write the merged model to ``output_dir``; ``model`` is where the base model of ``folders`` is now."""
    shares = _shares(weights, len(folders))
    check_free(output_dir, False, overwrite)
    if model is not None:
        check_apart(output_dir, model)
    from tempering.restoring import read_meta

    for folder in folders:
        if not finished(Path(folder)):
            raise ModelError(f"{folder}: holds no fitted model; give folders that temper fit wrote")
        if output_dir.resolve() in (Path(folder).resolve(), Path(folder).resolve() / "base"):
            raise RecipeError(f"--output-dir {output_dir} is one of the models to merge, or its base; give another folder")
        source = read_meta(Path(folder))["base"]["source"]
        if (Path(source).expanduser() / "config.json").exists():  # else it has moved, or is the name of a hub
            check_apart(output_dir, source, f"the base model of {folder},")
    check_foreign(output_dir, overwrite, beside=False)
    from tempering.saving import load, loads_with
    from tempering.tunings.deltas import merge_deltas

    learner = load(folders[0], model) if len(folders) == 1 else merge_deltas(folders, shares, model)
    if len(folders) == 1 and not learner.tuning.merges:
        raise ModelError(f"{folders[0]}: its tuning cannot be folded into the weights; use the folder as it is")
    if overwrite:
        clear(output_dir)
    learner.save_pretrained(output_dir, merge=len(folders) == 1)
    use = f"predict {quoted(output_dir)} NEW.csv --output predictions.csv"
    say(
        f"{output_dir} holds {'the merged model' if len(folders) == 1 else f'the sum of {len(folders)} changes'}; it loads with"
        f" {', '.join(loads_with(learner))}",
        f"next: temper {use if predicts(learner.record['framing']) else f'fit DATA --model {quoted(output_dir)}'}",
    )


def _shares(weights: str | None, count: int) -> list[float] | None:
    """The weights of several changes, as they stand in the option."""
    if weights is None:
        return None
    try:
        found = [float(word) for word in weights.split(",")]
    except ValueError:
        raise RecipeError(f"--weights {weights}: expected numbers with commas between them, as in 0.5,0.5") from None
    if count < 2 or len(found) != count:
        raise RecipeError(f"--weights {weights}: {len(found)} weights for {count} models; give one for each of two models or more")
    return found
