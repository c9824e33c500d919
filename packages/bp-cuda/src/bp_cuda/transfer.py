"""Numbers on their way from the host to the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """A tensor of `values` on `device`. A card fetches it while the host goes on, from memory that stays in place."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
