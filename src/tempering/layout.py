"""A row of the table of architectures (`tempering.layouts`): the places in a family's network that methods need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tempering.errors import ModelError

Pool = Literal["pooler", "first", "mean", "last"]


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """The family's own sequence-classification head, as parameter names of its transformers class.

    ``pool`` chooses the vector, ``dense`` an optional linear map with ``activation`` (and ``norm``) after it, ``final`` the last
    linear map. ``body`` is the attribute under which that class keeps the body. ``input_dropout`` and ``dropout`` name the
    configuration fields, in order, from which the two dropout rates are read.
    """

    body: str
    final: str
    pool: Pool = "first"
    dense: str | None = None
    norm: str | None = None
    activation: str = "tanh"
    bias: bool = True
    input_dropout: tuple[str, ...] = ()
    dropout: tuple[str, ...] = ("classifier_dropout", "hidden_dropout_prob")


_RATES = ("classifier_dropout", "hidden_dropout_prob")


def out_proj(body: str, activation: str = "tanh", rates: tuple[str, ...] = _RATES) -> HeadSpec:
    """The head of two maps, over the first token, that several families have under the same names."""
    return HeadSpec(body, "classifier.out_proj", dense="classifier.dense", activation=activation, input_dropout=rates, dropout=rates)


def word_heads(body: str, rates: tuple[str, ...] = _RATES, span_rates: tuple[str, ...] = ()) -> dict[str, Any]:
    """The heads for single tokens and for starts and ends of answers, of one map each, that most families have under these names."""
    return {"tokens": HeadSpec(body, "classifier", dropout=rates), "spans": HeadSpec(body, "qa_outputs", dropout=span_rates)}


@dataclass(frozen=True, slots=True)
class LanguageModelSpec:
    """The family's masked-LM head: dense -> activation -> norm -> embeddings transposed + bias, as checkpoint names."""

    dense: str
    norm: str
    bias: str


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """How a family that writes text makes logits of its last states: ``weight`` and ``bias`` are checkpoint names (no bias: empty), the
    first read only where the configuration does not tie it to the embeddings; ``scaled``: tied states are divided by sqrt(width).
    ``says_tied``: the configuration calls every model tied, and only what its checkpoint holds tells.
    """

    weight: str = "lm_head.weight"
    bias: str = ""
    scaled: bool = False
    says_tied: bool = False


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The decoder of an encoder-decoder family: ``blocks`` is its stack's path in the whole model, ``places`` maps a place's name to its
    paths inside a block, self-attention before cross-attention. ``stack`` and ``reader`` are the paths of decoder and encoder themselves.
    """

    blocks: str
    places: Mapping[str, tuple[str, ...]]
    stack: str = "decoder"
    reader: str = "encoder"


@dataclass(frozen=True, slots=True)
class Layout:
    """One family. ``embeddings`` looks up tokens; ``query`` .. ``ffn_out`` are paths inside a block; ``*_output`` is the module whose
    output is the sub-layer's result just before the residual addition. ``refuses`` maps a method's registry name to the reason it
    cannot serve this family. ``ffn_norm`` is the norm that ends a block where norms follow the addition. ``read_aside`` names weights
    that are read without calling the module that holds them. ``head``, ``tokens`` and ``spans`` are the family's heads for whole texts,
    for single tokens, and for starts and ends of answers. ``decoder`` is where an encoder-decoder keeps its other half: a
    "text-encoder" is read by its encoder, and its decoder is loaded when a framing asks; an "encoder-decoder" is read by both.
    ``linear_branch`` is what `of` puts in the place of ``ffn_in``'s last name.
    """

    family: str
    blocks: str = ""
    embeddings: str = ""
    query: str = ""
    key: str = ""
    value: str = ""
    attention_out: str = ""
    attention_output: str = ""
    ffn_in: str = ""
    ffn_out: str = ""
    ffn_output: str = ""
    ffn_norm: str = ""
    linear_branch: str = ""
    head: HeadSpec | None = None
    tokens: HeadSpec | None = None
    spans: HeadSpec | None = None
    lm: LanguageModelSpec | None = None
    output: OutputSpec | None = None
    kind: Literal["encoder", "decoder", "text-encoder", "encoder-decoder"] = "encoder"
    decoder: DecoderSpec | None = None
    shared_blocks: bool = False
    position_offset: int = 0
    read_aside: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)

    def of(self, config: Any) -> Layout:
        """This row for the model of ``config``. Where its feed-forward sub-layer is gated, act(W_0 x) * (W_1 x) before the second map,
        ``ffn_in`` is W_1: the branch that no activation changes, as in families that are always built so.
        """
        if not (self.linear_branch and getattr(config, "is_gated_act", False)):
            return self
        decoder = self.decoder
        if decoder is not None:
            decoder = replace(decoder, places={**decoder.places, "ffn_in": tuple(map(self._branch, decoder.places["ffn_in"]))})
        return replace(self, ffn_in=self._branch(self.ffn_in), decoder=decoder)

    def _branch(self, path: str) -> str:
        return f"{path.rpartition('.')[0]}.{self.linear_branch}"

    def require(self, method: str, *places: str) -> None:
        """Refuse ``method`` where this family lacks one of the named ``places`` or its row gives a reason."""
        if method in self.refuses:
            raise ModelError(f"{method} cannot serve the {self.family} family: {self.refuses[method]}")
        absent = [p for p in places if not getattr(self, p)]
        if absent:
            raise ModelError(
                f"{method} needs to know where the {self.family!r} architecture keeps its {', '.join(absent).replace('_', ' ')}, and"
                f" tempering has no such row for it. What still works: the tunings full and frozen. To add it: one row in layouts.py"
            )
