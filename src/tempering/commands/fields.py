"""The new columns of a predicted row, as JSON lines or a table hold them, and words with their tags as CoNLL does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tempering.tags import split_words

if TYPE_CHECKING:
    from tempering.contracts import Example, Prediction


def fields(prediction: Prediction, example: Example, labels: Sequence[Any], kind: str, nested: bool) -> dict[str, Any]:
    """What a prediction adds to its row; ``nested`` where lists and objects are read back (JSON lines), else readable cells."""
    if kind == "tagging":
        return _tagged(prediction, example, nested)
    if kind == "question_answering":
        return _answered(prediction, nested)
    said = list(prediction.label) if isinstance(prediction.label, tuple) else prediction.label
    return {"prediction": said} | {
        f"prob_{label}": float(prediction.probabilities[label]) for label in labels if label in prediction.probabilities
    }


def _tagged(prediction: Prediction, example: Example, nested: bool) -> dict[str, Any]:
    """Tags word by word, and entities in characters of ``text``; in a table as ``Ada Lovelace [PER] | London [LOC]``."""
    text = example.texts[0]
    words = [text[start:end] for start, end in example.words or split_words(text)]
    if not nested:
        spans = " | ".join(f"{text[span.start : span.end]} [{span.label}]" for span in prediction.spans)
        return {"prediction": " ".join(map(str, prediction.label)), "spans": spans}
    spans_ = [{**span._asdict(), "text": text[span.start : span.end]} for span in prediction.spans]
    return {"text": text, "words": words, "prediction": list(prediction.label), "spans": spans_}


def _answered(prediction: Prediction, nested: bool) -> dict[str, Any]:
    """The answer ("" for none), where it stands in the context, and how sure the model is of it."""
    place = prediction.spans[0] if prediction.spans else None
    found: dict[str, Any] = {
        "prediction": prediction.label,
        "probability": float(prediction.probabilities.get(prediction.label, 0.0)),
        "start": None if place is None else place.start,
        "end": None if place is None else place.end,
    }
    if nested:
        found["answers"] = [{"text": text, "probability": chance} for text, chance in prediction.probabilities.items()]
    return found


def as_conll(examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    """A word and its tag a line, an empty line after each text."""
    blocks = []
    for example, prediction in zip(examples, predictions, strict=True):
        text = example.texts[0]
        words = example.words or split_words(text)
        blocks.append("".join(f"{text[a:b]}\t{tag}\n" for (a, b), tag in zip(words, prediction.label, strict=True)))
    return "\n".join(blocks)
