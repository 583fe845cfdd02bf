"""Reading targets that are given: the states that predict each of their tokens, in encoder-decoders and in models that read on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tempering.errors import ModelError
from tempering.framings.asked.left_to_right import Prefix, cacheable, go_on, run
from tempering.framings.output_head import OutputHead, ensure_output_head

if TYPE_CHECKING:
    from tempering.backbone import Backbone

KEPT_TOKENS = 16_384  # of sources, whose keys and values are copied for the targets at once


def writes(backbone: Backbone) -> None:
    """Open the decoder of an encoder-decoder; a `ModelError` for a model that writes no text."""
    backbone.layout.require("text_to_text")
    if backbone.layout.decoder is not None:
        backbone.open_decoder()
    elif backbone.layout.kind != "decoder":
        raise ModelError(
            f"text_to_text cannot serve {backbone.source} ({backbone.layout.family}): it reads text and writes none; choose an"
            " encoder-decoder such as t5-small or bart-base, or a causal model such as gpt2"
        )


def output_head(backbone: Backbone) -> OutputHead:
    """The output matrix, trained where the embeddings are (or where it had to be drawn); a bias that the family keeps fixed stays so."""
    head = ensure_output_head(backbone)
    head.requires_grad_(False)
    if head.own is not None:
        head.own.requires_grad_(head.fresh or backbone.embeddings.get_parameter("weight").requires_grad)
    return head


def begin_id(backbone: Backbone) -> int:
    """What the decoder of an encoder-decoder reads first."""
    config: Any = backbone.config
    found = [getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id")]
    return int(next(i for i in found if i is not None))


def end_id(backbone: Backbone) -> int:
    """What ends a text; a model whose tokenizer has no such token is a `ModelError`."""
    config, tokenizer = backbone.config, backbone.tokenizer
    listed = config.eos_token_id[0] if isinstance(config.eos_token_id, list) and config.eos_token_id else config.eos_token_id
    found = next((i for i in (tokenizer.eos_token_id, listed, tokenizer.sep_token_id) if i is not None), None)
    if found is None:
        raise ModelError(
            f"text_to_text cannot serve {backbone.source} ({backbone.layout.family}): its tokenizer has no token that ends a text; name an"
            " eos_token in its tokenizer_config.json"
        )
    return int(found)


def rows_of(sequences: Sequence[Sequence[int]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and which of them are real, both [rows, longest], filled on the right."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*row, *[fill] * (width - len(row))] for row in sequences])
    return ids, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in sequences])


def read_mask(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Tensor:
    """Which tokens a causal model reads of each source followed by each target, rows as in `given_states`: a target's last is not read."""
    sizes = [len(source) + len(target) - 1 for source in sources for target in targets]
    width = max(map(len, sources)) + max(map(len, targets)) - 1
    return (torch.arange(width) < torch.tensor(sizes)[:, None]).long()


def given_states(backbone: Backbone, inputs: dict[str, Tensor], targets: Tensor, real: Tensor, memory: Tensor | None = None) -> Tensor:
    """The states [tokens, dim] that predict the ``real`` tokens of ``targets`` [rows * choices, steps], row after row. What stands before a
    real token is read, what stands behind the last one is not.

    ``inputs`` are the sources [rows, length], padded on the right; each has as many targets as go into the number of targets.
    Encoder-decoders: the source is read once (or is ``memory`` [rows, length, dim]), and the decoder reads each target shifted by one.
    Causal models: the whole source with each target; where nothing is trained, the source once, and each target after it.
    """
    times = len(targets) // len(inputs["input_ids"])
    if backbone.opened:
        memory = backbone.memory(inputs) if memory is None else memory
        mask = inputs.get("attention_mask")
        first = targets.new_full((len(targets), 1), begin_id(backbone))
        shifted = torch.cat([first, targets[:, :-1]], 1)
        states = backbone.decoded(shifted, _times(memory, times), None if mask is None else _times(mask, times))
        return states[real]
    if times > 1 and not torch.is_grad_enabled() and not backbone.training and cacheable(backbone):
        return _gone_on(backbone, inputs, targets, real, times)
    return _causal(backbone, inputs, targets, real, times)


def _gone_on(backbone: Backbone, inputs: dict[str, Tensor], targets: Tensor, real: Tensor, times: int) -> Tensor:
    """As `_causal`, from the keys and values of the sources. The last token of a target is not read: a target of one costs nothing."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    ends = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
    here = run(backbone, [row[:end] for row, end in zip(ids.tolist(), ends, strict=True)], Prefix())
    source = torch.arange(len(targets), device=targets.device) // times
    states = here.last.new_zeros(*targets.shape, here.last.shape[-1])
    states[:, 0] = here.last[source]
    sizes = real.sum(1) - 1
    for some in sizes.nonzero()[:, 0].split(max(1, KEPT_TOKENS // ids.shape[1])):
        tails = [row[:size] for row, size in zip(targets[some].tolist(), sizes[some].tolist(), strict=True)]
        read, _ = go_on(backbone, here, source[some], tails)
        states[some, 1 : read.shape[1] + 1] = read
    return states[real]


def _causal(backbone: Backbone, inputs: dict[str, Tensor], targets: Tensor, real: Tensor, times: int) -> Tensor:
    source = _times(inputs["input_ids"], times)
    mask = inputs.get("attention_mask")
    lengths = source.new_full((len(source),), source.shape[1]) if mask is None else _times(mask, times).sum(1)
    steps = torch.arange(targets.shape[1], device=targets.device)
    at = lengths[:, None] + steps  # where each token of a target stands
    ids = F.pad(source, (0, targets.shape[1])).scatter(1, at, targets)[:, :-1]  # the last token predicts nothing
    whole = lengths + ((steps + 1) * real).amax(1) - 1
    seen = (torch.arange(ids.shape[1], device=ids.device) < whole[:, None]).long()
    states = backbone.encode({"input_ids": ids} if bool(seen.all()) else {"input_ids": ids, "attention_mask": seen}).last
    return states.gather(1, (at - 1)[..., None].expand(-1, -1, states.shape[-1]).clamp(max=states.shape[1] - 1))[real]


def _times(rows: Tensor, times: int) -> Tensor:
    return rows if times == 1 else rows.repeat_interleave(times, 0)
