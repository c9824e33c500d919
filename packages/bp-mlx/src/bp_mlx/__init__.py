"""The MLX rail. Importing this is light; `bp_mlx.rail` brings mlx."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from bp_core.rail import Rail

from .unavailable import Absent

_NEEDED = ("mlx", "mlx_lm")


def make() -> Rail:
    """`--backend mlx`: a new rail, or where MLX is not installed or cannot start one that only says so."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        return Absent(f"{' and '.join(missing)} not installed")
    try:
        found: Rail = import_module(".rail", __name__).MlxRail()
    except (ImportError, ValueError) as error:  # a macOS too old for its libraries; a limit on files that mlx-lm raises
        return Absent(f"MLX does not start: {error}")
    return found
