"""What crosses from one stage to a later one beside the backbone, because a recipe asks for it by name: heads, and starts of tunings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tempering.codec import encode
from tempering.contracts import Weights
from tempering.errors import RecipeError
from tempering.learner import Learner
from tempering.tasks.labels import label_key
from tempering.tasks.task import Task

What = Literal["head", "tuning"]


@dataclass(frozen=True)
class Kept:
    """Weights by their name in the module they came from. ``method`` is the framing or tuning in plain form, ``task`` what it learned."""

    what: What
    method: Any
    task: str
    kind: str
    labels: tuple[Any, ...]
    tensors: Weights


def keep_head(learner: Learner, framing: Any, task: Task) -> Kept:
    """The framing's own weights and state, copied."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in learner.framing.state_dict().items()}
    return Kept("head", encode(framing, "framing"), task.name, task.kind, tuple(task.labels), tensors)


def keep_tuning(learner: Learner, names: Sequence[str], task: Task) -> Kept:
    """The weights ``names`` (in the learner) from which the tuning is to start later, and the state that it added, copied."""
    body: Any = learner.backbone.model
    wanted = {name.removeprefix("backbone.model.") for name in names if name.startswith("backbone.model.")}
    wanted |= set(body.state_dict()) - learner.backbone.own
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in body.state_dict().items() if name in wanted}
    return Kept("tuning", encode(learner.tuning, "tuning"), task.name, task.kind, (), tensors)


def start_from(learner: Learner, stage: Any, task: Task, kept: Mapping[str, Kept]) -> None:
    """Put the head and the tuning's start that ``stage`` asks for by name in place of freshly drawn ones.

    A tuning that would set its first weights later, from the task, is told by ``started(backbone)``.
    """
    if name := getattr(stage, "reuse_head", None):
        head = _found(kept, name, "head")
        refuse_labels(name, (head.task, head.kind, head.labels), task)
        _load(learner.framing, head, encode(stage.framing, "framing"), f"reuse_head {name!r}")
    if name := getattr(stage, "reuse_tuning", None):
        body: Any = learner.backbone.model
        _load(body, _found(kept, name, "tuning"), encode(stage.tuning, "tuning"), f"reuse_tuning {name!r}", whole=False)
        for part in getattr(stage.tuning, "tunings", (stage.tuning,)):
            if hasattr(part, "started"):
                part.started(learner.backbone)


def refuse_labels(name: str, head: tuple[str, str, Sequence[Any]], task: Task) -> None:
    """Refuse the head ``name``, of a task by (name, kind, labels), for ``task`` if that has others."""
    whose, kind, labels = head
    if (kind, list(map(label_key, labels))) != (task.kind, list(map(label_key, task.labels))):
        raise RecipeError(
            f"reuse_head {name!r}: that head was trained on {whose} ({_labels(kind, labels)}), and {task.name} is"
            f" {_labels(task.kind, task.labels)}; give both the same labels, or leave reuse_head out: the body crosses without it"
        )


def _found(kept: Mapping[str, Kept], name: str, what: What) -> Kept:
    if name not in kept or kept[name].what != what:
        known = ", ".join(n for n, k in kept.items() if k.what == what) or "none"
        raise RecipeError(f"reuse_{what} {name!r}: no earlier stage kept a {what} of that name (kept: {known}); set keep_{what} there")
    return kept[name]


def _load(module: Any, kept: Kept, method: Any, where: str, whole: bool = True) -> None:
    """Load the tensors; what they do not fit is refused with both methods named."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = set(shapes) - set(kept.tensors) if whole else set()
    odd = [n for n, t in kept.tensors.items() if shapes.get(n) != tuple(t.shape)]
    if odd or missing or (kept.what == "tuning" and kept.method != method):
        raise RecipeError(
            f"{where}: it was kept by {json.dumps(kept.method)} and does not fit {json.dumps(method)} here; give both stages the same"
            f" {'framing' if kept.what == 'head' else 'tuning'}"
        )
    module.load_state_dict(kept.tensors, strict=False)


def _labels(kind: str, labels: Sequence[Any]) -> str:
    return f"{kind} into {', '.join(map(str, labels))}" if labels else kind


def write_kept(folder: Path, kept: Mapping[str, Kept]) -> None:
    """Write them beside what else a finished stage leaves."""
    for i, (name, one) in enumerate(kept.items()):
        about = {"name": name, "what": one.what, "method": one.method, "task": one.task, "kind": one.kind, "labels": list(one.labels)}
        save_file({k: v.contiguous() for k, v in one.tensors.items()}, folder / f"kept-{i}.safetensors", {"about": json.dumps(about)})


def read_kept(folder: Path) -> dict[str, Kept]:
    """What `write_kept` wrote to ``folder``, by name."""
    found = {}
    for path in sorted(folder.glob("kept-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        found[about["name"]] = Kept(about["what"], about["method"], about["task"], about["kind"], tuple(about["labels"]), tensors)
    return found


def check_names(stages: Sequence[Any], recipe: str) -> None:
    """Refuse names that no earlier stage keeps, that two stages keep, or that a last stage would keep for nobody."""
    known: dict[str, What] = {}
    kinds: tuple[What, ...] = ("head", "tuning")
    for i, stage in enumerate(stages):
        where = f"{recipe}: stages.{i}"
        for what in kinds:
            asked = getattr(stage, f"reuse_{what}", None)
            if asked and known.get(asked) != what:
                there = ", ".join(n for n, w in known.items() if w == what) or "none"
                raise RecipeError(f"{where}: reuse_{what} {asked!r}, but no earlier stage has keep_{what} {asked!r} (there: {there})")
        for name, what in kept_names(stage):
            if i + 1 == len(stages):
                raise RecipeError(f"{where}: keep_{what} {name!r} in the last stage is for nobody; leave it out: the model saves its own")
            if name in known:
                raise RecipeError(f"{where}: keep_{what} {name!r}, but an earlier stage keeps something by that name; give another name")
            known[name] = what
    _check_tunings(stages, recipe)


def _check_tunings(stages: Sequence[Any], recipe: str) -> None:
    """Refuse a tuning that is kept for another one, and a stage ``apart`` whose tuning nobody takes up: it would have been for nothing."""
    takers = {name: i for i, stage in enumerate(stages) if (name := getattr(stage, "reuse_tuning", None))}
    for i, stage in enumerate(stages):
        name = getattr(stage, "keep_tuning", None)
        if name is None or (name not in takers and not getattr(stage, "apart", False)):
            continue
        where = f"{recipe}: stages.{i}: keep_tuning {name!r}"
        if name not in takers:
            raise RecipeError(
                f"{where} leaves the model as it came, and no later stage takes the tuning up, so that this stage would be for nothing; set"
                f"  reuse_tuning: {name}  in the stage that starts from it, or leave keep_tuning out"
            )
        mine, theirs = (json.dumps(encode(one.tuning, "tuning")) for one in (stage, stages[takers[name]]))
        if mine != theirs:
            raise RecipeError(f"{where} keeps {mine}, and stages.{takers[name]} starts {theirs} from it; give both stages the same tuning")


def kept_names(stage: Any) -> list[tuple[str, What]]:
    """(name, what) of all that ``stage`` keeps for later ones."""
    found: list[tuple[str, What]] = []
    if name := getattr(stage, "keep_head", None):
        found.append((name, "head"))
    if name := getattr(stage, "keep_tuning", None):
        found.append((name, "tuning"))
    return found + [(part.keep_head, "head") for part in getattr(stage, "tasks", ()) if part.keep_head]
