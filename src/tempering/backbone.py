"""A uniform view of a pretrained model: body, tokenizer, blocks, and one way to run it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tempering.errors import ModelError
from tempering.hashing import Known, hashed
from tempering.layouts import Layout, layout_of
from tempering.pretrained import Whole, body_class, loaded, locate, quiet, read_whole, tokenizer_of
from tempering.quantizing import Quantize, checked, pack_body
from tempering.streams import torch_stream

_BELOW = (
    *("embed", "wte", "wpe", "shared", "rel_embeddings", "prompt.", "encoder.rel", "encoder.LayerNorm", "encoder.conv"),
    *(f"{half}.{name}" for half in ("encoder", "decoder") for name in ("embed", "layernorm_embedding", "prompt.")),
)


class Encoded(NamedTuple):
    """What the body says: ``last`` [rows, length, dim], all layers' states from the embeddings up (or None), the pooler's vector."""

    last: Tensor
    layers: tuple[Tensor, ...] | None
    pooled: Tensor | None


class Backbone(nn.Module):
    """A pretrained body with its tokenizer.

    ``model`` is the transformers body without a head, ``layout`` its row of the table of architectures, ``lm_head`` the
    language-model head once a stage has built or loaded one (it stays with the backbone from stage to stage), ``source`` what
    the user called it. ``changed`` tells whether a stage has altered the pretrained weights. ``whole`` reads the body of an
    encoder-decoder with its decoder, which `open_decoder` asks for.
    """

    def __init__(self, model: Any, tokenizer: Any, source: str, where: str = "", whole: Whole | None = None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.where = where
        self.whole = whole
        self.layout: Layout = layout_of(model.config)
        self.lm_head: nn.Module | None = None
        self.changed = False
        self.reserved = 0  # positions that a tuning takes up before the text
        self.own = frozenset(model.state_dict())  # the body's own tensors: what a tuning adds is not among them
        self.pretrained = self.own  # those that came with the checkpoint
        self.seed = 0  # from which the others were drawn
        self.learned: frozenset[str] = frozenset()  # what the checkpoint lacks and an earlier stage has trained
        self.quantized: Quantize | None = None  # how the linear maps of the blocks are packed
        self._known: Known | None = None  # the last fingerprint
        self.base_fingerprint = ""  # set before a tuning is attached whose change is saved apart from the body

    @classmethod
    def load(cls, source: str, seed: int = 0, quantize: str | None = None) -> Backbone:
        """Load ``source`` (an alias, a folder, a hub id) in fp32; weights it lacks are drawn from ``seed``.

        Only safetensors are read and no remote code is run. ``quantize``: see `pack`.
        """
        import transformers

        method, where = checked(quantize), locate(source)
        with quiet(), torch_stream(seed, "init", "backbone"):
            config = loaded(transformers.AutoConfig.from_pretrained, where)
            auto, options = body_class(config, layout_of(config))
            options |= {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            model, info = loaded(auto.from_pretrained, where, **options)
            tokenizer = tokenizer_of(where)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        decoder = layout_of(config).decoder
        whole = partial(read_whole, where, decoder.blocks) if decoder else None
        backbone = cls(model, tokenizer, source, where, whole)
        backbone.seed, backbone.pretrained = seed, backbone.pretrained - set(info["missing_keys"])
        if method is not None:
            backbone.pack(method)
        return backbone

    def pack(self, method: Quantize) -> None:
        """Store the linear maps of the blocks in 8 or 4 bits a number, frozen (`tempering.quantizing`)."""
        self.fingerprint()
        pack_body(self.model, self.stacks, method)
        self.quantized = method

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.model.config

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, bottom first (one, where blocks share their weights), those of an open decoder above the encoder's."""
        self.layout.require("this method", "blocks")
        return [block for stack in self.stacks for block in self.model.get_submodule(stack)]

    @property
    def stacks(self) -> tuple[str, ...]:
        """Paths in the body of its stacks of blocks: one, and in an encoder-decoder whose decoder is open two."""
        decoder = [self.layout.decoder.blocks] if self.layout.decoder is not None and self.opened else []
        return tuple(stack for stack in (self.layout.blocks, *decoder) if stack)

    def inside(self, path: str) -> bool:
        """Whether what lies at ``path`` in the body is part of a block."""
        return path.startswith(tuple(f"{stack}." for stack in self.stacks))

    @property
    def opened(self) -> bool:
        """Whether the body has a decoder beside its encoder."""
        decoder = self.layout.decoder
        return decoder is not None and hasattr(self.model, decoder.stack)

    @property
    def reader(self) -> Any:
        """What reads the text: the encoder beside an open decoder, else the whole body."""
        return self.model.get_submodule(self.layout.decoder.reader) if self.opened and self.layout.decoder else self.model

    def open_decoder(self) -> None:
        """Put the whole encoder-decoder in the place of its encoder, whose weights stay as they are. Nothing where it is there already."""
        if self.opened:
            return
        if self.layout.decoder is None or self.whole is None:
            raise ModelError(
                f"{self.source} ({self.layout.family}) has no decoder to load; take an encoder-decoder such as t5-small or bart-base, or"
                " a causal model"
            )
        with torch_stream("init", "decoder"):
            body, missing = self.whole()
        body.load_state_dict(self.model.state_dict(), strict=False)
        like = self.embeddings.get_parameter("weight")
        self.model = body.to(like.device).train(self.model.training)
        method, self.quantized = self.quantized, None
        if self.config.pad_token_id is None:
            self.config.pad_token_id = self.tokenizer.pad_token_id
        self.own = frozenset(body.state_dict())
        self.pretrained = self.own - missing
        if method is not None:
            self.pack(method)

    @property
    def embeddings(self) -> nn.Module:
        """The module that looks up token embeddings in a forward pass (another may share its weight)."""
        row = self.layout.embeddings
        return self.model.get_submodule(row) if row else self.model.get_input_embeddings()  # type: ignore[no-any-return]

    @property
    def table(self) -> Tensor:
        """The token embeddings [vocabulary, width] as a look-up reads them: for an output matrix that is tied to them, so that what a
        tuning changes of their weight without writing to it (a module with ``changed``, in the order of names) counts there too.
        """
        rows: Any = self.embeddings
        weight: Tensor = rows.weight
        for _, change in sorted(rows.named_children()):
            weight = change.changed("weight", weight) if hasattr(change, "changed") else weight
        return weight

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens counted: the least of what positions and tokenizer allow, and 512."""
        positions = getattr(self.config, "max_position_embeddings", None) or 512
        if positions > 0:
            positions -= self.layout.position_offset + self.reserved
        return int(min(positions if positions > 0 else 512, self.tokenizer.model_max_length, 512))

    def depth(self, name: str) -> int:
        """Height of a body weight in the network: 0 for embeddings, 1 .. L for blocks, L + 1 for what lies above them."""
        path, under = name.removeprefix("backbone.").removeprefix("model."), 0
        for stack in self.stacks:
            if path.startswith(f"{stack}."):
                return 1 + under + int(path.removeprefix(f"{stack}.").split(".", 1)[0])
            under += len(self.model.get_submodule(stack))
        if path.startswith(_BELOW):
            return 0
        encoder = self.layout.decoder is not None and self.opened and path.startswith(f"{self.layout.decoder.reader}.")
        return len(self.model.get_submodule(self.layout.blocks)) if encoder else self.top

    @property
    def top(self) -> int:
        """Depth of everything above the last block."""
        return 1 + (len(self.blocks) if self.layout.blocks else 0)

    def encode(self, inputs: dict[str, Tensor], layers: bool = False) -> Encoded:
        """Run the body on ``input_ids`` [rows, length] (with ``attention_mask`` and ``token_type_ids`` where given)."""
        body = self.reader if self.layout.kind == "text-encoder" else self.model
        extra = {"use_cache": False} if self.layout.kind in ("decoder", "encoder-decoder") else {}
        out = body(**inputs, output_hidden_states=layers, return_dict=True, **extra)
        states = "decoder_hidden_states" if self.layout.kind == "encoder-decoder" else "hidden_states"
        return Encoded(out.last_hidden_state, out[states] if layers else None, out.get("pooler_output"))

    @property
    def layers(self) -> int:
        """How many layers' states `encode` can give beside the embeddings."""
        last = self.layout.decoder.blocks if self.layout.kind == "encoder-decoder" and self.layout.decoder else ""
        return len(self.model.get_submodule(last)) if last else int(self.config.num_hidden_layers)

    def memory(self, inputs: dict[str, Tensor]) -> Tensor:
        """The encoder's states [rows, length, dim] of an encoder-decoder whose decoder is open: what its decoder attends to."""
        return self.reader(**inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def decoded(self, ids: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """The decoder's states [rows, steps, dim] for tokens ``ids`` that are given; ``mask`` [rows, length] is that of ``memory``."""
        assert self.layout.decoder is not None  # whoever asks has opened it
        decoder = self.model.get_submodule(self.layout.decoder.stack)
        out = decoder(input_ids=ids, encoder_hidden_states=memory, encoder_attention_mask=mask, use_cache=False)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def recompute(self, on: bool) -> None:
        """Keep no activations inside blocks and compute them again in the backward pass: less memory, about a third more time."""
        if on and not self.model.supports_gradient_checkpointing:
            raise ModelError(f"gradient_checkpointing: the {self.layout.family} family of {self.source} cannot do it; set it to false")
        name = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"  # renamed in transformers 5.2x
        if on:
            getattr(self.model, f"{name}_checkpointing_enable")({"use_reentrant": False})
        elif self.model.supports_gradient_checkpointing:
            getattr(self.model, f"{name}_checkpointing_disable")()

    def check_bare(self) -> None:
        """Refuse a body on which another fit's tuning hangs; also a packed one with trained weights, known by its source alone."""
        added = sorted(set(self.model.state_dict()) - self.own)
        moved = [n for n, p in self.model.named_parameters() if p.requires_grad] if self.quantized and self.base_fingerprint else []
        if added or moved:
            what = f"holds what an earlier fit added ({added[0]})" if added else f"is packed, and an earlier fit trained its {moved[0]}"
            raise ModelError(f"{self.source}: this loaded model {what}; load the pretrained model anew, with Backbone.load, for every fit")

    def start(self) -> None:
        """Before the first stage of a fit: a body that an earlier fit has trained is no longer the one that its name says."""
        self.check_bare()
        if self.base_fingerprint and self.base_fingerprint != self.fingerprint():
            self.changed = True

    def fingerprint(self) -> str:
        """Hash of configuration and body weights: the identity a saved change belongs to. That of a packed body is that of its source.

        It is remembered, and a copy of the backbone remembers it too, for as long as every weight is what it was.
        """
        if self._known is None or not self.quantized:
            own = {name: tensor for name, tensor in self.model.state_dict().items() if name in self.own}
            self._known = hashed(self.config, own, self._known)
        return self._known.words
