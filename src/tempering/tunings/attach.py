"""What all tunings share: finding places in a pretrained body, freezing it, and adding modules without renaming its weights.

An added module hangs under the layer it changes (``...query.lora.A``) and acts through a forward hook that reads it from that
layer. So the names of pretrained weights stay as they are, several tunings can act on one body, copies of the body work, and
``torch.func.functional_call`` with other weights reaches the added ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tempering.backbone import Backbone
from tempering.contracts import Tuning
from tempering.errors import ModelError

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]
Place = tuple[str, nn.Module]


class Added(nn.Module):
    """Base of what tunings hang into a body: never counted as pretrained, never searched for places.

    ``setting`` is what must agree for a later stage to train the same module on.

    A class whose hook does no more with the module than call it on one tensor may have ``rowwise(modules, x, owner)``, which computes
    many modules in one batch: what ``modules[owner[i]](x[i])`` gives for every row i of x, or None where these cannot be computed
    together (`tempering.mixing`). Without it each module is called on its own rows.
    """

    setting: tuple[object, ...] = ()


def walk(module: nn.Module, prefix: str = "") -> Iterator[Place]:
    """(path, module) of ``module`` and all below it, leaving out what tunings added."""
    yield prefix, module
    for name, child in module.named_children():
        if not isinstance(child, Added):
            yield from walk(child, f"{prefix}.{name}" if prefix else name)


def body_weights(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Every weight of the body itself by its name there, each once; what tunings added is left out."""
    found: dict[nn.Parameter, str] = {}
    for path, module in walk(backbone.model):
        for name, weight in module.named_parameters(recurse=False):
            found.setdefault(weight, f"{path}.{name}" if path else name)
    return {name: weight for weight, name in found.items()}


def freeze(backbone: Backbone) -> None:
    """Nothing in the backbone is trained: neither its body, nor what was added to it, nor its language-model head."""
    for weight in backbone.parameters():
        weight.requires_grad_(False)


def train_only(backbone: Backbone, wanted: Callable[[str], bool]) -> None:
    """Freeze the backbone, then train those of the body's own weights whose name is ``wanted``."""
    freeze(backbone)
    for name, weight in body_weights(backbone).items():
        weight.requires_grad_(wanted(name))


def size_of(backbone: Backbone, wanted: Callable[[str], bool]) -> int:
    """How many numbers the body's own weights hold whose name is ``wanted``."""
    return sum(weight.numel() for name, weight in body_weights(backbone).items() if wanted(name))


def linear_maps(backbone: Backbone) -> dict[str, nn.Module]:
    """Every linear map of the body by its path: ``nn.Linear``, and transformers' ``Conv1D`` which stores W transposed."""
    return {path: m for path, m in walk(backbone.model) if isinstance(m, nn.Linear | Conv1D)}


def sizes(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear map."""
    a, b = (int(n) for n in module.get_parameter("weight").shape)
    return (a, b) if transposed(module) else (b, a)


def transposed(module: nn.Module) -> bool:
    """Whether a linear map stores its weight as (inputs, outputs)."""
    return isinstance(module, Conv1D)


def norms(backbone: Backbone) -> dict[str, nn.Module]:
    """Every normalization layer of the body that has weights (LayerNorm, or a family's RMSNorm, which has a gain only)."""
    return {path: m for path, m in walk(backbone.model) if "Norm" in type(m).__name__ and any(True for _ in m.parameters(recurse=False))}


def places(backbone: Backbone, method: str, names: Sequence[str]) -> list[Place]:
    """The modules at the layout's places ``names`` in every block, bottom first; a fused matrix that is several of them once.

    Where a decoder is open its blocks are among them, cross-attention after self-attention.

    A family without such a place, or a model of it that is built differently, is a `ModelError` in the name of ``method``.
    """
    layout, decoder = backbone.layout, backbone.layout.decoder
    layout.require(method, "blocks", *names)
    found: dict[str, nn.Module] = {}
    for stack in backbone.stacks:
        other = decoder is not None and stack == decoder.blocks
        inside = [(n, inner) for n in names for inner in (decoder.places[n] if decoder and other else (getattr(layout, n),))]
        for (i, block), (name, inner) in product(enumerate(backbone.model.get_submodule(stack)), inside):
            path = f"{stack}.{i}.{inner}"
            try:
                found[path] = block.get_submodule(inner)
            except AttributeError:
                raise ModelError(
                    f"{method}: this {layout.family} model has no {path} (its {name.replace('_', ' ')}), as other models of that family"
                    f" have; it has {', '.join(sorted({p.rpartition('.')[2] for p in linear_maps(backbone)}))}; use lora with names among"
                    " these as its target_modules, or full"
                ) from None
    return list(found.items())


def check_free(place: Place, name: str, setting: tuple[object, ...]) -> None:
    """Refuse where ``place`` carries an added module ``name`` of another setting than the one that is to be trained."""
    path, module = place
    there = getattr(module, name, None)
    if there is not None and there.setting != setting:
        raise ModelError(
            f"{path} already carries a {name} of setting {there.setting} from an earlier stage, and this one asks for {setting};"
            " merge the earlier one (then: merge) or give both stages the same setting to train it on"
        )


def plug(module: nn.Module, name: str, make: Callable[[], Added], hook: Hook, like: Tensor, first: bool = False) -> None:
    """Hang ``make()`` under ``module`` as ``name`` and let ``hook`` act on its output; one that is there is trained on.

    It gets the device and precision of ``like``, after its weights were drawn on the CPU: the same draws on every device.
    ``first`` puts the hook before those of other tunings: what changes the layer itself acts before what reads its output.
    """
    if getattr(module, name, None) is None:
        module.add_module(name, make().to(like.device, like.dtype))
        module.register_forward_hook(hook, prepend=first)
    getattr(module, name).requires_grad_(True)


def unplug(module: nn.Module, name: str, hook: Hook) -> None:
    """Take the added module ``name`` and its hook off again."""
    delattr(module, name)
    for key in [k for k, h in module._forward_hooks.items() if h is hook]:  # a stored handle would not survive a deep copy
        del module._forward_hooks[key]


def refuse_packed(backbone: Backbone, method: str) -> None:
    """Refuse to merge into matrices that are packed: each pass makes copies of them, and what is written to a copy is lost."""
    if backbone.quantized:
        raise ModelError(
            f"{method} cannot be merged: the matrices of {backbone.source} are packed in {backbone.quantized} and can take nothing in;"
            " keep the change attached, or load the model without quantize and attach it there"
        )


def attach_all(tunings: Sequence[Tuning], backbone: Backbone) -> None:
    """Attach several tunings to one backbone: trained is what any of them trains. Their order does not change the function."""
    trained: set[str] = set()
    for tuning in tunings:
        tuning.attach(backbone)
        trained |= {name for name, weight in backbone.named_parameters() if weight.requires_grad}
    for name, weight in backbone.named_parameters():
        weight.requires_grad_(name in trained)
