"""What settings need and this machine may lack, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from bp_core.config import FP8_CARD, QUANTIZED, Recipe, TrainConfig
from bp_core.errors import BadValue, PackageMissing

Settings = TrainConfig | Recipe
Capability = tuple[int, int]
# Packages by import: the extra of ours that brings them, and their name.
_EXTRAS = {"bitsandbytes": ("quant", "bitsandbytes"), "torchao": ("fp8", "torchao")}


def check(settings: Settings, device: str, capability: Capability | None = None) -> None:
    """Raise BadValue with all that `device` (cpu or cuda) cannot do, or PackageMissing. `capability`: of its card."""
    if problems := list(_impossible(settings, device, capability)):
        raise BadValue("; ".join(problems) + ".")
    for setting, package, other in _packages(settings):
        require(setting, package, other)


def require(setting: str, package: str, other: str) -> None:
    """Raise PackageMissing if what `setting` needs is not installed; `other` does without."""
    if find_spec(package) is None:
        extra, name = _EXTRAS[package]
        fix = f'Install it: pip install "bp-cuda[{extra}]"; or use {other}.'
        raise PackageMissing(f"{setting} needs {name}.", fix=fix)


def _impossible(settings: Settings, device: str, capability: Capability | None) -> Iterator[str]:
    if settings.optimizer == "paged-adamw-8bit" and device == "cpu":
        yield "optimizer paged-adamw-8bit moves moments from a card to the host, and there is no card: use adamw-8bit"
    if settings.fp8 and (capability is None or capability < FP8_CARD):
        least, found = "{}.{}".format(*FP8_CARD), "there is none"
        if capability:
            found = "this one has {}.{}".format(*capability)
        yield f"fp8 needs a card of compute capability {least} or more, and {found}: leave fp8 out"


def _packages(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """What asks for which package, and what does without."""
    if settings.mode in QUANTIZED:
        yield f"mode {settings.mode}", "bitsandbytes", "--mode lora"
    if settings.fp8:
        yield "fp8", "torchao", "no --fp8"
    if settings.optimizer not in (None, "adamw"):
        yield f"optimizer {settings.optimizer}", "bitsandbytes", "--optimizer adamw"
