"""The MLX rail. Importing this is light; `bp_mlx.rail` brings mlx."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from bp_core.rail import Rail

from .unavailable import UnavailableRail

_NEEDED = ("mlx", "mlx_lm")


def make() -> Rail:
    """The rail for `--backend mlx`; an UnavailableRail where MLX is not installed or cannot start."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        return UnavailableRail(f"{' and '.join(missing)} not installed")
    try:
        rail: Rail = import_module(".rail", __name__).MlxRail()
    except (ImportError, ValueError) as error:  # macOS too old; mlx-lm cannot raise the file limit
        return UnavailableRail(f"MLX does not start: {error}")
    return rail
