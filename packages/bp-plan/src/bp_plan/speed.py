"""Training speeds measured on this machine, kept so that the next run can estimate its duration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bp_core.choices import QUANTIZED
from bp_core.folders import home, write_json
from bp_core.recipe import Recipe

_KEPT = 200


def kind_of(device: str, base: str, recipe: Recipe) -> str:
    """The kind of a run: what speed depends on most. Rank changes it little and is left out."""
    twice = " recomputing" if recipe.activation_checkpointing else ""
    by = "".join(f" {name}" for name in ("liger", "unsloth") if getattr(recipe, name))
    by += "" if recipe.attention == "auto" else f" {recipe.attention}"
    weights = "float8" if recipe.fp8 else QUANTIZED.get(recipe.mode, recipe.dtype)
    return f"{device} | {base} | {weights}{twice}{by}"


def remember(kind: str, speeds: Sequence[float]) -> None:
    """Record the median of a run's steps, in tokens per second."""
    if speeds:
        known = _read()
        known.pop(kind, None)
        known[kind] = round(median(speeds), 1)
        write_json(_file(), dict(list(known.items())[-_KEPT:]))


def seconds(kind: str, tokens: float) -> float | None:
    """Estimated seconds for so many tokens; None if no run of that kind was measured here."""
    speed = _read().get(kind)
    return tokens / speed if speed else None


def _file() -> Path:
    return home() / "pace.json"


def _read() -> dict[str, float]:
    try:
        value: dict[str, float] = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value
