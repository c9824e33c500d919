"""What other libraries would tell their makers about this machine is switched off."""

from __future__ import annotations

import os

from huggingface_hub import constants

_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def disable_telemetry() -> None:
    """Switch the hub's telemetry off, here and in processes started from here; HF_HUB_DISABLE_TELEMETRY=0 leaves it on.

    Left on, requests to the hub also name the version of torch, and a coding agent if one runs them.
    """
    if _TELEMETRY not in os.environ:
        os.environ[_TELEMETRY] = "1"
        constants.HF_HUB_DISABLE_TELEMETRY = True  # huggingface_hub read the variable when it was imported
