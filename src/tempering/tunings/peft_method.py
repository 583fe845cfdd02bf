"""Any method of the installed PEFT, as it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, field_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.contracts import Weights
from tempering.errors import ModelError, RecipeError
from tempering.tunings.attach import check_free, freeze, norms, refuse_packed
from tempering.tunings.peft_format import target_names
from tempering.tunings.peft_layers import ADAPTER, carried, fold, inject
from tempering.tunings.targets import PLACES, targets_of

# Start off the backbone: by a draw, or by the rounding of a decomposition.
MOVED = frozenset({"c3a", "deft", "frod", "hra", "unilora", "vblora"})
FAR = frozenset({"fourierft"})
UNMERGED = frozenset({"ln_tuning", "peanut"})
REFUSED = {
    "adalora": "its budget must be told of every step, which tempering does itself; use the tuning adalora",
    "adaption_prompt": "it rewrites the attention of one family of generators; use prefix_tuning",
    "cartridge": "it passes a cache of keys and values to the whole model; use prefix_tuning",
    "lily": "neighboring layers share its weights, which a folder written here does not keep; use lora",
    "osf": "it rewrites the pretrained weights as a decomposition, which no saved change would fit; use pissa",
    "poly": "its forward pass takes the ids of tasks beside the text; use lora for each task",
    "cpt": "it changes inputs and labels of a causal language model; use prompt_tuning",
    "shira": "which entries it trains is not stored with their values; use fish or magnitude",
    "shadow": "it runs a second model beside the body; use lora",
    "trainable_tokens": "it changes the embeddings of the whole model; use prompt_tuning",
    "xlora": "it weighs trained adapters in a pass of its own; use lora",
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PEFT:
    """Adds any method of the installed PEFT that changes single layers, with PEFT's own names, defaults and code.

    ``method`` is its type in lower case (oft, loha, vblora ...), ``options`` the fields of its configuration. ``target_modules`` among
    them means what it means in PEFT, and may hold places of the table of architectures; by default query and value, or for ln_tuning
    the norms.

    *Paper*, *Formula*: those of the method, see PEFT's documentation. *Needs*: the method in the installed PEFT; a type that wraps the
    whole model or changes its signature is refused. *Costs*: those of PEFT's layers. *Differs*: PEFT's layers hang under the pretrained
    ones instead of replacing them, so that names of weights stay and other tunings act on the same body.
    """

    method: str = "oft"
    options: Any = ()

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    mappings: ClassVar[frozenset[str]] = frozenset({"options"})  # written as a mapping in a recipe
    merge_order: ClassVar[int] = -1  # many of its methods turn the pretrained W: before others have moved that

    @field_validator("options", mode="before")
    @classmethod
    def _hashable(cls, given: Any) -> tuple[tuple[str, Any], ...]:
        """Options as sorted pairs, since a mapping does not hash."""
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            found = sorted((str(key), _frozen(value)) for key, value in pairs)
        except (TypeError, ValueError):
            raise ValueError("options must map fields of the method's configuration to values, as in  {r: 8}") from None
        for name in ("bias", "modules_to_save", "trainable_token_indices"):
            if dict(found).get(name, "none") not in ("none", None, ()):
                raise ValueError(
                    f"{name} trains pretrained weights beside the method; leave it out, and add bitfit or lora's modules_to_save"
                )
        return tuple(found)

    @property
    def identity(self) -> Literal["exact", "near", "no"]:
        """Exactly the backbone for most methods; a few start off it."""
        return "near" if self.method in MOVED else "no" if self.method in FAR else "exact"

    @property
    def merges(self) -> bool:
        """Whether PEFT folds the method into the weights."""
        return self.method not in UNMERGED

    def attach(self, backbone: Backbone) -> None:
        """Freeze the backbone and hang PEFT's layers under their targets. Those that a stage before left there are trained on."""
        setting = (self.method, self.options)
        for path, module, _ in carried(backbone):
            check_free((path, module), "peft", setting)
        config = self._config(backbone)
        freeze(backbone)
        if not carried(backbone):
            try:
                inject(backbone, config, setting)
            except (ValueError, TypeError, NotImplementedError, KeyError, RuntimeError, AssertionError) as error:
                bare = next(backbone.model.parameters()).is_meta
                why = "it needs the weights themselves, and none are loaded here" if bare else str(error)
                raise ModelError(f"peft: {self.method} cannot serve {backbone.source}: {why}; give other options, or use lora") from None
        for _, _, hung in carried(backbone):
            hung.train_own()

    def merge(self, backbone: Backbone) -> None:
        """Let PEFT fold every layer's change into its weights; then take it off."""
        if not self.merges:
            raise ModelError(
                f"peft: {self.method} cannot be merged, as PEFT does not fold it into one matrix; keep it attached (then: keep)"
            )
        refuse_packed(backbone, f"peft: {self.method}")
        with torch.no_grad():
            fold(backbone, self.method)

    def count(self, backbone: Backbone) -> int:
        """What PEFT trains on a body of this configuration, without weights where the method can be built so."""
        self._config(backbone)
        for device in ("meta", "cpu"):
            with torch.device(device):
                outline = Backbone(type(backbone.model)(backbone.config), None, backbone.source)
            try:
                self.attach(outline)
                break
            except ModelError:
                if device == "cpu" or next(backbone.model.parameters()).is_meta:
                    raise
        return sum(w.numel() for w in outline.parameters() if w.requires_grad)

    def _config(self, backbone: Backbone) -> Any:
        """PEFT's configuration, with targets as paths in the body; what it complains of is a `RecipeError` in its words."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as KNOWN

        kinds: dict[str, Any] = {kind.value.lower(): cls for kind, cls in KNOWN.items()}
        backbone.layout.require("peft")
        if self.method in REFUSED:
            raise RecipeError(f"peft: {self.method} is not one to take as it is: {REFUSED[self.method]}")
        if self.method not in kinds:
            raise RecipeError(
                f"peft: the installed PEFT has no method {self.method!r}; use one of {', '.join(sorted(set(kinds) - set(REFUSED)))}"
            )
        fields = {f.name for f in dataclasses.fields(kinds[self.method])}
        given = {name: list(v) if isinstance(v, tuple) else v for name, v in self.options}
        if unknown := sorted(set(given) - fields):
            raise RecipeError(
                f"peft: {self.method} has no option {unknown[0]!r}; use those of its configuration: {', '.join(sorted(fields))}"
            )
        try:
            config = kinds[self.method](**given | (self._places(backbone) if "target_modules" in fields else {}))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"peft: {self.method} refuses its options: {error}; change them") from None
        if config.is_prompt_learning:
            raise RecipeError(f"peft: {self.method} changes what the whole model is given; use prompt_tuning, p_tuning or prefix_tuning")
        return config

    def _places(self, backbone: Backbone) -> dict[str, Any]:
        """Options that name modules, as paths; those of (IA)3 whose input is scaled are found among the targets."""
        targets, scaled = self._targets(backbone), dict(self.options).get("feedforward_modules")
        if not isinstance(scaled, tuple) or isinstance(targets, str):
            return {"target_modules": targets}
        meant = {name: [path for path in targets if f".{path}".endswith(f".{name}")] for name in scaled}
        return {"target_modules": targets, "feedforward_modules": [path for name, paths in meant.items() for path in paths or [name]]}

    def _targets(self, backbone: Backbone) -> list[str] | str:
        """Paths of the targets. A norm or a module that is no linear map is left to PEFT by its name."""
        wanted: Any = dict(self.options).get("target_modules")
        if wanted is None and self.method == "ln_tuning":
            return list(norms(backbone))
        if self.method == "ln_tuning":
            return list(wanted) if isinstance(wanted, tuple) else wanted
        chosen = wanted if isinstance(wanted, str) else tuple(wanted or PLACES[:3:2])
        return [path for path, _ in targets_of(backbone, "peft", chosen)]

    def peft_config(self, backbone: Backbone, task_type: str, modules_to_save: Sequence[str]) -> dict[str, Any]:
        """``adapter_config.json`` as PEFT writes it."""
        config = self._config(backbone)
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
        if isinstance(plain.get("target_modules"), list) and self.method != "ln_tuning" and not plain.get("feedforward_modules"):
            plain["target_modules"] = target_names(backbone, plain["target_modules"])
        own = {"task_type": task_type, "modules_to_save": list(modules_to_save) or None, "inference_mode": True}
        found: dict[str, Any] = json.loads(json.dumps(plain | own, default=str))
        return found | {"peft_type": config.peft_type.value}

    def peft_names(self, backbone: Backbone, prefix: str) -> dict[str, str]:
        """Our names of the attached tensors -> PEFT's names on disk, as PEFT itself chooses and names them."""
        from peft import get_peft_model_state_dict

        state, body = backbone.state_dict(), backbone.model
        head = f"base_model.model.{prefix}." if prefix else "base_model.model."
        given: Weights = {}  # as PEFT looks for them: those of layers by where the layer is, shared ones on top
        for path, _, hung in carried(backbone):
            for name in hung.state_dict():
                mine = f"model.{path}.peft.{name}" if path else f"model.peft.{name}"
                given[f"{path}.peft.{name}" if path else f"base_model.{name}"] = state[mine]
        body.peft_config = {ADAPTER: self._config(backbone)}
        try:
            kept: Weights = get_peft_model_state_dict(body, state_dict=given, adapter_name=ADAPTER, save_embedding_layers=False)
        finally:
            del body.peft_config
        ours = {id(tensor): name for name, tensor in state.items()}
        full = {name if name.startswith("base_model.") else head + name.replace(".peft.inner.", "."): t for name, t in kept.items()}
        return {ours[id(tensor)]: theirs for theirs, tensor in full.items()}


def _frozen(value: Any) -> Any:
    """Lists as tuples, mappings as pairs: what hashes."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(k), _frozen(v)) for k, v in value.items()))
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
