"""A uniform view of a pretrained model: body, tokenizer, blocks, and one way to run it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tempering.errors import ModelError
from tempering.layouts import Layout, layout_of
from tempering.pretrained import body_class, loaded, locate, quiet, tokenizer_of
from tempering.streams import torch_stream


class Encoded(NamedTuple):
    """What the body says: ``last`` [rows, length, dim], all layers' states from the embeddings up (or None), the pooler's vector."""

    last: Tensor
    layers: tuple[Tensor, ...] | None
    pooled: Tensor | None


class Backbone(nn.Module):
    """A pretrained body with its tokenizer.

    ``model`` is the transformers body without a head, ``layout`` its row of the table of architectures, ``lm_head`` the
    language-model head once a stage has built or loaded one (it stays with the backbone from stage to stage), ``source`` what
    the user called it. ``changed`` tells whether a stage has altered the pretrained weights.
    """

    def __init__(self, model: Any, tokenizer: Any, source: str, where: str = "") -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.where = where
        self.layout: Layout = layout_of(model.config)
        self.lm_head: nn.Module | None = None
        self.changed = False
        self.reserved = 0  # positions that a tuning takes up before the text
        self.own = frozenset(model.state_dict())  # the body's own tensors: what a tuning adds is not among them
        self.pretrained = self.own  # those that came with the checkpoint
        self._known: tuple[Any, str] | None = None  # what the last fingerprint was made of, at a glance, and the fingerprint
        self.base_fingerprint = ""  # set before a tuning is attached whose change is saved apart from the body

    @classmethod
    def load(cls, source: str, seed: int = 0) -> Backbone:
        """Load ``source`` (an alias, a folder, a hub id) in fp32; weights it lacks are drawn from ``seed``.

        Only safetensors are read and no remote code is run.
        """
        import transformers

        where = locate(source)
        with quiet(), torch_stream(seed, "init", "backbone"):
            config = loaded(transformers.AutoConfig.from_pretrained, where)
            auto, options = body_class(config, layout_of(config))
            options |= {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            model, info = loaded(auto.from_pretrained, where, **options)
            tokenizer = tokenizer_of(where)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        backbone = cls(model, tokenizer, source, where)
        backbone.pretrained -= set(info["missing_keys"])
        return backbone

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
        """The transformer blocks, bottom first (one, where blocks share their weights)."""
        self.layout.require("this method", "blocks")
        return list(self.model.get_submodule(self.layout.blocks))

    @property
    def embeddings(self) -> nn.Module:
        """The module that looks up token embeddings in a forward pass (another may share its weight)."""
        row = self.layout.embeddings
        return self.model.get_submodule(row) if row else self.model.get_input_embeddings()  # type: ignore[no-any-return]

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens counted: the least of what positions and tokenizer allow, and 512."""
        positions = getattr(self.config, "max_position_embeddings", None) or 512
        if positions > 0:
            positions -= self.layout.position_offset + self.reserved
        return int(min(positions if positions > 0 else 512, self.tokenizer.model_max_length, 512))

    def depth(self, name: str) -> int:
        """Height of a body weight in the network: 0 for embeddings, 1 .. L for blocks, L + 1 for what lies above them."""
        path = name.removeprefix("backbone.").removeprefix("model.")
        if self.layout.blocks and path.startswith(self.layout.blocks + "."):
            return 1 + int(path.removeprefix(self.layout.blocks + ".").split(".", 1)[0])
        below = ("embed", "wte", "wpe", "shared", "rel_embeddings", "encoder.embed", "encoder.rel", "encoder.LayerNorm", "encoder.conv")
        return 0 if path.startswith((*below, "prompt.")) else self.top

    @property
    def top(self) -> int:
        """Depth of everything above the last block."""
        return 1 + (len(self.blocks) if self.layout.blocks else 0)

    def encode(self, inputs: dict[str, Tensor], layers: bool = False) -> Encoded:
        """Run the body on ``input_ids`` [rows, length] (with ``attention_mask`` and ``token_type_ids`` where given)."""
        body = self.model
        extra = {"use_cache": False} if self.layout.kind == "decoder" else {}
        out = body(**inputs, output_hidden_states=layers, return_dict=True, **extra)
        return Encoded(out.last_hidden_state, out.hidden_states if layers else None, out.get("pooler_output"))

    def recompute(self, on: bool) -> None:
        """Keep no activations inside blocks and compute them again in the backward pass: less memory, about a third more time."""
        if on and not self.model.supports_gradient_checkpointing:
            raise ModelError(f"gradient_checkpointing: the {self.layout.family} family of {self.source} cannot do it; set it to false")
        name = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"  # renamed in transformers 5.2x
        if on:
            getattr(self.model, f"{name}_checkpointing_enable")({"use_reentrant": False})
        elif self.model.supports_gradient_checkpointing:
            getattr(self.model, f"{name}_checkpointing_disable")()

    @contextmanager
    def perturbed(self, change: Callable[[Tensor], Tensor], layer: int = 0) -> Iterator[None]:
        """While open, ``change`` is applied to the token embeddings (layer 0) or to the input of block ``layer`` (1 .. L)."""
        if layer and layer > len(self.blocks):
            raise ModelError(f"layer {layer} of {self.source}: it has {len(self.blocks)} separate blocks; 0 means the embeddings")
        with ExitStack() as stack:
            if layer == 0:
                handle = self.embeddings.register_forward_hook(lambda _m, _a, out: change(out))
            else:
                handle = self.blocks[layer - 1].register_forward_pre_hook(lambda _m, args: (change(args[0]), *args[1:]))
            stack.callback(handle.remove)
            yield

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """While open, what every block puts out [rows, length, dim] joins the list, bottom first."""
        with ExitStack() as stack:
            seen: list[Tensor] = []
            for block in self.blocks:
                handle = block.register_forward_hook(lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out))
                stack.callback(handle.remove)
            yield seen

    def fingerprint(self) -> str:
        """Hash of configuration and body weights: the identity a saved change belongs to.

        It is remembered, and a copy of the backbone remembers it too, for as long as the checksum of every weight is what it was: a
        checksum reads the weights in a fifth of the time of the hash.
        """
        config = {k: v for k, v in self.config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "architectures")}
        words = json.dumps(config, sort_keys=True, default=str)
        tensors = [(n, _bits(t)) for n, t in sorted(self.model.state_dict().items()) if n in self.own]
        glance = (words, *((n, bits.nbytes, zlib.crc32(bits)) for n, bits in tensors))
        if self._known is None or self._known[0] != glance:
            digest = hashlib.blake2b(words.encode(), digest_size=16)
            for name, bits in tensors:
                digest.update(name.encode())
                digest.update(bits)
            self._known = (glance, digest.hexdigest())
        return self._known[1]


def _bits(tensor: Tensor) -> memoryview:
    """The bytes of ``tensor``, not copied where it lies in one piece in main memory."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
