"""What the losses of the methods need of MLX, and the cross-entropy that they begin with."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from bp_core.objectives import Functions

from . import device

_PART = 256  # numbers summed at once


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """−log p of each target token, float32 [targets]. logits [targets, vocabulary], targets int32 [targets]."""
    logits = logits.astype(mx.float32)
    if device.on_gpu():
        return nn.losses.cross_entropy(logits, targets, reduction="none")
    return _log_sum(logits) - mx.take_along_axis(logits, targets[:, None], axis=1)[:, 0]


def _log_sum(logits: mx.array) -> mx.array:
    """log Σ exp of each row [rows]; in two steps, because MLX's CPU build adds numbers one by one, which is inexact."""
    rows, columns = logits.shape
    filled = mx.pad(logits, ((0, 0), (0, -columns % _PART)), constant_values=-math.inf)
    return mx.logsumexp(mx.logsumexp(filled.reshape(rows, -1, _PART), axis=2), axis=1)


def log_odds(log_p: mx.array) -> mx.array:
    """log(p / (1 − p)) of log p [n], accurate also for p near 1, where log(1 − p) loses digits."""
    log_p = mx.minimum(log_p, -mx.finfo(log_p.dtype).eps)
    small = mx.log(-mx.expm1(mx.maximum(log_p, -math.log(2))))
    return log_p - mx.where(log_p > -math.log(2), small, mx.log1p(-mx.exp(log_p)))


FUNCTIONS = Functions(nn.log_sigmoid, mx.sigmoid, mx.where, log_odds)
