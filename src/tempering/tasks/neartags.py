"""Tags that are nearly those of entities: refused, for as plain tags they would be learned and scored word by word without a complaint.

The judgement is careful: most of the tags beside the one for "outside" must name entities in one and the same way, with B or exact I among
them, and with the rest set aside they must follow a scheme. Parts of speech and bare letters (B, I) never do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tempering.tags import OUTSIDE, detect
from tempering.tasks.table import Table, show, some

_STRICT = re.compile(r"(?P<letter>[BIESLUMW])-(?P<type>.+)", re.DOTALL)
_FIRST = re.compile(r"(?P<letter>[BIESLUMWbieslumw])[-_](?P<type>.+)", re.DOTALL)
_LAST = re.compile(r"(?P<type>.+)[-_](?P<letter>[BIESLUMW])", re.DOTALL)  # capitals only: positional tags end in small letters
_OUTSIDE = (OUTSIDE, "o", "0")
Reading = dict[str, str | None]  # the entity tag that each tag is meant as, None where that cannot be said


def refuse_near_tags(table: Table, column: str, raw: Sequence[tuple[str, Sequence[Any], Sequence[tuple[int, int]]]]) -> None:
    """A `DataError` at the first of the (text, tags, words) whose tag alone keeps the others from being tags of entities."""
    counts = Counter(tag for _, tags, _ in raw for tag in tags)
    if not all(isinstance(tag, str) for tag in counts):
        return
    meant = next((found for found in _readings(counts) if _follows(found, counts, [tags for _, tags, _ in raw])), None)
    odd = [] if meant is None else [tag for tag in counts if meant[tag] != tag]
    if meant is None or not odd:
        return
    index, i = next((n, i) for n, (_, tags, _) in enumerate(raw) for i, tag in enumerate(tags) if tag in odd)
    text, tags, words = raw[index]
    raise table.error(
        f"{_expected(meant)} for word {i + 1} {show(text[slice(*words[i])], 30)}, {_found(tags[i], odd)}; {_advice(tags[i], meant)}",
        index=index,
        column=column,
    )


def _readings(counts: Counter[str]) -> Iterator[Reading]:
    """Ways to take the tags for those of entities."""
    if not any(tag in counts for tag in _OUTSIDE):
        rest = [tag for tag, _ in counts.most_common() if not _STRICT.fullmatch(tag)]
        if any(tag[:2] == "B-" and f"I-{tag[2:]}" in counts for tag in counts):
            yield _reading(counts, rest[:1], _STRICT.fullmatch)  # the commonest is another word for O
        return
    for form in (_FIRST, _LAST):
        yield _reading(counts, _OUTSIDE, form.fullmatch)


def _reading(counts: Counter[str], outside: Sequence[str], match: Callable[[str], re.Match[str] | None]) -> Reading:
    return {tag: OUTSIDE if tag in outside else f"{m['letter'].upper()}-{m['type']}" if (m := match(tag)) else None for tag in counts}


def _follows(meant: Reading, counts: Counter[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether most words beside those outside have a tag of an entity, with B or just as I-X among them, and these follow a scheme."""
    inside = {tag: count for tag, count in counts.items() if meant[tag] != OUTSIDE}
    named = sum(count for tag, count in inside.items() if meant[tag] is not None)
    begins = any(tag is not None and (tag[0] == "B" or (tag in counts and tag[0] == "I")) for tag in meant.values())
    return begins and 2 * named > sum(inside.values()) and detect([[meant[tag] or OUTSIDE for tag in tags] for tags in rows]) != "plain"


def _type(meant: Reading) -> str:
    return next(tag for tag in meant.values() if tag and tag[0] in "BI")[2:]


def _expected(meant: Reading) -> str:
    return f"expected O, B-{_type(meant)}, I-{_type(meant)} or the like"


def _found(tag: str, odd: Sequence[str]) -> str:
    others = [show(other, 30) for other in odd if other != tag]
    return f"found {show(tag, 40)}" + (f" (and {some(others, 5)})" if others else "")


def _advice(tag: str, meant: Reading) -> str:
    type_ = _type(meant)
    if (entity := meant[tag]) is not None:
        fix = f"write {entity}"
    elif any(known is not None and known[2:] == tag for known in meant.values()):
        fix = f"write B-{tag}, or I-{tag} within an entity"
    else:
        fix = f"write O, or B- or I- and a type, such as B-{type_}"
    return f"{fix}. If the tags name no entities, write another sign than - and _ beside the letters: B.{type_}"
