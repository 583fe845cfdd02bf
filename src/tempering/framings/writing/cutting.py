"""What is told of sources and targets that are longer than the room for them."""

from __future__ import annotations

from collections.abc import Sequence


def cut_targets(sizes: Sequence[int], room: int, most: int) -> tuple[str, ...]:
    """A note on the targets, of ``sizes`` tokens when whole, that lose their end where there is ``room``; a model has it for ``most``."""
    found = _share(sizes, room)
    if not found:
        return ()
    needed = max(sizes)
    advice = f"give max_target_length={needed}" if needed <= most else "shorten them"
    advice = f"give max_target_length={most}, the most that this model has room for, or shorten them" if room < most < needed else advice
    why = f"they take up to {needed} tokens with the one that ends them, and max_target_length is {room}"
    return (f"{found} training targets lose their end, so that the model learns to stop there: {why}; {advice}",)


def cut_sources(sizes: Sequence[int], length: int, most: int, given: bool) -> tuple[str, ...]:
    """A note on the sources that are cut at ``length``, which is ``given`` or all that the model has room for (``most``)."""
    found = _share(sizes, length)
    if not found:
        return ()
    needed = max(sizes)
    more = given and length < most
    advice = f"give max_source_length={min(needed, most)}, or leave it out" if more else "this model reads no more beside the target"
    return (
        f"{found} training sources lose the end of their longest text: they take up to {needed} tokens, and {length} are read; {advice}",
    )


def _share(sizes: Sequence[int], room: int) -> str:
    cut = sum(size > room for size in sizes)
    return f"{cut} of {len(sizes)} ({cut / len(sizes):.0%})" if cut else ""
