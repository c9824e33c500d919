"""What the losses of the methods need of torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, sigmoid

from bp_core.objectives import Functions


def log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 − p)) of log p [n], accurate also for p near 1, where log(1 − p) loses digits."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    small = torch.log(-torch.expm1(log_p.clamp(min=-math.log(2))))
    return log_p - torch.where(log_p > -math.log(2), small, torch.log1p(-torch.exp(log_p)))


FUNCTIONS = Functions(logsigmoid, sigmoid, torch.where, log_odds)
