"""Measuring a model: metrics, bootstrap intervals, gates, questions, and an adapter for lm-evaluation-harness.

Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

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
    **dict.fromkeys(("Interval", "Ratio", "difference", "interval"), ".bootstrap"),
    "EvalConfig": ".config",
    **dict.fromkeys(("Gate", "gates_in", "judge"), ".gates"),
    **dict.fromkeys(("Evaluation", "losses"), ".measures"),
    "Question": ".questions",
}
__getattr__ = lazy_names(__name__, _HOMES)
