"""Any method of the installed PEFT, as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, ConfigDict, WithJsonSchema, field_validator, model_validator
from pydantic.dataclasses import dataclass

from tempering.backbone import Backbone
from tempering.contracts import Weights
from tempering.errors import ModelError, RecipeError
from tempering.tunings.attach import check_free, freeze, norms, refuse_packed
from tempering.tunings.peft_format import target_names
from tempering.tunings.peft_layers import ADAPTER, carried, fold, inject
from tempering.tunings.peft_options import configuration, frozen, is_configuration, settings_of, thawed
from tempering.tunings.targets import PLACES, targets_of

# Start off the backbone: by a draw, or by the rounding of a decomposition.
MOVED = frozenset({"c3a", "deft", "frod", "hra", "unilora", "vblora"})
FAR = frozenset({"fourierft"})
UNMERGED = frozenset({"ln_tuning", "peanut"})
# Where ``r`` is the rank of the change of a matrix. That of others counts blocks, or belongs to matrices that are drawn and stay.
LOW_RANK = frozenset({"deft", "delora", "glora", "gralora", "hira", "hra", "loha", "lora", "miss", "psoft"})
LOW_RANK |= {"supertuning", "tinylora", "unilora", "vblora"}


def _named(method: Any) -> str:
    if not isinstance(method, str):
        raise ValueError("method must be the name of one of PEFT's methods, such as loha, or a configuration of PEFT")
    return method


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PEFT:
    """Adds any method of the installed PEFT that changes single layers, with PEFT's own names, defaults and code.

    ``method`` is its type in lower case (oft, loha, vblora ...), ``options`` the fields of its configuration; a configuration itself,
    ``PEFT(LoHaConfig(r=4))``, stands for both. ``target_modules`` among them means what it means in PEFT, and may hold places of the
    table of architectures; by default query and value, or for ln_tuning the norms.

    *Paper*, *Formula*: those of the method, see PEFT's documentation. *Needs*: the method in the installed PEFT; a type that wraps the
    whole model or changes its signature is refused. *Costs*: those of PEFT's layers. *Differs*: PEFT's layers hang under the pretrained
    ones instead of replacing them, so that names of weights stay and other tunings act on the same body.
    """

    method: Annotated[Any, AfterValidator(_named), WithJsonSchema({"type": "string"})] = "oft"
    options: Any = ()

    trunk_eval: ClassVar[bool] = False
    trains_pretrained: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = True
    mappings: ClassVar[frozenset[str]] = frozenset({"options"})  # written as a mapping in a recipe
    merge_order: ClassVar[int] = -1  # many of its methods turn the pretrained W: before others have moved that

    @model_validator(mode="before")
    @classmethod
    def _configured(cls, given: Any) -> Any:
        """One of PEFT's configurations in the place of method and options."""
        parts = tuple(given.values()) if isinstance(given, dict) else (*given.args, *(given.kwargs or {}).values())
        if not parts or not is_configuration(parts[0]):
            return given
        if len(parts) > 1:
            raise ValueError("a configuration holds its method and its options; give it alone")
        return settings_of(parts[0])

    @field_validator("options", mode="before")
    @classmethod
    def _hashable(cls, given: Any) -> tuple[tuple[str, Any], ...]:
        """Options as sorted pairs, since a mapping does not hash."""
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            found = sorted((str(key), frozen(value)) for key, value in pairs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options must map fields of the method's configuration to plain values, as in  {{r: 8}} ({error})") from None
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
        backbone.layout.require("peft")
        cls = configuration(self.method)
        given = thawed(self.method, cls, self.options)
        try:
            return cls(**given | self._places(backbone, cls))
        except (TypeError, ValueError, re.error) as error:
            raise RecipeError(f"peft: {self.method} refuses its options: {error}; change them") from None

    def _places(self, backbone: Backbone, cls: Any) -> dict[str, Any]:
        """Options that name modules, as paths; those of (IA)3 whose input is scaled are found among the targets."""
        given = dict(self.options)
        targets, scaled = self._targets(backbone, given.get("r", getattr(cls, "r", 1))), given.get("feedforward_modules")
        chosen = {"target_modules": targets} | {name: None for name in ("layers_to_transform", "layers_pattern") if name in given}
        if not isinstance(scaled, tuple) or isinstance(targets, str):
            return chosen
        meant = {name: [path for path in targets if f".{path}".endswith(f".{name}")] for name in scaled}
        return chosen | {"feedforward_modules": [path for name, paths in meant.items() for path in paths or [name]]}

    def _targets(self, backbone: Backbone, r: Any) -> list[str] | str:
        """Paths of the targets. A norm or a module that is no linear map is left to PEFT by its name."""
        given = dict(self.options)
        wanted: Any = given.get("target_modules")
        if wanted is None and self.method == "ln_tuning":
            return list(norms(backbone))
        if self.method == "ln_tuning":
            return list(wanted) if isinstance(wanted, tuple) else wanted
        chosen = wanted if isinstance(wanted, str) else tuple(wanted or PLACES[:3:2])
        paths = _in_layers(backbone, [path for path, _ in targets_of(backbone, "peft", chosen)], given.get("layers_to_transform"))
        ranks = [(path, _rank(path, r, given.get("rank_pattern") or ())) for path in paths]
        if self.method in LOW_RANK:
            for rank in {rank for _, rank in ranks if isinstance(rank, int)}:
                targets_of(backbone, "peft", tuple(path for path, its in ranks if its == rank), rank)
        return paths

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


def _in_layers(backbone: Backbone, paths: list[str], layers: Any) -> list[str]:
    """Those of ``paths`` in the blocks that ``layers`` numbers, from 0 up: PEFT would not ask where a target is given by its whole path."""
    if layers is None or layers == ():
        return paths
    wanted = {int(n) for n in (layers if isinstance(layers, tuple) else (layers,))}
    numbers = {path: re.search(r"(?:^|\.)(\d+)\.", path) for path in paths}
    found = [path for path, number in numbers.items() if number is not None and int(number[1]) in wanted]
    if not found:
        raise ModelError(
            f"peft: layers_to_transform names {', '.join(map(str, sorted(wanted)))}, and no target of {backbone.source} is in such a block;"
            " give numbers of its blocks, from 0 up"
        )
    return found


def _rank(path: str, r: Any, patterns: tuple[tuple[str, Any], ...]) -> Any:
    """The rank at ``path``: that of the first of PEFT's ``rank_pattern`` which fits, else ``r``."""
    return next((rank for name, rank in patterns if re.match(rf"(.*\.)?({name})$", path)), r)
