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
    """Tags word by word, and entities in characters of the text; in a table as ``Ada Lovelace [PER 0:12] | London [LOC 20:26]``."""
    text = example.texts[0]
    words = [text[start:end] for start, end in example.words or split_words(text)]
    if not nested:
        spans = " | ".join(f"{text[span.start : span.end]} [{span.label} {span.start}:{span.end}]" for span in prediction.spans)
        return {"prediction": " ".join(map(str, prediction.label)), "spans": spans}
    spans_ = [{**span._asdict(), "text": text[span.start : span.end]} for span in prediction.spans]
    return {"text": text, "words": words, "prediction": list(prediction.label), "spans": spans_}


def _answered(prediction: Prediction, nested: bool) -> dict[str, Any]:
    """The answer ("" for none), where it stands in the context, and how sure the model is of it, where the model tells."""
    place = prediction.spans[0] if prediction.spans else None
    sure = prediction.probabilities
    found: dict[str, Any] = {"prediction": prediction.label}
    if sure:
        found["probability"] = float(sure.get(prediction.label, 0.0))
    found |= {"start": None if place is None else place.start, "end": None if place is None else place.end}
    if nested and sure:
        found["answers"] = [{"text": text, "probability": chance} for text, chance in sure.items()]
    return found


def as_conll(examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    """A word and its tag a line, an empty line after each text."""
    blocks = []
    for example, prediction in zip(examples, predictions, strict=True):
        text = example.texts[0]
        words = example.words or split_words(text)
        blocks.append("".join(f"{text[a:b]}\t{tag}\n" for (a, b), tag in zip(words, prediction.label, strict=True)))
    return "\n".join(blocks)
