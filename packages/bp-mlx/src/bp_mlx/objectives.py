"""The losses of the training methods, as functions of log-probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from bp_core.choices import Method
from bp_core.recipe import Recipe

from . import device

_PART = 256  # numbers summed at once

Losses = tuple[mx.array, mx.array]  # losses, and margins by which the better answer is preferred


@dataclass(frozen=True)
class Scores:
    """For each example the summed log-probability (nats) and number of its trained tokens; float32 [examples]."""

    sums: mx.array
    counts: mx.array

    @property
    def means(self) -> mx.array:
        return self.sums / self.counts


@dataclass(frozen=True)
class Objective:
    """A training method with its constants."""

    method: Method = "sft"
    beta: float = 0.0
    gamma: float = 0.0
    weights: tuple[float, float] = (1.0, 1.0)  # of desirable and undesirable answers

    @property
    def needs_base(self) -> bool:
        return self.method == "kto"

    def of_pairs(self, scores: Scores) -> Losses:
        """Losses and margins, float32 [pairs]. In `scores` chosen and rejected examples alternate."""
        chosen, rejected = scores.means[0::2], scores.means[1::2]
        if self.method == "orpo":
            return orpo(chosen, rejected, self.beta), chosen - rejected
        return simpo(chosen, rejected, self.beta, self.gamma), chosen - rejected

    def of_rated(self, scores: Scores, base: Scores, desirable: mx.array, kl_reference: float) -> Losses:
        """Losses and margins, float32 [examples]. desirable: bool [examples]; kl_reference: KTO's z₀, in nats."""
        ratios = scores.sums - base.sums
        return kto(ratios, desirable, kl_reference, self.beta, self.weights), mx.where(desirable, ratios, -ratios)


def of(recipe: Recipe | None) -> Objective:
    """The objective of a recipe; without one, for inference, the loss per token."""
    if recipe is None:
        return Objective()
    weights = (recipe.desirable_weight, recipe.undesirable_weight)
    return Objective(recipe.method, recipe.beta, recipe.gamma, weights)


def orpo(chosen: mx.array, rejected: mx.array, beta: float) -> mx.array:
    """Odds ratio preference optimisation: the chosen answer's loss, and β × −log σ(log of the odds ratio).

    Mean log-probabilities per token [pairs] → losses [pairs]. arXiv:2403.07691, equations 3 to 7; β is their λ.
    """
    return -chosen - beta * nn.log_sigmoid(_log_odds(chosen) - _log_odds(rejected))


def simpo(chosen: mx.array, rejected: mx.array, beta: float, gamma: float) -> mx.array:
    """Simple preference optimisation: −log σ(β × difference of the mean log-probabilities − γ).

    Mean log-probabilities per token [pairs] → losses [pairs]. arXiv:2405.14734, equation 6.
    """
    return -nn.log_sigmoid(beta * (chosen - rejected) - gamma)


def kto(
    ratios: mx.array, desirable: mx.array, kl_reference: float, beta: float, weights: tuple[float, float]
) -> mx.array:
    """Kahneman–Tversky optimisation: λ (1 − σ(±β (log ratio − z₀))), + for desirable answers.

    `ratios` [examples]: log p(answer) minus the base's, in nats; `kl_reference` is z₀; `weights` are λ of desirable and
    undesirable answers. Losses [examples].
    arXiv:2402.01306, equation 8.
    """
    sign, weight = mx.where(desirable, 1.0, -1.0), mx.where(desirable, *weights)
    return weight * (1 - mx.sigmoid(sign * beta * (ratios - kl_reference)))


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


def _log_odds(log_p: mx.array) -> mx.array:
    """log(p / (1 − p)), accurate also for p near 1, where log(1 − p) loses digits."""
    log_p = mx.minimum(log_p, -mx.finfo(log_p.dtype).eps)
    small = mx.log(-mx.expm1(mx.maximum(log_p, -math.log(2))))
    return log_p - mx.where(log_p > -math.log(2), small, mx.log1p(-mx.exp(log_p)))
