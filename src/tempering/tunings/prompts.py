"""Trained vectors before the embeddings of a text: the module that holds them, and the hooks that put them in and cut them out again.

The body's own forward is wrapped: a hook before it looks the tokens up and puts the vectors in front, one after it cuts their
states off. So whoever calls the body sees texts of the length that went in, and positions of real tokens start after the prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.errors import ModelError
from tempering.tunings.attach import Added, check_free, freeze, plug
from tempering.tunings.reach import check_arrives, made_up, same, states, still, unreached

NAME = "prompt"
LEAST = 3  # tokens of text that must fit behind a prompt


class Prompt(Added):
    """Base of what makes ``p`` vectors. ``table`` is the path in the body of the module that looks tokens up; ``led``: the last call put
    the vectors in (not where a cache held them already).
    """

    def __init__(self, kind: str, p: int, table: str) -> None:
        super().__init__()
        self.p = p
        self.table = table
        self.setting = (kind, p)
        self.led = True

    @abstractmethod
    def forward(self) -> Tensor:
        """The vectors [p, width]."""


def _insert(body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before the body: tokens become embeddings with the prompt in front; mask, positions and token types grow along."""
    prompt: Any = body.get_submodule(NAME)
    given = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs}
    past = given.get("past_key_values")
    prompt.led = past is None or not past.get_seq_length()
    if not prompt.led:
        return (), _behind(prompt.p, given)
    ids = given.pop("input_ids", None)
    text = given.pop("inputs_embeds", None)
    if text is None:
        text = body.get_submodule(prompt.table)(ids)
    rows, length = text.shape[:2]
    mask = given.get("attention_mask")
    if mask is None:
        mask = torch.ones(rows, length, dtype=torch.int64, device=text.device)
    grown = {"attention_mask": nn.functional.pad(mask, (prompt.p, 0), value=1)}
    if given.get("token_type_ids") is not None:
        grown["token_type_ids"] = nn.functional.pad(given["token_type_ids"], (prompt.p, 0))
    if given.get("position_ids") is not None:
        own = torch.arange(prompt.p, device=text.device).expand(len(given["position_ids"]), -1)
        grown["position_ids"] = torch.cat([own, given["position_ids"] + prompt.p], 1)
    vectors = prompt().to(text.dtype).expand(rows, -1, -1)
    return (), {**given, **grown, "inputs_embeds": torch.cat([vectors, text], 1)}


def _behind(p: int, given: dict[str, Any]) -> dict[str, Any]:
    """The call of a later step, whose cache holds the prompt: mask and positions count it."""
    if given.get("attention_mask") is not None:
        given["attention_mask"] = nn.functional.pad(given["attention_mask"], (p, 0), value=1)
    if given.get("position_ids") is not None:
        given["position_ids"] = given["position_ids"] + p
    return given


def _cut(body: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """After the body: the states of the text alone, and the pooler's vector of the text's first token."""
    prompt: Any = body.get_submodule(NAME)
    if not prompt.led:
        return output
    output.last_hidden_state = output.last_hidden_state[:, prompt.p :]
    if output.get("hidden_states") is not None:
        output.hidden_states = tuple(layer[:, prompt.p :] for layer in output.hidden_states)
    if output.get("pooler_output") is not None:
        output.pooler_output = _pooled(body, output.last_hidden_state)
    return output


def _pooled(body: nn.Module, last: Tensor) -> Tensor:
    """What the body's pooler says of ``last``: a module that picks the first token itself, or a map and an activation for that token."""
    pooler: Any = body.get_submodule("pooler")
    if not isinstance(pooler, nn.Linear):
        return pooler(last)  # type: ignore[no-any-return]
    return body.get_submodule("pooler_activation")(pooler(last[:, 0]))  # type: ignore[no-any-return]


def prompt_of(backbone: Backbone) -> Prompt | None:
    """The prompt that is attached, if there is one."""
    found = getattr(backbone.reader, NAME, None)
    return found if isinstance(found, Prompt) else None


def require_room(backbone: Backbone, method: str, p: int) -> None:
    """Refuse a prompt that leaves no positions for text."""
    positions = (getattr(backbone.config, "max_position_embeddings", None) or 0) - backbone.layout.position_offset
    if 0 < positions < p + LEAST:
        raise ModelError(
            f"{method}: p = {p} leaves no room for text in the {positions} positions of {backbone.source} ({backbone.layout.family});"
            f" give p of at most {positions - LEAST}"
        )


def attach_prompt(backbone: Backbone, method: str, p: int, make: Callable[[str, int], Prompt]) -> bool:
    """Freeze the backbone and train the prompt that ``make(table, width)`` gives; one that is there is trained on. Whether it is new."""
    require_room(backbone, method, p)
    body = backbone.reader
    check_free(("the body", body), NAME, (method, p))
    freeze(backbone)
    table = next(path for path, module in body.named_modules() if module is backbone.embeddings)
    weight = backbone.embeddings.get_parameter("weight")
    fresh = prompt_of(backbone) is None
    inputs = {} if weight.is_meta or not fresh else made_up(backbone, p + LEAST)
    before = states(backbone, {name: x[:, p:] for name, x in inputs.items()}, body) if inputs else None
    whole = states(backbone, inputs, body) if inputs else None
    plug(body, NAME, lambda: make(table, int(weight.shape[1])), _cut, weight)
    backbone.reserved = p
    if fresh:
        body.register_forward_pre_hook(_insert, with_kwargs=True)
    if before is not None and whole is not None:
        try:
            _check(backbone, method, inputs, before, whole)
        except ModelError:
            remove(backbone)
            raise
    return fresh


def _check(backbone: Backbone, method: str, inputs: dict[str, Tensor], before: Tensor, whole: Tensor) -> None:
    """The embeddings of a text as a prompt give what the text gives; other vectors change the output, and get gradients."""
    prompt = prompt_of(backbone)
    assert prompt is not None
    p, rest = prompt.p, {name: x[:, prompt.p :] for name, x in inputs.items()}
    with still(backbone.model), torch.no_grad():
        known = backbone.embeddings(inputs["input_ids"][:, :p])
        mine = []
        for row in range(len(known)):
            handle = prompt.register_forward_hook(lambda _m, _a, _out, vectors=known[row]: vectors)
            mine.append(states(backbone, {name: x[row : row + 1] for name, x in rest.items()}, backbone.reader))
            handle.remove()
    kept = torch.arange(inputs["input_ids"].shape[1], device=whole.device).expand_as(inputs["input_ids"])[inputs["attention_mask"].bool()]
    if not same(whole[kept >= p], torch.cat(mine)):
        raise unreached(backbone, method, "the embeddings of a text do not say what the text says")
    names = [f"{NAME}.{name}" for name, _ in prompt.named_parameters()]
    check_arrives(backbone, method, names, rest, before, backbone.reader)


def remove(backbone: Backbone) -> None:
    """Take the prompt off again."""
    body = backbone.reader
    delattr(body, NAME)
    for hooks, mine, named in (
        (body._forward_hooks, _cut, body._forward_hooks_with_kwargs),
        (body._forward_pre_hooks, _insert, body._forward_pre_hooks_with_kwargs),
    ):
        for key in [k for k, hook in hooks.items() if hook is mine]:
            del hooks[key]
            named.pop(key, None)
    backbone.reserved = 0
