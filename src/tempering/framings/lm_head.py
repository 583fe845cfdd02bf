"""The masked-language-model head of a backbone: reused, read from its checkpoint, or drawn fresh and tied to the embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempering.errors import ModelError
from tempering.framings.initial import activation, draw, first, layer_norm
from tempering.layouts import LanguageModelSpec

if TYPE_CHECKING:
    from tempering.backbone import Backbone

GENERIC = LanguageModelSpec("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")  # names for a family that has no row
ACTIVATIONS = ("classifier_activation", "hidden_act", "activation", "hidden_activation")


class LMHead(nn.Module):
    """dense -> activation -> norm -> embeddings transposed + bias.

    The output matrix is the backbone's own embedding matrix [vocabulary, width], handed in at each call, so that the two stay tied
    whatever happens to either. ``fresh`` tells that the weights were drawn and not read.
    """

    def __init__(self, config: Any, vocabulary: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(int(config.hidden_size), width, bias=bool(first(config, "classifier_bias", default=True)))
        self.activation = activation(first(config, *ACTIVATIONS, default="gelu"))
        self.norm = layer_norm(width, config)
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if first(config, "decoder_bias", default=True) else None
        self.fresh = True
        self.tied: tuple[nn.Module, ...] = ()  # the embeddings, in a tuple: they hang in the body, and only there
        draw(self.dense, config)

    def forward(self, hidden: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [masked, dim] -> logits [masked, vocabulary] and what the output matrix read [masked, width]."""
        features = self.features(hidden)
        return self.logits(features, embeddings), features

    def features(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., dim] -> what the output matrix reads [..., width]."""
        features: Tensor = self.norm(self.activation(self.dense(hidden)))
        added: list[Any] = [child for table in self.tied for child in table.children() if hasattr(child, "inverse")]
        for change in added:  # what a tuning does to embeddings is undone before the matrix tied to them
            features = change.inverse(features)
        return features

    def logits(self, features: Tensor, embeddings: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits of the whole vocabulary, or of the tokens ``ids`` alone: only their rows of the matrix are read."""
        return read_rows(features, embeddings, self.bias, ids)


def read_rows(features: Tensor, matrix: Tensor, bias: Tensor | None, ids: Tensor | None) -> Tensor:
    """features [..., width] by the rows ``ids`` (None: all) of ``matrix`` [vocabulary, width], plus their bias."""
    if ids is None:
        return F.linear(features, matrix, bias)
    # Not matrix[ids], whose gradient is written twice: all zeros, then a copy with these rows.
    return F.linear(features, F.embedding(ids, matrix), None if bias is None else bias[ids])


def ensure_lm_head(backbone: Backbone) -> LMHead:
    """The head at ``backbone.lm_head``, put there if there is none: from the checkpoint the backbone came from where it holds one,
    else drawn from torch's generator. That of an outline has shapes and no content.
    """
    if not isinstance(backbone.lm_head, LMHead):
        table: Any = backbone.embeddings.weight
        spec, layout = backbone.layout.lm or GENERIC, backbone.layout
        with outlined(table):
            head = LMHead(backbone.config, *table.shape)
        classifiers = [one.dense for one in (layout.head, layout.tokens, layout.spans) if one is not None]
        read = stored_tensors if spec.dense in classifiers else stored_head  # of ModernBERT's the bias alone tells which head it is
        stored = read(backbone.where, _names(head, spec), table.is_meta)
        if stored is not None:
            _fill(head, stored, backbone.source)
        head.fresh = stored is None and known(backbone)
        backbone.lm_head = head.to(table.device)
    found: LMHead = backbone.lm_head
    found.tied = (backbone.embeddings,)
    return found


def outlined(table: Tensor) -> AbstractContextManager[Any]:
    """Where what is made beside the embeddings ``table`` has shapes alone, as ``table`` has in an outline."""
    return torch.device("meta") if table.is_meta else nullcontext()


def known(backbone: Backbone) -> bool:
    """Whether it can be told which heads its checkpoint holds: not of an outline whose weights are not on this machine."""
    return not backbone.embeddings.get_parameter("weight").is_meta or bool(_tensor_files(backbone.where))


def random_head(backbone: Backbone) -> bool:
    """Whether ``backbone`` has a language-model head that was drawn at random and that no stage has trained since."""
    return bool(getattr(backbone.lm_head, "fresh", False)) and not any(name.startswith("lm_head.") for name in backbone.learned)


def drawn_note(backbone: Backbone, ensure: Callable[[Backbone], Any]) -> tuple[str, ...]:
    """A note if ``ensure`` has to draw the language-model head: nothing is said of one that an earlier stage has left."""
    if backbone.lm_head is not None or not ensure(backbone).fresh:
        return ()
    found = f"{backbone.source} holds no language-model head; one was drawn at random, so that losses and perplexities on text tell of"
    return (f"{found} that head and not of what the model knows; give a model that was saved with its head",)


def lm_state(backbone: Backbone) -> dict[str, Tensor]:
    """The head's weights by their names in the family's ``ForMaskedLM`` class; the output matrix is the embeddings. Empty if none."""
    head = backbone.lm_head
    if not isinstance(head, LMHead):
        return {}
    weights = dict(head.named_parameters())
    return {theirs: weights[ours].detach().clone() for ours, theirs in _names(head, backbone.layout.lm or GENERIC).items()}


def _names(head: LMHead, spec: LanguageModelSpec) -> dict[str, str]:
    """Our name of each weight -> its name in a checkpoint."""
    modules = {"dense": spec.dense, "norm": spec.norm}
    parts = ((name, name.partition(".")) for name, _ in head.named_parameters())
    return {name: spec.bias if module == "bias" else f"{modules[module]}.{leaf}" for name, (module, _, leaf) in parts}


def stored_head(where: str, names: dict[str, str], shapes: bool = False) -> dict[str, Tensor] | None:
    """`stored_tensors` of a head, without its ``bias`` over the vocabulary where the checkpoint lacks that alone.

    Such a head is a pretrained one: the bias stays zero, as transformers leaves it too, and adds nothing to what the matrix says.
    """
    found = stored_tensors(where, names, shapes)
    rest = {ours: theirs for ours, theirs in names.items() if ours != "bias"}
    return stored_tensors(where, rest, shapes) if found is None and rest else found


def stored_tensors(where: str, names: dict[str, str], shapes: bool = False) -> dict[str, Tensor] | None:
    """The weights under our names, if the safetensors checkpoint at ``where`` holds all of them; their ``shapes`` alone read no weight."""
    files = _tensor_files(where)
    found = {ours: next((n for n in _spellings(theirs) if n in files), None) for ours, theirs in names.items()}
    if not files or None in found.values():
        return None
    from safetensors import safe_open

    out = {}
    for ours, name in found.items():
        with safe_open(files[str(name)], framework="pt") as file:
            stored = file.get_slice(name)
            out[ours] = torch.empty(stored.get_shape(), device="meta") if shapes else file.get_tensor(name).float()
    return out


def _spellings(name: str) -> tuple[str, ...]:
    """A checkpoint may keep the output bias with the output matrix, and one from before 2019 calls a norm's weights gamma and beta."""
    stem, _, leaf = name.rpartition(".")
    if not stem:
        return (name,)
    return name, f"{stem}.decoder.{leaf}", f"{stem}.{ {'weight': 'gamma', 'bias': 'beta'}[leaf] }"


def _tensor_files(where: str) -> dict[str, Path]:
    """Tensor name -> file that holds it, of a checkpoint in one file or in shards; empty where there is none on this machine."""
    single, index = _local(where, "model.safetensors"), _local(where, "model.safetensors.index.json")
    if single is not None:
        from safetensors import safe_open

        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    if index is None:
        return {}
    shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return {tensor: path for tensor, shard in shards.items() if (path := _local(where, shard)) is not None}


def _local(where: str, file: str) -> Path | None:
    """The file of a local folder or of the hub's cache; the network is not asked, as the body was loaded already."""
    if not where:
        return None
    if Path(where).is_dir():
        return Path(where, file) if Path(where, file).exists() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(where, file)
    return Path(found) if isinstance(found, str) else None


def _fill(head: LMHead, stored: dict[str, Tensor], source: str) -> None:
    weights = dict(head.named_parameters())
    for name, weight in ((name, weights[name]) for name in stored):
        if weight.shape != stored[name].shape:
            raise ModelError(
                f"--model {source}: its masked-language-model head has {name} of shape {tuple(stored[name].shape)}, expected"
                f" {tuple(weight.shape)}; embeddings and head do not belong together, load the model as it was published"
            )
    head.load_state_dict(stored, strict=False)
