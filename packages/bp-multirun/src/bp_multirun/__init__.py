"""Continual LoRA: the adapters of many stages are merged into one, and a matrix shows what was forgotten.

Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

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
    **dict.fromkeys(("Adapter", "read_adapter", "write_adapter"), ".adapter_folder"),
    "Pair": ".factors",
    **dict.fromkeys(("State", "coefficient", "deploy", "fold", "rows", "shares", "start"), ".slao"),
    "merge": ".task_vectors",
}
__getattr__ = lazy_names(__name__, _HOMES)
