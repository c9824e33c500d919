"""Measuring a model: metrics, bootstrap intervals, gates, questions, and an adapter for lm-evaluation-harness.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bootstrap import Interval, Ratio, difference, interval
    from .config import EvalConfig
    from .gates import Gate, gates_in, judge
    from .measures import Evaluation, losses
    from .questions import Question

__all__ = [
    "EvalConfig",
    "Evaluation",
    "Gate",
    "Interval",
    "Question",
    "Ratio",
    "difference",
    "gates_in",
    "interval",
    "judge",
    "losses",
]
_HOMES = {
    **dict.fromkeys(("Interval", "Ratio", "difference", "interval"), "bootstrap"),
    "EvalConfig": "config",
    **dict.fromkeys(("Gate", "gates_in", "judge"), "gates"),
    **dict.fromkeys(("Evaluation", "losses"), "measures"),
    "Question": "questions",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
