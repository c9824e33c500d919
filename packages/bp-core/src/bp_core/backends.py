"""The installed rails, found by name, and which of them `--backend` means."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import entry_points

from .errors import BackendUnavailable, MlxUnavailable, UnknownBackend
from .rail import Probe, Rail

GROUP = "backpropagate.rails"


def rails() -> list[str]:
    """The names of the installed rails."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find(name: str) -> Rail:
    """A new rail of that name. Raises UnknownBackend."""
    for point in entry_points(group=GROUP, name=name):
        rail: Rail = point.load()()
        return rail
    raise UnknownBackend(f"There is no backend {name!r}; installed are: {', '.join(rails())}.")


def preferred(system: str, machine: str) -> tuple[str, ...]:
    """In this order `--backend auto` tries what is installed. Off Apple's GPUs MLX is far slower than PyTorch."""
    return ("cuda", "mlx", "cpu") if (system, machine) == ("darwin", "arm64") else ("cuda", "cpu")


PREFERRED = preferred(sys.platform, platform.machine())


def choose_rail(wanted: str) -> tuple[str, Rail, Probe]:
    """The rail for `--backend`: the named one, or the best that runs here.

    Raises UnknownBackend, BackendUnavailable.
    """
    if wanted == "mlx" and wanted not in rails():
        raise MlxUnavailable("backend mlx is not installed.")
    names = [wanted]
    if wanted == "auto":
        names = [name for name in PREFERRED if name in rails()]
    reasons = []
    for name in names:
        rail = find(name)
        probe = rail.probe()
        if probe.available:
            return name, rail, probe
        reasons.append(f"{name}: {probe.reason}")
    kind = MlxUnavailable if wanted == "mlx" else BackendUnavailable
    raise kind("no backend can run here (" + "; ".join(reasons or ["none is installed"]) + ").")
