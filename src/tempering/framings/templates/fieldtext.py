"""Texts that know their field while Jinja works on them, so that what it prints of a field may still be shortened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, SupportsIndex

OPEN, NAMED, CLOSE, HERE, BARS = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"  # private characters: no text keeps them
PRIVATE = re.compile(f"[{OPEN}-{BARS}]")
EITHER = "|||"


class FieldText(str):
    """A text of the example that knows its field, also after the usual filters. Compared and measured it is the text itself."""

    __slots__ = ("name",)
    name: str

    @classmethod
    def of(cls, text: str, name: str) -> FieldText:
        """``text`` of field ``name``."""
        made = cls(text)
        made.name = name
        return made

    def __str__(self) -> str:
        return self

    def __getitem__(self, at: SupportsIndex | slice, /) -> str:
        return FieldText.of(super().__getitem__(at), self.name)

    def __add__(self, other: str, /) -> str:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str, /) -> str:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def lower(self) -> str:
        """In lower case."""
        return FieldText.of(super().lower(), self.name)

    def upper(self) -> str:
        """In upper case."""
        return FieldText.of(super().upper(), self.name)

    def capitalize(self) -> str:
        """First letter raised, the rest lowered."""
        return FieldText.of(super().capitalize(), self.name)

    def title(self) -> str:
        """First letter of each word raised, the rest lowered."""
        return FieldText.of(super().title(), self.name)

    def strip(self, chars: str | None = None, /) -> str:
        """Without ``chars`` (white space) at both ends."""
        return FieldText.of(super().strip(chars), self.name)

    def lstrip(self, chars: str | None = None, /) -> str:
        """Without them at the beginning."""
        return FieldText.of(super().lstrip(chars), self.name)

    def rstrip(self, chars: str | None = None, /) -> str:
        """Without them at the end."""
        return FieldText.of(super().rstrip(chars), self.name)

    def removeprefix(self, prefix: str, /) -> str:
        """Without ``prefix``."""
        return FieldText.of(super().removeprefix(prefix), self.name)

    def removesuffix(self, suffix: str, /) -> str:
        """Without ``suffix``."""
        return FieldText.of(super().removesuffix(suffix), self.name)

    def replace(self, old: str, new: str, count: Any = -1, /) -> str:
        """With ``new`` for ``old``."""
        return FieldText.of(super().replace(old, new, -1 if count is None else count), self.name)


class Joined(str):
    """Fields and other text one after the other: each part is printed as what it is."""

    __slots__ = ("parts",)
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return self

    def __add__(self, other: str, /) -> str:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str, /) -> str:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def lower(self) -> str:
        """In lower case."""
        return joined(part.lower() for part in self.parts)

    def upper(self) -> str:
        """In upper case."""
        return joined(part.upper() for part in self.parts)


def joined(given: Iterable[Any]) -> str:
    """All of it as one text, which still knows its fields."""
    parts = [part for one in given for part in (one.parts if isinstance(one, Joined) else (str(one),))]
    made = Joined("".join(parts))
    made.parts = tuple(parts)
    return made


def printed(value: Any) -> Any:
    """What an expression prints: a field between marks."""
    if isinstance(value, Joined):
        return "".join(map(printed, value.parts))
    if not isinstance(value, FieldText):
        return value
    plain = str.replace(PRIVATE.sub("", value), EITHER, BARS)  # a text's own bars part nothing
    return f"{OPEN}{value.name}{NAMED}{plain}{CLOSE}"
