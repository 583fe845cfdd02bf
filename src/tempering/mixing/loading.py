"""Many saved tasks as one predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.learner import Learner
from tempering.mixing.learner import MixedLearner
from tempering.saving import belongs, load
from tempering.tunings.attach import freeze


def load_many(folders: Sequence[str | Path] | Mapping[str, str | Path]) -> MixedLearner:
    """One predictor over the tasks saved in ``folders``, which must have been trained on the same base model.

    A task is called by its folder's name, or as a mapping name -> folder says. ``predict(texts, tasks)`` then gives every text the
    label of its own task: ``load_many(["a/", "b/"]).predict(["one", "two"], ["a", "b"])``.
    """
    named = dict(folders) if isinstance(folders, Mapping) else _named(folders)
    if not named:
        raise ModelError("load_many: there is no folder; give at least one that temper fit or save_pretrained wrote")
    mixed: MixedLearner | None = None
    for name, folder in named.items():
        learner = load(folder, mixed.backbone if mixed and belongs(folder, mixed.backbone) else None)
        if mixed is None:
            first = folder
            mixed = MixedLearner(_base(learner, folder))
        elif _base_of(learner) != _base_of(mixed):
            raise ModelError(
                f"{folder} was trained on {_called(learner.backbone)} and {first} on {_called(mixed.backbone)}, and tasks in one batch"
                " share one base model; load those of one base together, and the others by themselves"
            )
        if _whole(learner, folder):
            freeze(learner.backbone)  # its tuning is not attached: what it changed is what differs
        mixed.add(name, learner)
    assert mixed is not None
    return mixed.eval()


def _named(folders: Sequence[str | Path]) -> dict[str, str | Path]:
    if isinstance(folders, str | Path):
        raise ModelError(f'load_many takes a list of folders, found one; write load_many(["{folders}"])')
    names = [Path(folder).resolve().name for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(f"load_many: two folders are called {twice[0]}; give names of your own: load_many({{name: folder, ...}})")
    return dict(zip(names, folders, strict=True))


def _whole(learner: Learner, folder: str | Path) -> bool:
    """Whether the folder holds the whole body."""
    return Path(learner.backbone.where).resolve() == Path(folder).resolve()


def _base(learner: Learner, folder: str | Path) -> Backbone:
    """The base model as it was before the task's tuning, which a folder that holds the whole body does not hold."""
    body, whole = learner.backbone, _whole(learner, folder)
    base = Backbone.load(body.source if whole else body.where, body.seed, body.quantized)
    if whole and base.fingerprint() != body.base_fingerprint:
        raise ModelError(
            f"{folder} holds a whole body, and {body.source!r}, which it was trained on, is not what it was then;"
            " put the original base model in place, or load this folder by itself"
        )
    base.source, base.base_fingerprint, base.changed = body.source, body.base_fingerprint, body.changed
    return base


def _base_of(learner: Learner | MixedLearner) -> tuple[str, str | None]:
    """What tasks in one batch have to agree on."""
    return learner.backbone.base_fingerprint, learner.backbone.quantized


def _called(backbone: Backbone) -> str:
    packed = f", packed in {backbone.quantized}" if backbone.quantized else ""
    return f"{backbone.source!r} (fingerprint {backbone.base_fingerprint[:8]}{packed})"
