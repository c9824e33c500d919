"""adapter_config.json: what an adapter in PEFT's layout computes. What a reader does not compute is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .adapter_keys import PREFIX, TEXT_PREFIXES
from .config import ALL_LINEAR
from .errors import AdapterUnusable

__all__ = ["CONFIG", "PREFIX", "WEIGHTS", "AdapterConfig"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings that say how the adapter was made, not what it computes; and those that every reader computes.
_HARMLESS = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "eva_config", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
    *("r", "lora_alpha", "use_rslora"),
}
_STARTS = (True, False, "gaussian", "eva", "orthogonal", None)  # those that leave the base weights as they are
_HEADS = ("lm_head", "embed_out", "output")
_Patterns = tuple[tuple[str, float], ...]  # of the ends of modules' names, and the number that is theirs


@dataclass(frozen=True)
class AdapterConfig:
    """What a LoRA adapter computes: W x + scale × B A x on each of its modules. A is [rank, in], B [out, rank].

    Of the patterns the first that matches the end of a module's name replaces rank or alpha there. Two are equal
    if adapters of them can be merged factor by factor. `values` is the whole file, for who writes it again.
    """

    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    dropout: float = field(default=0.0, compare=False)
    rank_patterns: _Patterns = ()
    alpha_patterns: _Patterns = ()
    target_modules: str | tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    base: str | None = field(default=None, compare=False)
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls, folder: Path, computed: Collection[str] = ()) -> Self:
        """The settings in an adapter's folder. Raises AdapterUnusable.

        `computed` names what the reader computes of use_dora, modules_to_save, rank_pattern, alpha_pattern, bias,
        trainable_token_indices and fan_in_fan_out; the rest is refused, and so is every setting that is not known here.
        """
        path = folder / CONFIG
        if not path.is_file():
            raise AdapterUnusable(f"{CONFIG} is missing.", where=str(folder))
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AdapterUnusable(f"the settings cannot be read ({error}).", where=str(path)) from error
        return cls.of_file(values, path, computed)

    @classmethod
    def of_file(cls, values: Mapping[str, Any], path: Path, computed: Collection[str] = ()) -> Self:
        """The settings that the file `path` holds. Raises AdapterUnusable, as `read`."""
        try:
            if (kind := values["peft_type"]) != "LORA":
                raise AdapterUnusable(f"it is a {kind} adapter; only LORA is supported.", where=str(path))
            config = cls.of(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterUnusable(f"the settings cannot be read ({error}).", where=str(path)) from error
        for name, value in values.items():
            if name not in computed and _changes_the_sum(name, value):
                fix = f"Train an adapter without {name}, or merge this one with PEFT."
                raise AdapterUnusable(
                    f"it uses {name}={value!r}, which is not computed here.", where=str(path), fix=fix
                )
        return config

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From PEFT's names."""
        targets = values.get("target_modules") or ()
        return cls(
            rank=int(values["r"]),
            alpha=float(values["lora_alpha"]),
            rslora=bool(values.get("use_rslora")),
            dora=bool(values.get("use_dora")),
            dropout=float(values.get("lora_dropout") or 0.0),
            rank_patterns=_patterns(values.get("rank_pattern")),
            alpha_patterns=_patterns(values.get("alpha_pattern")),
            target_modules=targets if isinstance(targets, str) else tuple(sorted(targets)),
            modules_to_save=tuple(values.get("modules_to_save") or ()),
            base=values.get("base_model_name_or_path"),
            values=values,
        )

    def targets(self, module: str) -> bool:
        """Whether PEFT puts a LoRA pair on this module, named as in the text model alone or as in a wrapped one."""
        names = [module, *(prefix + module.removeprefix("model.") for prefix in TEXT_PREFIXES[1:])]
        return any(self._targets(name) for name in names)

    def _targets(self, module: str) -> bool:
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save):
            return False
        if _names(self.values.get("exclude_modules"), module):
            return False
        if self.target_modules == ALL_LINEAR:
            return module.rpartition(".")[2] not in _HEADS
        layers = self.values.get("layers_to_transform")
        if isinstance(self.target_modules, str) or module in self.target_modules or layers in (None, []):
            return _names(self.target_modules, module)
        return _names(self.target_modules, module) and self._in_layers(module, layers)

    def _in_layers(self, module: str, layers: int | list[int]) -> bool:
        """Whether a module lies in one of these layers, by the number in its name."""
        written = self.values.get("layers_pattern") or r"[^.]*"
        patterns = [written] if isinstance(written, str) else written
        for pattern in patterns:
            if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
                return int(match[1]) in ([layers] if isinstance(layers, int) else layers)
        return False

    def rank_of(self, module: str) -> int:
        return int(_first_match(self.rank_patterns, module, self.rank))

    def alpha_of(self, module: str) -> float:
        return _first_match(self.alpha_patterns, module, self.alpha)

    def scale(self, module: str = "") -> float:
        """What B A of a module is multiplied with: alpha / rank, or alpha / √rank with rsLoRA."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.rslora else rank)


def _names(wanted: str | Collection[str] | None, module: str) -> bool:
    """Whether a setting names a module: a string by a pattern of the whole name, a list by the end of it."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in wanted or ())


def _changes_the_sum(name: str, value: object) -> bool:
    if name == "init_lora_weights":
        return value not in _STARTS
    return bool(value) and name not in _HARMLESS and (name, value) != ("bias", "none")


def _patterns(value: Mapping[str, Any] | None) -> _Patterns:
    return tuple((pattern, float(number)) for pattern, number in (value or {}).items())


def _first_match(patterns: _Patterns, module: str, default: float) -> float:
    """The value of the first pattern that matches the end of a module's name, as PEFT chooses it."""
    for pattern, value in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
