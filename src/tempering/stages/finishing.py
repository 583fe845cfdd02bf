"""The end of training: the framing's own last step, whether it left predictions as they were, and the record of the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tempering.contracts import Example, Seeds
from tempering.learner import Learner
from tempering.stages.live_dropout import dropout_notes
from tempering.streams import numpy_stream
from tempering.train.evaluate import Evaluator, fit_thresholds
from tempering.train.fit import Run

if TYPE_CHECKING:
    from tempering.stages.train import Train

_TORCH = frozenset({"training", "_parameters", "_buffers", "_modules"})  # a pass puts the mode back; tensors are compared by value


def close(learner: Learner, stage: Train, evaluator: Evaluator | None, run: Run, examples: Sequence[Example], seeds: Seeds) -> None:
    """Finish ``learner``, choose its thresholds on the development rows, and note in its record what training it took, with the metrics
    under thresholds that were chosen (``settled``).
    """
    finished = finish(learner, examples, seeds)
    settled = fit_thresholds(learner, evaluator) if evaluator is not None and stage.framing.supervised else {}
    notes = dropout_notes(stage, learner)
    more = {"cached": stage.cached, "facts": run.facts, "notes": notes, "finished": finished, "settled": settled}
    learner.record["stage"] = account(stage, run, len(examples), run.split, **more)


def account(stage: Any, run: Any, rows: int, split: int = 1, **more: Any) -> dict[str, Any]:
    """What training on ``rows`` rows took, as the record of a stage says it, with what of ``more`` there is to say."""
    told = {name: value for name, value in more.items() if value}
    return {
        "steps": run.step,
        "best_step": run.best_step,
        "best_kept": stage.load_best_model_at_end and bool(run.history),
        "history": run.history,
        "passes": run.passes,
        "cached": False,
        "split": split,
        "rows": rows,
    } | told


def as_kept(stage: Mapping[str, Any]) -> dict[str, float] | None:
    """What a stage's record says of the weights it left: the evaluation at the best step where those were kept, else the last one.

    Of a stage that learned several tasks it is that of the user's own, which stands in the history by its name.
    """
    history = stage.get("history", ())
    best = [found for found in history if stage["best_kept"] and found["step"] == stage["best_step"]]
    kept: dict[str, float] | None = next(iter([*best, *history[-1:]]), None)
    if kept is None or "own" not in stage:
        return kept
    own = f"{stage['own']}/"
    return {name.removeprefix(own): value for name, value in kept.items() if name == "step" or name.startswith(own)}


def finish(learner: Learner, examples: Sequence[Example], seeds: Seeds, *name: str) -> bool:
    """Let the framing finish on the training rows; whether it may predict otherwise now than in the evaluations while training.

    ``name`` is that of its task, where the stage has several.
    """
    numbers, rest = _numbers(learner.framing), _rest(learner.framing)
    learner.framing.finish(learner, examples, numpy_stream(seeds.sampling, "framing", "finish", *name))
    after, now = _numbers(learner.framing), _rest(learner.framing)
    same = numbers.keys() == after.keys() and all(torch.equal(numbers[name], after[name]) for name in after)
    return not same or rest.keys() != now.keys() or any(rest[name] is not now[name] for name in now)


def _numbers(framing: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers as they are, also those that are not saved."""
    return {name: value.detach().clone() for part in (framing.named_parameters(), framing.named_buffers()) for name, value in part}


def _rest(framing: nn.Module) -> dict[tuple[str, str], Any]:
    """What else is set on the framing and the modules inside: flags, examples shown, a copy of the model before training."""
    return {(path, name): value for path, one in framing.named_modules() for name, value in vars(one).items() if name not in _TORCH}
