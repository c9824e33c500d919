"""What the losses of the methods need of MLX, and the cross-entropy that they begin with."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from bp_core.objectives import Functions

from . import device

_PART = 256  # numbers that are added up at once


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """−log p of each target, float32 [targets]. logits: [targets, vocabulary]."""
    logits = logits.astype(mx.float32)
    if device.on_gpu():
        return nn.losses.cross_entropy(logits, targets, reduction="none")
    return _log_sum(logits) - mx.take_along_axis(logits, targets[:, None], axis=1)[:, 0]


def _log_sum(logits: mx.array) -> mx.array:
    """log Σ exp of each row, in two steps: MLX's CPU build adds numbers one by one, which loses the fifth digit."""
    rows, columns = logits.shape
    filled = mx.pad(logits, ((0, 0), (0, -columns % _PART)), constant_values=-math.inf)
    return mx.logsumexp(mx.logsumexp(filled.reshape(rows, -1, _PART), axis=2), axis=1)


def log_odds(log_p: mx.array) -> mx.array:
    """log(p / (1 − p)), exact at both ends: p near 1 is where log(1 − p) loses its digits."""
    log_p = mx.minimum(log_p, -mx.finfo(log_p.dtype).eps)
    small = mx.log(-mx.expm1(mx.maximum(log_p, -math.log(2))))
    return log_p - mx.where(log_p > -math.log(2), small, mx.log1p(-mx.exp(log_p)))


FUNCTIONS = Functions(nn.log_sigmoid, mx.sigmoid, mx.where, log_odds)
