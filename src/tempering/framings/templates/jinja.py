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

from jinja2 import TemplateError, meta, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import do_title
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tempering.errors import RecipeError
from tempering.framings.templates.fieldtext import BARS, CLOSE, EITHER, HERE, NAMED, OPEN, PRIVATE, FieldText, joined, printed
from tempering.framings.templates.pieces import Field, Filled, Mask, Piece, Text, spaced
from tempering.streams import numpy_stream

_PRINTED = re.compile(f"{OPEN}([^{NAMED}]*){NAMED}([^{CLOSE}]*){CLOSE}|({HERE})", re.DOTALL)
_BROKEN = (TemplateError, TypeError, ValueError, IndexError, ArithmeticError)  # what an expression that does not fit its values raises
_OWN = ("mask", "label", "answer_choices", "choices")


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    """The items that come most often, in the order of their first coming."""
    counts = Counter(items)
    most = max(counts.values(), default=0)
    return [item for item, count in counts.items() if count == most]


@dataclass(frozen=True)
class JinjaTemplate:
    """A template that is run. ``choices`` are its label words; ``harness``: the answer follows the text, ``|||`` or not, and ``target``
    prints the choice of a row or its number from 0.
    """

    source: str
    choices: tuple[str, ...] = ()
    harness: bool = False
    name: str = field(default="", compare=False)
    dialect: str = field(default="jinja", compare=False)
    target: str = ""

    def __str__(self) -> str:
        if not self.choices and not self.harness:
            return self.source
        plain: dict[str, Any] = {"name": self.name} if self.name and not self.harness else {}
        if self.harness:
            beside: dict[str, Any] = {"doc_to_choice": list(self.choices)} if self.choices else {"target_delimiter": " "}
            beside |= {"doc_to_target": self.target} if self.target else {}
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

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        named = (node.name for node in environment().parse(self.source).find_all(nodes.Name))
        return tuple(name for name in dict.fromkeys(named) if name in self._free and name not in _OWN)

    def fields(self) -> tuple[str, ...]:
        """The variables it reads, in the order of their first use."""
        return self._fields

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

    def answer(self, label: Any) -> str | None:
        """The choice that it answers for ``label``: as it says after ``|||`` or by its ``target``, else the choice of this number from 0.

        None: none of them, or no label alone says which.
        """
        try:
            if self.target:
                said = self._targeted(label)
                if said.isdecimal():
                    return self._numbered(int(said))
            elif self.source.partition(EITHER)[2].strip():
                said = self._printed(dict.fromkeys(self.fields(), "x"), label).partition(EITHER)[2].strip()
            else:
                return self._numbered(label)
        except (RecipeError, *_BROKEN):
            return None  # an expression that labels of another kind break
        return next((choice for choice in self.choices if choice.casefold() == said.casefold()), None)

    def _numbered(self, number: Any) -> str | None:
        return self.choices[number] if isinstance(number, int) and 0 <= number < len(self.choices) else None

    def _targeted(self, label: Any) -> str:
        """What the target prints, where the label is all it reads; else nothing."""
        free = meta.find_undeclared_variables(environment().parse(self.target))
        return environment().from_string(self.target).render({free.pop(): label}).strip() if len(free) == 1 else ""

    def _prompt(self, values: Mapping[str, str], label: int) -> str:
        before, separator, _ = self._printed(values, label).partition(EITHER)
        before = before.strip() if separator else before.strip(" ")
        return before if HERE in before or not (separator or self.harness) else f"{before} {HERE}"

    def _printed(self, values: Mapping[str, str], label: Any) -> str:
        texts = {name: FieldText.of(PRIVATE.sub("", value), name) for name, value in values.items()}
        draw = numpy_stream("choice", *sorted(values.items()))
        own = {"mask": HERE, "label": label, "answer_choices": list(self.choices), "choices": list(self.choices), "_draw": draw}
        try:
            found: str = self._compiled.render(**{name: texts[name] for name in self.fields()}, **own)
        except _BROKEN as error:
            raise RecipeError(f"template {self.source!r}: cannot be filled: {error}; mend the expression it names") from None
        return found


def _filled(prompt: str) -> list[Filled]:
    """Pieces and what they say, from a printed prompt."""
    parts: list[Piece | str] = []
    texts: list[str] = []
    at = 0
    for found in _PRINTED.finditer(prompt):
        literal, piece = prompt[at : found.start()], Mask() if found[3] else Field(found[1])
        at = found.end()
        if texts and not literal and parts[-1] == piece != Mask():  # a text taken apart, as text[0].upper() and text[1:], is one text
            texts[-1] += found[2].replace(BARS, EITHER)
            continue
        parts += [literal, piece] if literal else [piece]
        texts += [] if found[3] else [found[2].replace(BARS, EITHER)]
    said = iter(texts)
    pieces = spaced([*parts, prompt[at:]])
    return [(p, p.text if isinstance(p, Text) else next(said) if isinstance(p, Field) else "") for p in pieces]


class _Generator(CodeGenerator):
    """Compiles ``~`` to `joined`."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - the name is Jinja's
        self.write("environment.filters['joined']((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Generator


def environment() -> ImmutableSandboxedEnvironment:
    """A sandbox that prints fields between marks."""

    @pass_context
    def choice(context: Any, items: Sequence[Any]) -> Any:
        drawn = context["_draw"]
        return items[int(drawn.integers(len(items)))]

    found = _Environment(finalize=printed, keep_trailing_newline=True)
    found.filters |= {"choice": choice, "most_frequent": _most_frequent, "joined": joined, "title": _title}
    return found


def _title(text: Any) -> str:
    """Jinja's own filter, which makes a new text."""
    made = do_title(text)
    return FieldText.of(made, text.name) if isinstance(text, FieldText) else made


def _dump(plain: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(plain), stream)
    return stream.getvalue()
