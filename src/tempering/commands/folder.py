"""The folder that ``temper fit`` fills: when it may be touched, and how it is written so that a kill never leaves half of it.

Everything is written to a hidden folder inside it and then renamed into place, ``tempering.json`` last: a folder that has it is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tempering.commands.console import as_json
from tempering.errors import RecipeError, ResumeError
from tempering.forms import FORMS, MARK, OURS, WHOLE, clear_forms, remove
from tempering.pretrained import locate
from tempering.readme import NAME, is_ours
from tempering.train.progress import first_process

if TYPE_CHECKING:
    from tempering.contracts import Seeds
    from tempering.learner import Learner
    from tempering.recipe import Recipe

CHECKPOINTS = "checkpoints"
BESIDE = (NAME, "recipe.yaml", "metrics.json", "split.json")  # what `write` leaves beside a model
_WORK = re.compile(r"checkpoint-\d+$|backbone\.safetensors$|logits\.safetensors$")  # that of training, a finished stage, a model of PET
_RUN = re.compile(r"stage-\d+$|try-\d+$|tries\.json$|\.")  # what a run leaves among checkpoints before the first of them


def finished(where: Path) -> bool:
    """Whether a whole model is there."""
    return (where / MARK).exists()


def unfinished(where: Path) -> str:
    """What a run that was stopped has left last and goes on from, by its path below ``where``; empty if there is nothing.

    A stage keeps its work as deep as it has parts, and those of several tries stand below one another.
    """
    found = [path for path in (where / CHECKPOINTS).glob("**/stage-*/**/*") if _WORK.match(path.name)]
    return str(max(found, key=lambda path: path.stat().st_mtime_ns).relative_to(where)) if found else ""


def check_free(where: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a place that cannot be written, and one that holds work unless the user said what to do with it."""
    if where.exists() and not where.is_dir():
        raise RecipeError(f"--output-dir {where}: that is a file; give a folder")
    above = next(p for p in (where, *where.absolute().parents) if p.exists())
    if not os.access(above, os.W_OK):
        raise RecipeError(f"--output-dir {where}: {above} may not be written to; give another folder")
    if resume or overwrite or not first_process():
        return
    if finished(where):
        raise ResumeError(f"--output-dir {where} holds a finished model; give another folder, or --overwrite to replace it")
    if unfinished(where):
        raise ResumeError(f"--output-dir {where} holds an unfinished run ({unfinished(where)}); --resume goes on, --overwrite starts anew")


def check_apart(where: Path, model: str, option: str = "--model") -> None:
    """Refuse to write over ``model``, or to delete it with what an earlier run left in ``where``."""
    found = Path(locate(model))
    if not found.exists():  # the name of a hub
        return
    place, target = found.resolve(), where.resolve()
    if place == target or any(place.is_relative_to(target / inside) for inside in ("base", CHECKPOINTS)):
        raise RecipeError(f"--output-dir {where} would replace {option} {model}, which this run reads; give another --output-dir")


def check_foreign(where: Path, overwrite: bool, beside: bool = True) -> None:
    """Refuse to replace a model of which nothing says that it is ours, or other files that would go, unless the user said so.

    ``beside``: whether `write` fills the folder, with a README and more than the model.
    """
    if overwrite or not first_process() or unfinished(where) or any((where / name).exists() for name in OURS):
        return
    there = [name for name in WHOLE if (where / name).exists()]
    if there:
        raise ResumeError(
            f"--output-dir {where} holds a model that tempering did not write ({there[0]}); give another folder, or --overwrite to"
            " replace it"
        )
    gone = [name for name in (*BESIDE, *FORMS) if beside and (where / name).exists() and not is_ours(where / name)]
    gone += [f"{CHECKPOINTS}/{path.name}" for path in sorted((where / CHECKPOINTS).glob("*")) if beside and not _RUN.match(path.name)]
    if gone:
        raise ResumeError(
            f"--output-dir {where} holds {gone[0]}, which tempering did not write and this run would replace or delete; give another"
            " folder, or --overwrite to replace it"
        )


def check_same(
    where: Path,
    mine: dict[str, Any],
    facts: dict[str, Any],
    model: str,
    seeds: Seeds,
    quantize: Any = None,
    sources: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse a finished folder that is of another run: ``mine`` and ``facts`` (what stands in it) by the same names, model and seeds.

    ``sources`` are the fingerprints of what the stages read by path; a folder that tells of none is taken to be of the same.
    """
    mine = mine | {"model": model, "seeds": asdict(seeds)}
    if known_sources := facts.get("sources"):
        mine |= {f"version of {path}": value for path, value in sources.items()}
        facts = facts | {f"version of {path}": value for path, value in known_sources.items()}
    if facts.get("model") == model and (known := facts.get("model_identity")):
        from tempering.backbone import Backbone
        from tempering.fitting import identity_of

        there = Backbone.load(model, seeds.init, quantize)
        if identity_of(there) != known:  # another model was put where this one stood, or it is packed otherwise
            mine["model"] = known
    other = [name for name, value in mine.items() if facts.get(name) != value]
    if other:
        what = other[0].removesuffix("_key")
        raise ResumeError(f"{where} holds a finished model of another {what}; give another --output-dir, or --overwrite")


def clear(where: Path) -> None:
    """Take the work of an earlier run out; files that are not ours stay."""
    if not first_process():
        return
    clear_forms(where)
    remove(where / CHECKPOINTS)


def write(learner: Learner, recipe: Recipe, where: Path, merge: bool, why: str = "") -> dict[str, Any]:
    """Save the learner with its recipe, metrics, split and card to ``where``; returns what stands in ``metrics.json``."""
    if not first_process():
        return facts_of(learner, recipe, why)
    where.mkdir(parents=True, exist_ok=True)
    for left in where.glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = where / f".writing-{os.getpid()}"
    try:
        learner.save_pretrained(part, merge=merge)
        _base_in_place(part, where)
        facts = facts_of(learner, recipe, why)
        texts = {"metrics.json": as_json(facts), "split.json": as_json(learner.record["split"]), "recipe.yaml": recipe.to_yaml()}
        for name, text in (texts | {"README.md": card(learner, recipe, facts, _needs(part))}).items():
            (part / name).write_text(text, encoding="utf-8")
        clear_forms(where)
        for entry in sorted(part.iterdir(), key=lambda p: p.name == MARK):
            remove(where / entry.name)
            entry.replace(where / entry.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(where / CHECKPOINTS, ignore_errors=True)
    return facts


def _base_in_place(part: Path, where: Path) -> None:
    """An adapter over a base that an earlier stage changed names the base's folder: where it will be, not where it is written."""
    config = part / "adapter_config.json"
    if config.exists() and (part / "base").exists():
        found = json.loads(config.read_text(encoding="utf-8"))
        found["base_model_name_or_path"] = str(where / "base")
        config.write_text(json.dumps(found, indent=1), encoding="utf-8")


def facts_of(learner: Learner, recipe: Recipe, why: str = "") -> dict[str, Any]:
    """The content of ``metrics.json``: metrics by split, seconds, counts, seeds, versions."""
    from tempering.saving import loads_with

    record, stage = learner.record, learner.record["stage"]
    taken = ("main_metric", "train_seconds", "seconds", "rows", "trained_parameters", "total_parameters", "peak_memory")
    also = ("seeds", "versions", "data", "columns")
    return {
        **record["metrics"],
        **{name: record[name] for name in taken},
        "steps": stage["steps"],
        "best_step": stage["best_step"],
        "model": learner.backbone.source,
        "model_identity": record.get("model_identity", ""),
        "recipe": recipe.name,
        "recipe_key": recipe.key(),
        "loads_with": loads_with(learner),
        **{name: record[name] for name in also},
        "majority": record.get("majority", {}),
        "notes": [*([why] if why else []), *record["notes"]],
        "history": stage["history"],
        **{name: record[name] for name in ("tries", "sources") if name in record},
        **{name: stage[name] for name in ("facts", "held_out") if name in stage},
    }


def read_metrics(where: Path) -> dict[str, Any]:
    """``metrics.json`` of a finished folder."""
    try:
        found: dict[str, Any] = json.loads((where / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ResumeError(f"{where} holds a model that temper fit did not write (no metrics.json); give another --output-dir") from None
    return found


def _needs(part: Path) -> dict[str, Any]:
    """What the saved folder says of the base model it needs; nothing where it holds all of it."""
    meta = json.loads((part / MARK).read_text(encoding="utf-8"))
    return {} if meta["format"] == "full" else meta["base"] | {"inside": meta["base"]["changed"]}


def card(learner: Learner, recipe: Recipe, facts: dict[str, Any], base: dict[str, Any] | None = None) -> str:
    """The model card, under the base model's name on the hub where it has one; ``base`` is what the folder needs beside it."""
    from tempering.exporting import auto_class
    from tempering.pretrained import ALIASES
    from tempering.report.card import model_card

    source = learner.backbone.source
    taken = ("main_metric", "rows", "trained_parameters", "total_parameters", "seeds", "versions", "loads_with", "notes")
    told = {
        "name": f"{learner.record['name']}-{recipe.name}",
        "model": ALIASES[source][2] if source in ALIASES else source,
        "kind": getattr(learner.framing, "kind", "text"),
        "metrics": learner.record["metrics"],
        "labels": list(learner.framing.labels),
        "auto": auto_class(learner),
        "recipe_yaml": recipe.to_yaml(),
        "data": learner.record["name"],
        "seconds": facts["train_seconds"],
    }
    return model_card(told | {name: facts[name] for name in taken} | ({"base": base} if base else {}))
