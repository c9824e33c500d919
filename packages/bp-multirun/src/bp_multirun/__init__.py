"""Continual LoRA: the adapters of many stages are merged into one, and a matrix shows what was forgotten.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapter_folder import Adapter, read_adapter, write_adapter
    from .factors import Pair
    from .slao import State, coefficient, deploy, fold, rows, shares, start
    from .task_vectors import merge

__all__ = [
    "Adapter",
    "Pair",
    "State",
    "coefficient",
    "deploy",
    "fold",
    "merge",
    "read_adapter",
    "rows",
    "shares",
    "start",
    "write_adapter",
]
_HOMES = {
    **dict.fromkeys(("Adapter", "read_adapter", "write_adapter"), "adapter_folder"),
    "Pair": "factors",
    **dict.fromkeys(("State", "coefficient", "deploy", "fold", "rows", "shares", "start"), "slao"),
    "merge": "task_vectors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
