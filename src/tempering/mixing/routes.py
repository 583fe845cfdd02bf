"""What each task changed (`tempering.mixing.lifting`) acts on that task's rows of a shared pass.

While a pass runs, hooks on the shared body hand each task's rows to that task's entries. Rows of one task lie together (a `Span`).

Where spans in a row carry the same hooks, and the added modules' class can compute many modules at once (``rowwise``, see
`tempering.tunings.attach.Added`), the hook runs once for all of them; else once a span, on its rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.mixing.lifting import Entries, Entry
from tempering.mixing.rows import Span, as_embeddings, cut, joined
from tempering.mixing.vectors import own_vectors
from tempering.tunings.attach import Added


@contextmanager
def routed(base: Backbone, spans: Sequence[Span], entries: Sequence[Entries]) -> Iterator[None]:
    """While open, a pass through ``base`` changes the rows of each span as ``entries`` of its task say."""
    paths = dict.fromkeys(path for span in spans if span.task >= 0 for path in entries[span.task])
    with ExitStack() as stack:
        for path in paths:
            there = [entries[s.task].get(path) if s.task >= 0 else None for s in spans]
            route, layer = Route(spans, there, base.embeddings), base.model.get_submodule(path)
            if any(entry is not None and (entry.after or entry.own) for entry in there):
                stack.callback(layer.register_forward_hook(route.after, with_kwargs=True, prepend=True).remove)
            if any(entry is not None and entry.before for entry in there):
                stack.callback(layer.register_forward_pre_hook(route.before, with_kwargs=True).remove)
        yield


@dataclass(frozen=True)
class Run:
    """Spans in a row whose entries are of one kind: rows ``start`` to ``stop``, ``counts`` rows an entry; no entries: unchanged rows."""

    start: int
    stop: int
    entries: tuple[Entry, ...]
    counts: tuple[int, ...]


class Route:
    """The hooks of one place of the shared body during one pass."""

    def __init__(self, spans: Sequence[Span], entries: Sequence[Entry | None], look_up: Callable[[Tensor], Tensor]) -> None:
        self.rows, self.look_up = spans[-1].stop, look_up
        self.runs: list[Run] = []
        for _, group in groupby(zip(spans, entries, strict=True), key=lambda pair: pair[1] and pair[1].kind):
            mine = list(group)
            there = tuple(entry for _, entry in mine if entry is not None)
            self.runs.append(Run(mine[0][0].start, mine[-1][0].stop, there, tuple(len(span) for span, _ in mine)))

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Change what the layer reads."""
        cuts = [(run, cut((args, kwargs), run.start, run.stop, self.rows)) for run in self.runs]
        given = [_before(run, *mine) if run.entries else mine for run, mine in cuts]
        named = as_embeddings([kwargs for _, kwargs in given], self.look_up)
        return self._joined([(args, kwargs) for (args, _), kwargs in zip(given, named, strict=True)])  # type: ignore[no-any-return]

    def after(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Change what the layer says."""
        cuts = [(run, cut((args, kwargs, output), run.start, run.stop, self.rows)) for run in self.runs]
        return self._joined([_after(layer, run, *mine) if run.entries else mine[-1] for run, mine in cuts])

    def _joined(self, pieces: list[Any]) -> Any:
        return pieces[0] if len(pieces) == 1 else joined(pieces, [run.stop - run.start for run in self.runs])


def _before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def one(entry: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        for hook, named in run.entries[0].before:
            new = hook(entry, args, kwargs) if named else hook(entry, args)
            if new is not None:
                args, kwargs = new if named else (new if isinstance(new, tuple) else (new,), kwargs)
        return args, kwargs

    return _together(run, one, (args, kwargs))  # type: ignore[no-any-return]


def _after(layer: nn.Module, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    def one(entry: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        for hook, named in run.entries[0].after:
            new = hook(entry, args, kwargs, output) if named else hook(entry, args, output)
            output = output if new is None else new
        return output

    if run.entries[0].own:
        output = _with_own(layer, run, args, kwargs, output)
    return _together(run, one, (args, kwargs, output)) if run.entries[0].after else output


def _with_own(layer: nn.Module, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """What the layer says under each task's own weights: by a formula for vectors, else by each task's layer itself."""
    layers = [entry.layer for entry in run.entries]
    found = own_vectors(layer, layers, run.entries[0].own, args, output, _owner(run, output)) if isinstance(output, Tensor) else None
    if found is not None:
        return found
    return _in_turn(run, lambda entry, args, kwargs: entry.forward(*args, **kwargs), (args, kwargs))


def _owner(run: Run, like: Tensor) -> Tensor:
    """[rows] the number of the entry that each row belongs to."""
    return torch.repeat_interleave(torch.tensor(run.counts)).to(like.device)


def _together(run: Run, one: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    """``one`` over all rows of the run at once where the added modules can be computed so, else span by span."""
    if len(run.entries) == 1:
        return one(run.entries[0].layer, *values)
    try:
        return one(_Several([entry.layer for entry in run.entries], run), *values)
    except _InTurn:
        return _in_turn(run, one, values)


def _in_turn(run: Run, one: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    pieces, start, rows = [], 0, run.stop - run.start
    for entry, count in zip(run.entries, run.counts, strict=True):
        pieces.append(one(entry.layer, *cut(values, start, start + count, rows)))
        start += count
    return joined(pieces, run.counts)


class _InTurn(Exception):
    """These modules cannot be computed together."""


class _Several:
    """Stands for a layer in a hook: the added modules of several tasks look like one, which gives every row its own."""

    def __init__(self, layers: list[nn.Module], run: Run) -> None:
        self._layers, self._run = layers, run

    def get_submodule(self, name: str) -> Any:
        modules = [layer.get_submodule(name) for layer in self._layers]
        if not all(isinstance(module, Added) for module in modules):
            return modules[0]
        rowwise = _rowwise(modules)
        if rowwise is None:
            raise _InTurn
        return lambda x: self._call(rowwise, modules, x)

    def _call(self, rowwise: Callable[..., Tensor | None], modules: list[nn.Module], x: Tensor) -> Tensor:
        found = rowwise(modules, x, _owner(self._run, x)) if len(x) == self._run.stop - self._run.start else None
        if found is None:
            raise _InTurn
        return found

    def __getattr__(self, name: str) -> Any:
        if name in self._run.entries[0].own:
            raise _InTurn
        return self.get_submodule(name) if name in self._layers[0]._modules else getattr(self._layers[0], name)


def _rowwise(modules: Sequence[nn.Module]) -> Callable[..., Tensor | None] | None:
    """The ``rowwise`` of the modules' one class, unless a subclass has changed ``forward`` since."""
    (kind, *others) = {type(module) for module in modules}
    if any(m._forward_hooks for m in modules):  # something acts on them that their rowwise knows nothing of
        return None
    lines = [c for c in kind.__mro__ if {"forward", "rowwise"} & set(vars(c))]
    return kind.rowwise if not others and "rowwise" in vars(lines[0]) else None  # type: ignore[attr-defined]
