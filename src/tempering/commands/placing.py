"""Tokens beside the text that they are of: what is predicted for the tokens, told in characters of that text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tempering.contracts import Example, Prediction
from tempering.tags import places_of
from tempering.tasks.table import some

TEXT = "text"  # the name of the predicted rows' field that the characters are counted in


def in_own_texts(
    rows: Sequence[Mapping[str, Any]], examples: Sequence[Example], predictions: Sequence[Prediction]
) -> tuple[tuple[Example, ...], list[Prediction], str]:
    """Examples and predictions in each row's own text, where that holds the tokens, and what to say of those rows where it does not.

    The model has read the tokens between single spaces, as in training and when it was evaluated; only the counting is another.
    """
    made, lost = [], []
    for row, example, prediction in zip(rows, examples, predictions, strict=True):
        pair = _placed(row.get(TEXT), example, prediction)
        lost += [str(example.row)] if pair is None else []
        made.append(pair or (example, prediction))
    told = (
        f"{len(lost)} rows have a column {TEXT!r} that does not hold their tokens one after the other (rows {some(lost, 5)}); their spans"
        f" are in characters of the tokens between single spaces. Add --text {TEXT} to tag that column instead"
    )
    return tuple(example for example, _ in made), [prediction for _, prediction in made], told if lost else ""


def _placed(text: Any, example: Example, prediction: Prediction) -> tuple[Example, Prediction] | None:
    """Both in ``text``; as they are where there is no such text beside tokens; None where it does not hold them."""
    said = example.texts[0]
    if not isinstance(text, str) or not example.words or text == said:
        return example, prediction
    words = places_of([said[start:end] for start, end in example.words], text)
    if words is None:
        return None
    starts = {old[0]: new[0] for old, new in zip(example.words, words, strict=True)}
    ends = {old[1]: new[1] for old, new in zip(example.words, words, strict=True)}
    spans = tuple(span._replace(start=starts[span.start], end=ends[span.end]) for span in prediction.spans)
    return replace(example, texts=(text,), words=words), replace(prediction, spans=spans)
