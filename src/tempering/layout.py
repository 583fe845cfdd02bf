"""A row of the table of architectures (`tempering.layouts`): the places in a family's network that methods need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
    """

    weight: str = "lm_head.weight"
    bias: str = ""
    scaled: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """One family. ``embeddings`` looks up tokens; ``query`` .. ``ffn_out`` are paths inside a block; ``*_output`` is the module whose
    output is the sub-layer's result just before the residual addition. ``refuses`` maps a method's registry name to the reason it
    cannot serve this family. ``ffn_norm`` is the norm that ends a block where norms follow the addition. ``read_aside`` names weights
    that are read without calling the module that holds them.
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
    head: HeadSpec | None = None
    lm: LanguageModelSpec | None = None
    output: OutputSpec | None = None
    kind: Literal["encoder", "decoder", "text-encoder"] = "encoder"
    shared_blocks: bool = False
    position_offset: int = 0
    read_aside: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)

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
