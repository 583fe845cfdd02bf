"""The way promptsource and lm-evaluation-harness write templates: Jinja, run in a sandbox for every example.

``{{ text }} It was ||| {{ answer_choices[label] }}``: the answer, and so the mask, stands after ``|||``; ``{{ mask }}`` puts it elsewhere.
Entries of files, which have more than a template, are read in `entries`. Filters beside Jinja's own: choice, most_frequent.

What a variable prints is a field and may be shortened, also after filters such as lower and trim; all else is the template's own text.

Source: bigscience-workshop/promptsource, ``promptsource/templates.py``; EleutherAI/lm-evaluation-harness, ``lm_eval/api/task.py``.
Differs: ``choice`` is drawn from the texts themselves, so that an example always says the same; a prompt that changes with the label is
refused, since it would give the answer away.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tempering.errors import RecipeError
from tempering.framings.templates.pieces import Field, Filled, Mask, Piece, Text, spaced
from tempering.streams import numpy_stream

OPEN, NAMED, CLOSE, HERE, BARS = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"  # private characters: no text keeps them
_PRIVATE = re.compile(f"[{OPEN}-{BARS}]")
_PRINTED = re.compile(f"{OPEN}([^{NAMED}]*){NAMED}([^{CLOSE}]*){CLOSE}|({HERE})", re.DOTALL)
_OWN = ("mask", "label", "answer_choices", "choices")
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

    def lower(self) -> str:
        """In lower case."""
        return FieldText.of(super().lower(), self.name)

    def upper(self) -> str:
        """In upper case."""
        return FieldText.of(super().upper(), self.name)

    def capitalize(self) -> str:
        """First letter raised, the rest lowered."""
        return FieldText.of(super().capitalize(), self.name)

    def strip(self, chars: str | None = None, /) -> str:
        """Without ``chars`` (white space) at both ends."""
        return FieldText.of(super().strip(chars), self.name)

    def rstrip(self, chars: str | None = None, /) -> str:
        """Without them at the end."""
        return FieldText.of(super().rstrip(chars), self.name)

    def replace(self, old: str, new: str, count: Any = -1, /) -> str:
        """With ``new`` for ``old``."""
        return FieldText.of(super().replace(old, new, -1 if count is None else count), self.name)


def _printed(value: Any) -> Any:
    """What an expression prints: a field between marks."""
    if not isinstance(value, FieldText):
        return value
    plain = str.replace(_PRIVATE.sub("", value), EITHER, BARS)  # a text's own bars part nothing
    return f"{OPEN}{value.name}{NAMED}{plain}{CLOSE}"


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    """The items that come most often, in the order of their first coming."""
    counts = Counter(items)
    most = max(counts.values(), default=0)
    return [item for item, count in counts.items() if count == most]


@dataclass(frozen=True)
class JinjaTemplate:
    """A template that is run. ``choices`` are its label words; ``harness``: the answer follows the text, ``|||`` or not."""

    source: str
    choices: tuple[str, ...] = ()
    harness: bool = False
    name: str = field(default="", compare=False)
    dialect: str = field(default="jinja", compare=False)

    def __str__(self) -> str:
        if not self.choices and not self.harness:
            return self.source
        plain: dict[str, Any] = {"name": self.name} if self.name and not self.harness else {}
        if self.harness:
            beside: dict[str, Any] = {"doc_to_choice": list(self.choices)} if self.choices else {"target_delimiter": " "}
            plain |= {"doc_to_text": self.source} | beside  # one entry alone may look like a text with a colon
        else:
            plain |= {"jinja": self.source, "answer_choices": f" {EITHER} ".join(self.choices)}
        return _dump(plain)

    @cached_property
    def _compiled(self) -> Any:
        return environment().from_string(self.source)

    @cached_property
    def _free(self) -> frozenset[str]:
        return frozenset(meta.find_undeclared_variables(environment().parse(self.source)))

    def fields(self) -> tuple[str, ...]:
        """The variables it reads."""
        return tuple(sorted(self._free - set(_OWN)))

    def skeleton(self) -> tuple[Piece, ...]:
        """Its pieces for texts of one word."""
        return tuple(piece for piece, _ in self.fill(dict.fromkeys(self.fields(), "x")))

    def fill(self, values: Mapping[str, str]) -> list[Filled]:
        """Its pieces for one example. One whose prompt changes with the label is refused."""
        prompt = self._prompt(values, 0)
        if "label" in self._free and self._prompt(values, 1) != prompt:
            raise RecipeError(
                f"template {self.source!r}: the prompt changes with the label and gives the answer away; leave label out of it"
            )
        return _filled(prompt)

    def _prompt(self, values: Mapping[str, str], label: int) -> str:
        texts = {name: FieldText.of(_PRIVATE.sub("", value), name) for name, value in values.items()}
        draw = numpy_stream("choice", *sorted(values.items()))
        own = {"mask": HERE, "label": label, "answer_choices": list(self.choices), "choices": list(self.choices), "_draw": draw}
        try:
            printed: str = self._compiled.render(**{name: texts[name] for name in self.fields()}, **own)
        except (TemplateError, TypeError, ValueError, IndexError) as error:
            raise RecipeError(f"template {self.source!r}: cannot be filled: {error}; mend the expression it names") from None
        before, separator, _ = printed.partition(EITHER)
        before = before.strip() if separator else before.strip(" ")
        return before if HERE in before or not (separator or self.harness) else f"{before} {HERE}"


def _filled(prompt: str) -> list[Filled]:
    """Pieces and what they say, from a printed prompt."""
    parts: list[Piece | str] = []
    texts: list[str] = []
    at = 0
    for found in _PRINTED.finditer(prompt):
        parts.append(prompt[at : found.start()])
        parts.append(Mask() if found[3] else Field(found[1]))
        texts += [] if found[3] else [found[2].replace(BARS, EITHER)]
        at = found.end()
    said = iter(texts)
    pieces = spaced([*parts, prompt[at:]])
    return [(p, p.text if isinstance(p, Text) else next(said) if isinstance(p, Field) else "") for p in pieces]


def environment() -> ImmutableSandboxedEnvironment:
    """A sandbox that prints fields between marks."""
    from jinja2 import pass_context

    @pass_context
    def choice(context: Any, items: Sequence[Any]) -> Any:
        drawn = context["_draw"]
        return items[int(drawn.integers(len(items)))]

    found = ImmutableSandboxedEnvironment(finalize=_printed, keep_trailing_newline=True)
    found.filters |= {"choice": choice, "most_frequent": _most_frequent}
    return found


def _dump(plain: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(plain), stream)
    return stream.getvalue()
