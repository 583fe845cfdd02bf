"""A query and answered examples in one prompt: what is shortened and what is left out where they are too long together."""

from __future__ import annotations

from collections.abc import Sequence

from tempering.framings.templates.laying import Part, cut_to, size
from tempering.framings.templates.truncation import Shorten

Parts = list[Part]


def gathered(
    query: Parts, rounds: Sequence[Sequence[Parts]], room: int, closing: int, floor: int, how: Shorten
) -> tuple[list[Parts], bool]:
    """The examples that stay beside ``query``, shortened in place, and whether anything was cut or left out.

    ``room`` is for everything between the special tokens at the ends, ``closing`` tokens close each example. As many rounds stay as
    fit once every field is down to ``floor`` tokens; then the longest field of the longest example loses one token after the other
    until all fits. Without any round left the query itself is shortened.
    """
    for count in range(len(rounds), 0, -1):
        demos = [parts for found in rounds[:count] for parts in found]
        left = room - size(query) - closing * len(demos)
        if sum(least(parts, floor) for parts in demos) <= left:
            return demos, _shorten(demos, left, floor) or count < len(rounds)
    return [], cut_to(query, room, how) or bool(rounds)


def tail_of(query: Parts, demos: Sequence[Parts], room: int, closing: int, how: Shorten) -> tuple[list[Parts], bool]:
    """The last of ``demos`` that fit whole beside the query: what is cut is cut at the head, and no example by half."""
    stays: list[Parts] = []
    left = room - size(query)
    for parts in reversed(demos):
        left -= size(parts) + closing
        if left < 0:
            break
        stays.insert(0, parts)
    cut = len(stays) < len(demos)
    return stays, (cut_to(query, room, how) if not stays else False) or cut


def least(parts: Parts, floor: int) -> int:
    """Tokens of an example whose fields are down to the floor."""
    return sum(min(len(p.ids), floor) if p.shortenable else len(p.ids) for p in parts)


def _shorten(demos: Sequence[Parts], room: int, floor: int) -> bool:
    """One token after the other off the longest field of the longest example, of equal ones the later. Whether any went."""
    sizes = [size(parts) for parts in demos]
    over = sum(sizes) - room
    open_ = [i for i, parts in enumerate(demos) if any(p.shortenable and len(p.ids) > floor for p in parts)]
    for _ in range(over):
        i = max(open_, key=lambda i: (sizes[i], i))
        fields = [p for p in demos[i] if p.shortenable and len(p.ids) > floor]
        longest = max(enumerate(fields), key=lambda pair: (len(pair[1].ids), pair[0]))[1]
        longest.ids = longest.ids[:-1]
        sizes[i] -= 1
        if len(fields) == 1 and len(longest.ids) == floor:
            open_.remove(i)
    return over > 0
