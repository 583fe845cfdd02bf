"""What a training stage is refused for before any weight is loaded (DESIGN, section 6)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tempering.codec import encode
from tempering.errors import RecipeError
from tempering.registry import name_of
from tempering.train.device import shards_asked
from tempering.train.hooks import SINGLE, at_most_one


def check_train(stage: Any, where: str, last: bool) -> list[str]:
    """Refuse what cannot work or means nothing in ``stage``, called ``where``; notes worth printing."""
    live = [s for s in stage.acting if not s.neutral]
    for field in SINGLE:
        at_most_one(field, [name_of(s)[1] for s in live if field in s.touches])
    doubled = {name_of(s)[1] for s in stage.stabilizers if [type(t) for t in stage.stabilizers].count(type(s)) > 1}
    if doubled:
        raise RecipeError(f"{where}: stabilizer {sorted(doubled)[0]} stands there twice; keep one")
    _check_needs(live, stage, where)
    for s in live:
        matrices = getattr(stage.tuning, "trains_matrices", stage.tuning.trains_pretrained)
        if getattr(s, "needs_pretrained", False) and not (
            matrices if getattr(s, "needs_matrices", False) else stage.tuning.trains_pretrained
        ):
            raise RecipeError(
                f"{where}: {name_of(s)[1]} {getattr(s, 'does', 'draws trained weights back to their pretrained values')}, but tuning"
                f" {name_of(stage.tuning)[1]} trains none of those; use tuning full or top_layers, or drop it"
            )
    _check_recompute(live, stage, where)
    if stage.text != "labeled" and stage.framing.supervised:
        raise RecipeError(
            f"{where}: framing {name_of(stage.framing)[1]} needs labels, but text is {stage.text!r}; set text: labeled or take masked_lm"
        )
    _check_trains(stage, where)
    if getattr(stage, "data", None):
        _check_data(stage, where, last)
    _check_corpus(stage, where)
    _check_kept_tuning(stage, where)
    if not last and not stage.tuning.merges and not getattr(stage, "apart", False):
        raise RecipeError(
            f"{where}: tuning {name_of(stage.tuning)[1]} cannot be folded into the weights for the next stage; use full or lora there, or"
            " give it a name by keep_tuning, from which the same tuning starts in a later stage (reuse_tuning)"
            + (", with layer_norm: false in both" if _kept_norms(stage.tuning) else "")
        )
    notes = [f"{where}: {note}" for note in _tuning_notes(stage)]
    if last and (told := unlike_labels(stage, where)):
        return notes + told
    alone = not stage.tuning.trains_backbone and not stage.framing.supervised
    return [*notes, *([f"{where}: nothing but the language-model head is trained"] if alone else [])]


def _tuning_notes(stage: Any) -> list[str]:
    """What the tunings find worth telling of their settings (``notes``), where they start afresh."""
    if getattr(stage, "reuse_tuning", None):
        return []
    return [note for part in _parts(stage.tuning) for note in getattr(part, "notes", ())]


def _check_kept_tuning(stage: Any, where: str) -> None:
    """Refuse to keep apart what is part of the pretrained body, or what a later stage would choose anew."""
    if not getattr(stage, "apart", False):
        return
    name = name_of(stage.tuning)[1]
    if stage.tuning.trains_pretrained or not stage.tuning.trains_backbone:
        what = "trains pretrained weights, which cross to the next stage as they are" if stage.tuning.trains_pretrained else "adds nothing"
        advice = "set layer_norm: false in it" if _kept_norms(stage.tuning) else "use one such as prompt_tuning, lora or pfeiffer"
        raise RecipeError(
            f"{where}: keep_tuning keeps what a tuning adds to the model, and {name} {what}; leave keep_tuning out, or {advice}"
        )
    if odd := [part for part in _parts(stage.tuning) if hasattr(part, "prepare") and not hasattr(part, "started")]:
        raise RecipeError(
            f"{where}: {name_of(odd[0])[1]} chooses from the data anew in every stage, so that nothing of it can be kept for a later one;"
            " leave keep_tuning out, or use prompt_tuning, lora or pfeiffer"
        )


def _kept_norms(tuning: Any) -> bool:
    """Whether norms, which its field ``layer_norm`` has it train, are all of the pretrained weights that ``tuning`` trains."""
    claiming = [part for part in _parts(tuning) if part.trains_pretrained]
    return bool(claiming) and all(hasattr(p, "layer_norm") and not replace(p, layer_norm=False).trains_pretrained for p in claiming)


def unlike_rehearsed(stages: Sequence[Any], where: Sequence[str]) -> list[str]:
    """A note for each stage that rehearses a tuning (``rehearses``) where the next one tunes otherwise; ``where`` are their names."""
    notes = []
    for (one, name), (following, later) in pairwise(zip(stages, where, strict=True)):
        mine, theirs = (json.dumps(encode(stage.tuning, "tuning")) for stage in (one, following))
        if getattr(one, "rehearses", False) and mine != theirs:
            notes.append(f"{name} prepares the model for tuning {mine}, and {later} trains {theirs}; give both the same tuning")
    return notes


def labelled(task: Any) -> bool:
    """Whether rows of ``task`` have labels, or texts to be written in their place: plain texts have neither."""
    return task.kind != "text" or any(example.label is not None for example in task.train)


def unlike_labels(stage: Any, where: str) -> list[str]:
    """What a model will predict whose last stage is ``stage``, where that is not labels."""
    framing = stage.framing
    if not getattr(framing, "supervised", True) and not hasattr(framing, "predicts"):
        return [f"{where}: the last stage reads no labels, so the model will predict words of a text, not labels"]
    if not getattr(framing, "predicts", True):
        return [f"{where}: the last stage shapes the vectors of texts, so the model will predict a vector for each text, not labels"]
    return []


def _check_recompute(live: Sequence[Any], stage: Any, where: str) -> None:
    """Refuse activations that are computed again where a pass is not what it was."""
    moved = [name_of(s)[1] for s in live if {"weights", "noise"} & set(s.touches) or bool(getattr(s, "perturbations", 0))]
    if stage.gradient_checkpointing and moved:
        raise RecipeError(
            f"{where}: gradient_checkpointing recomputes a pass without what {moved[0]} changed in it, and gradients would be wrong;"
            " set it to false"
        )


def _check_trains(stage: Any, where: str) -> None:
    """Refuse a stage in which nothing would be trained."""
    if not stage.tuning.trains_backbone and not getattr(stage.framing, "trains", True):
        raise RecipeError(
            f"{where}: tuning {name_of(stage.tuning)[1]} trains nothing of the model, and framing {name_of(stage.framing)[1]} has no"
            " weights of its own; use tuning full, lora or prompt_tuning, a verbalizer such as soft, or the stage use, which takes no step"
        )


def _check_data(stage: Any, where: str, last: bool) -> None:
    """Refuse a data set of its own in a last stage, or beside a file of texts."""
    if last:
        raise RecipeError(
            f"{where}: the last stage would learn from {str(stage.data)!r}, and nothing from your data; leave data out here, or add a stage"
        )
    if stage.text not in ("labeled", "unlabeled"):
        raise RecipeError(f"{where}: both data ({str(stage.data)!r}) and text ({stage.text!r}) name what to learn from; leave one out")


def _check_corpus(stage: Any, where: str) -> None:
    """Refuse settings of a corpus where none is named."""
    if stage.text not in ("labeled", "unlabeled"):
        return
    given = [name for name in ("column", "curate") if getattr(stage, name, None) is not None]
    given += ["documents"] if getattr(stage, "documents", "line") != "line" else []
    if given:
        raise RecipeError(f"{where}: {given[0]} says how a corpus is read, and text is {stage.text!r}; name a file or folder by text, too")


def _check_needs(live: Sequence[Any], stage: Any, where: str) -> None:
    """Refuse methods that read labels, a trained backbone or a teacher where there is none that means anything."""
    framings = stage.framing if isinstance(stage.framing, tuple) else (stage.framing,)
    framing, tuning = " and ".join(dict.fromkeys(name_of(f)[1] for f in framings)), name_of(stage.tuning)[1]
    for s in live:
        if getattr(s, "needs_labels", False) and not stage.framing.supervised:
            raise RecipeError(f"{where}: {name_of(s)[1]} reads labels, and framing {framing} has none; use framing head, or drop it")
        if getattr(s, "compares", False) and not all(getattr(f, "whole_scores", True) for f in framings):
            raise RecipeError(
                f"{where}: {name_of(s)[1]} compares the distributions over all classes of two passes, and framing {framing} keeps no"
                " more of the vocabulary than each token's likelihood; drop it, or use one that acts on weights, such as mixout"
            )
        if getattr(s, "needs_backbone", False) and not stage.tuning.trains_backbone:
            raise RecipeError(
                f"{where}: {name_of(s)[1]} moves what the model makes of texts, which depends on weights inside it, but tuning {tuning}"
                " trains none of those; use tuning full or lora, or drop it"
            )
    shown = [s for s in live if {"weights", "final"} <= set(s.touches)]
    taught = [s for s in live if getattr(s, "teachers", 0) and s not in shown]
    if shown and taught:
        raise RecipeError(
            f"{where}: {name_of(shown[0])[1]} trains through other weights than those a teacher of {name_of(taught[0])[1]} is made of, and"
            " the two would not be comparable; keep one of them"
        )


def moves(stage: Any) -> bool:
    """Whether the next stage starts from another body than ``stage`` did: one on a copy, or of a head alone, leaves it as it was."""
    trains = stage.tuning.trains_backbone or hasattr(stage.tuning, "drop")
    return not getattr(stage, "apart", False) and (hasattr(stage, "leave") or trains)


def check_quantized(stages: Sequence[Any], method: str | None) -> None:
    """Refuse what writes to pretrained matrices, where a model of ``method`` has them packed and frozen."""
    for i, stage in enumerate(stages if method else ()):
        if i + 1 < len(stages) and moves(stage):
            raise RecipeError(_why_unpacked(stage, i, str(method)))
        for tuning in _parts(stage.tuning):
            if getattr(tuning, "trains_matrices", tuning.trains_pretrained) or getattr(tuning, "changes_matrices", False):
                raise RecipeError(
                    f"quantize {method}: tuning {name_of(tuning)[1]} trains or changes pretrained matrices, and those are packed and"
                    " frozen; use lora, an adapter, a prompt, ia3 or bitfit, or leave quantize out"
                )
        for s in (s for s in stage.stabilizers if getattr(s, "needs_pretrained", False)):
            raise RecipeError(
                f"quantize {method}: {name_of(s)[1]} reads or sets pretrained weights, and those are packed and frozen; drop it, or leave"
                " quantize out"
            )


def _why_unpacked(stage: Any, i: int, method: str) -> str:
    """Why stage ``i``, after which another one comes, needs a whole model."""
    apart = "" if stage.tuning.trains_pretrained or not hasattr(stage, "apart") else "; or keep what it adds apart, by keep_tuning"
    return (
        f"quantize {method}: stages.{i} ({name_of(stage)[1]}, tuning {name_of(stage.tuning)[1]}) changes the model that the next stage"
        " starts from, and packed matrices can neither take that in nor be saved as a base of their own; run the stages up to this one"
        f" without quantize, save, and give that folder as --model{apart}"
    )


def check_sharded(stages: Sequence[Any], method: str | None) -> None:
    """Where the launch asks for weights in shards, refuse what needs a whole model in one process, and what was never seen to do without.

    ``method`` is how the model is packed, if it is.
    """
    for i, stage in enumerate(stages if shards_asked() else ()):
        if why := "a packed model stays whole; leave quantize out" if method else _why_whole(stage):
            raise RecipeError(
                f"stages.{i}: --use_fsdp of accelerate launch spreads every weight over processes, and {why}; or launch without --use_fsdp:"
                " then each process holds the whole model, and they share the rows"
            )


def _why_whole(stage: Any) -> str:
    """Why ``stage`` cannot train with weights in shards, and what to take instead; empty if it can.

    Weights are whole only inside a pass of the whole learner. Methods, tunings and framings that look at them elsewhere, or call the model
    themselves, see shards; two processes that call it in another order wait for each other for good.
    """
    if not getattr(stage, "shards", False):
        return f"stage {name_of(stage)[1]} makes passes of its own; put its work into stages train"
    if odd := [part for part in _parts(stage.tuning) if not getattr(part, "shards", False)]:
        return f"tuning {name_of(odd[0])[1]} is not known to train so; use full, lora, houlsby, pfeiffer, parallel, bitfit or ia3"
    if not getattr(stage.framing, "shards", False):
        return f"framing {name_of(stage.framing)[1]} is not known to train so; use head, masked_lm or causal_lm"
    if odd := [s for s in stage.acting if not s.neutral and not getattr(s, "shards", False)]:
        return f"{name_of(odd[0])[1]} is not known to act on weights that are whole nowhere; drop it, or use r_drop or layer_decay"
    return ""


def _parts(tuning: Any) -> Iterator[Any]:
    """The single tunings in ``tuning``: those of a list, and the one inside another."""
    inner = (*getattr(tuning, "tunings", ()), *((tuning.tuning,) if hasattr(tuning, "tuning") else ()))
    if not inner:
        yield tuning
    for part in inner:
        yield from _parts(part)
