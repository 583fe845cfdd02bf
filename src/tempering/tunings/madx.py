"""MAD-X: a task adapter stacked on the frozen adapter of a language."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tempering.backbone import Backbone
from tempering.contracts import Probe
from tempering.errors import ModelError
from tempering.tunings.adapter_drop import Memory
from tempering.tunings.attach import Place, check_free, freeze, places
from tempering.tunings.bottleneck import Activation, Adapter, FeedForwardTuning, Narrow, as_buffers, check_alone, width
from tempering.tunings.invertible import NAME as INVERTIBLE
from tempering.tunings.invertible import check_invertible, hang_invertible
from tempering.tunings.pfeiffer import Pfeiffer
from tempering.tunings.saved_adapters import fill, read_adapters

if TYPE_CHECKING:
    from tempering.learner import Learner

RESULT = "madx_result"


class Stack(Adapter):
    """n [..., d] -> U_t act(D_t l) with l = h + U_l act(D_l n): the task adapter reads the language adapter, both skip from h.

    h is the feed-forward sub-layer's result, n what Pfeiffer's adapter reads. Without a task adapter: n -> U_l act(D_l n).
    """

    def __init__(self, language: Narrow, task: Narrow | None, memory: Memory) -> None:
        super().__init__()
        self.language, self.task = language, task
        self.source = (memory,)  # in a tuple: it hangs at the sub-layer's result

    def forward(self, n: Tensor) -> Tensor:
        """What is added to the residual sum."""
        h, change = self.source[0].take(), self.language.change(n)
        return change if self.task is None or self.sits_out() else self.task.change(h + change)

    def drop(self) -> bool:
        """Without its task adapter the language adapter remains."""
        self.task = None
        return False


class Result(Memory, Adapter):
    """Keeps the sub-layer's result for the `Stack`; an adapter, so that no other changes it unseen."""

    def drop(self) -> bool:
        """The stack goes on reading it."""
        return False


def _remember(sublayer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of the sub-layer's result."""
    memory: Any = sublayer.get_submodule(RESULT)
    memory.held = output
    return output


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MADX(FeedForwardTuning):
    """Trains a task adapter in every block on top of a frozen language adapter, so that the task can be moved to other languages.

    ``language`` is a folder that was fitted with tuning pfeiffer (reduction 2, ``invertible``) under masked_lm on texts of the task's
    language; ``language_m``, ``language_reduction`` and ``invertible`` are its own. It is read when training begins; what is saved holds
    it, and `speak` puts another language in its place. Without a folder a fresh language adapter is trained along with the task's.
    ``drop_layers`` leaves out the task adapters of so many lowest blocks, ``robust`` of a number drawn in every training pass
    (AdapterDrop, Rücklé et al. 2021).

    *Paper*: Pfeiffer et al. 2020. *Formula*: with h the feed-forward sub-layer's result and n what Pfeiffer's adapter reads:
    l = h + U_l act(D_l n), and U_t act(D_t l) is added to the residual sum; L(2md + m + d) numbers. The invertible adapter of the
    language follows the token embeddings. *Needs*: a language adapter of the same backbone. *Costs*: one pass, two adapters a block.
    It does not merge. *Differs*: activations of both adapters are one field. The task adapter's skip is h, as in the paper, so that a
    language speaks through what the task adapter reads.
    """

    language: str = ""
    m: int | None = Field(default=None, ge=1)
    reduction: int = Field(default=16, ge=1)
    language_m: int | None = Field(default=None, ge=1)
    language_reduction: int = Field(default=2, ge=1)
    invertible: bool = True
    init_std: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    activation: Activation = "relu"

    method: ClassVar[str] = "madx"
    trains_pretrained: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = False  # `prepare` reads a folder alone

    @property
    def identity(self) -> Literal["exact", "near", "no"]:
        """A language that was learned before moves the model at once."""
        return "no" if self.language else "near"

    @property
    def notes(self) -> tuple[str, ...]:
        """That there is no language, where none is given: the method is about moving from one to another."""
        told = (
            "no language adapter is given to madx: one is drawn at random and trained along with the task's, and cannot be exchanged; set"
            " tuning.language=FOLDER (temper adapt TEXTS --recipe madx-language makes one)"
        )
        return () if self.language else (told,)

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone, add language and task adapters, train the task's (without a folder, both)."""
        results, found, setting = self._results(backbone), self.places(backbone), self.setting(backbone)
        for place in found:
            check_free(place, self.method, setting)
        for place in (*found, *results):
            check_alone(place, self.method)
        if self.invertible:
            check_invertible(self.method, backbone, frozen=bool(self.language))
        freeze(backbone)
        for (path, module), result in zip(found, results, strict=True):
            self.hang(backbone, result, RESULT, Result, _remember)
            memory: Any = result[1].get_submodule(RESULT)
            make = partial(self.make, backbone, backbone.depth(path) > self.drop_layers, memory)
            self.hang(backbone, (path, module), self.method, make, self.hook(backbone))
        if self.invertible:
            hang_invertible(backbone, self.init_std, frozen=bool(self.language))

    def prepare(self, learner: Learner, probe: Probe) -> None:
        """Read the language from its folder."""
        if self.language:
            self.read(learner.backbone)

    def check_files(self, backbone: Backbone) -> None:
        """Refuse a folder that is missing or holds other adapters, before anything is trained."""
        if self.language:
            read_adapters("madx.language", self.language, backbone, self.spoken)

    def read(self, backbone: Backbone) -> None:
        """Fill the frozen language adapter of every block, and the invertible one, from the folder."""
        tensors = read_adapters("madx.language", self.language, backbone, self.spoken)
        for path, module in self.places(backbone):
            stack: Any = module.get_submodule(self.method)
            fill(stack.language, tensors, f"{path}.{self.spoken.method}.")
        if self.invertible:
            fill(backbone.embeddings.get_submodule(INVERTIBLE), tensors, f"{backbone.layout.embeddings}.{INVERTIBLE}.")

    def count(self, backbone: Backbone) -> int:
        """L(2md + m + d) of the task's adapters; without a folder, the language's and the invertible one's too."""
        d, m, layers = backbone.hidden_size, self.width(backbone), len(self.above(backbone, "ffn_output"))
        own = layers * (2 * m * d + m + d)
        return own if self.language else own + self.spoken.count(backbone)

    def places(self, backbone: Backbone) -> list[Place]:
        """Pfeiffer's place in every block: a dropped one keeps its language."""
        self.above(backbone, "ffn_output")
        return places(backbone, self.method, ["ffn_norm" if backbone.layout.ffn_norm else "ffn_output"])

    def make(self, backbone: Backbone, with_task: bool = True, memory: Memory | None = None) -> Stack:
        """A new stack; the language of a folder is yet blank."""
        language = self.spoken.make(backbone)
        task = Narrow(backbone.hidden_size, self.width(backbone), self.init_std, self.activation) if with_task else None
        return Stack(as_buffers(language) if self.language else language, task, memory or Result())

    def setting(self, backbone: Backbone) -> tuple[object, ...]:
        """Widths, activation, and where the language came from."""
        return self.width(backbone), *self.spoken.setting(backbone), bool(self.language)

    def width(self, backbone: Backbone) -> int:
        """Units of a task adapter."""
        return width(self.method, backbone, self.m, self.reduction)

    @property
    def spoken(self) -> Pfeiffer:
        """What the language adapter is."""
        return Pfeiffer(self.language_m, self.language_reduction, self.init_std, self.activation, self.invertible)

    def _results(self, backbone: Backbone) -> list[Place]:
        return places(backbone, self.method, ["ffn_output"])


def speak(learner: Learner, folder: str) -> None:
    """Give a learner trained with `MADX` another language, in place: zero-shot transfer."""
    tuning: Any = learner.tuning
    if not getattr(tuning, "language", ""):
        raise ModelError(f"{type(tuning).__name__} has no language of a folder to exchange; fit with madx and language set to a folder")
    other = dataclasses.replace(tuning, language=folder)
    other.read(learner.backbone)
    learner.tuning = other
