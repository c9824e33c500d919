"""The rail used where MLX is not installed or cannot start."""

from __future__ import annotations

import platform
import sys

from bp_core.errors import MlxUnavailable
from bp_core.null_rail import NullRail
from bp_core.rail import Job, ModelInfo, Probe


class UnavailableRail(NullRail):
    """Reports itself as unavailable, and opens nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = f"{reason} ({sys.platform}, {platform.machine()})"

    def probe(self) -> Probe:
        return Probe(False, "mlx", self.reason)

    def open(self, job: Job) -> ModelInfo:
        raise MlxUnavailable(f"backend mlx cannot run here: {self.reason}.")
