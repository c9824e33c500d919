"""What settings need and this machine may lack, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from bp_core.config import QUANTIZED, Recipe, TrainConfig
from bp_core.errors import BadValue, PackageMissing

Settings = TrainConfig | Recipe
# Packages by import: the extra of ours that brings them, and their name.
_EXTRAS = {"bitsandbytes": ("quant", "bitsandbytes")}


def check(settings: Settings, device: str) -> None:
    """Raise BadValue with all that `device` (cpu or cuda) cannot do, or PackageMissing."""
    if problems := list(_impossible(settings, device)):
        raise BadValue("; ".join(problems) + ".")
    for setting, package, other in _packages(settings):
        require(setting, package, other)


def require(setting: str, package: str, other: str) -> None:
    """Raise PackageMissing if what `setting` needs is not installed; `other` does without."""
    if find_spec(package) is None:
        extra, name = _EXTRAS[package]
        fix = f'Install it: pip install "bp-cuda[{extra}]"; or use {other}.'
        raise PackageMissing(f"{setting} needs {name}.", fix=fix)


def _impossible(settings: Settings, device: str) -> Iterator[str]:
    if settings.optimizer == "paged-adamw-8bit" and device == "cpu":
        yield "optimizer paged-adamw-8bit moves moments from a card to the host, and there is no card: use adamw-8bit"


def _packages(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """What asks for which package, and what does without."""
    if settings.mode in QUANTIZED:
        yield f"mode {settings.mode}", "bitsandbytes", "--mode lora"
    if settings.optimizer not in (None, "adamw"):
        yield f"optimizer {settings.optimizer}", "bitsandbytes", "--optimizer adamw"
