"""What is minimised: the losses of the methods, as functions of log-probabilities, summed over a micro-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from bp_core.choices import Method
from bp_core.recipe import Recipe

from . import device

_PART = 256  # numbers that are added up at once

Losses = tuple[mx.array, mx.array]  # each with the margin by which the better answer is preferred, where there is one


@dataclass(frozen=True)
class Scores:
    """Of each example the summed log-probability of its trained tokens, and their number; float32 [examples]."""

    sums: mx.array
    counts: mx.array

    @property
    def means(self) -> mx.array:
        return self.sums / self.counts


@dataclass(frozen=True)
class Objective:
    """A method with its constants."""

    method: Method = "sft"
    beta: float = 0.0
    gamma: float = 0.0
    weights: tuple[float, float] = (1.0, 1.0)  # of desirable and undesirable answers

    @property
    def needs_base(self) -> bool:
        return self.method == "kto"

    def of_pairs(self, scores: Scores) -> Losses:
        """Of each pair; chosen and rejected alternate in `scores`."""
        chosen, rejected = scores.means[0::2], scores.means[1::2]
        if self.method == "orpo":
            return orpo(chosen, rejected, self.beta), chosen - rejected
        return simpo(chosen, rejected, self.beta, self.gamma), chosen - rejected

    def of_rated(self, scores: Scores, base: Scores, desirable: mx.array, drift: float) -> Losses:
        """Of each rated example. desirable: bool [examples]; drift: KTO's z₀, in nats."""
        ratios = scores.sums - base.sums
        return kto(ratios, desirable, drift, self.beta, self.weights), mx.where(desirable, ratios, -ratios)


def of(recipe: Recipe | None) -> Objective:
    """What a recipe minimises; for reading without one, the loss of the tokens."""
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


def kto(ratios: mx.array, desirable: mx.array, drift: float, beta: float, weights: tuple[float, float]) -> mx.array:
    """Kahneman–Tversky optimisation: λ (1 − σ(±β (log ratio − z₀))), + for desirable answers.

    `ratios`: log p(answer) less the base's [examples]; `drift` is z₀, `weights` λ of desirable and undesirable ones.
    arXiv:2402.01306, equation 8.
    """
    sign, weight = mx.where(desirable, 1.0, -1.0), mx.where(desirable, *weights)
    return weight * (1 - mx.sigmoid(sign * beta * (ratios - drift)))


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


def _log_odds(log_p: mx.array) -> mx.array:
    """log(p / (1 − p)), exact at both ends: p near 1 is where log(1 − p) loses its digits."""
    log_p = mx.minimum(log_p, -mx.finfo(log_p.dtype).eps)
    small = mx.log(-mx.expm1(mx.maximum(log_p, -math.log(2))))
    return log_p - mx.where(log_p > -math.log(2), small, mx.log1p(-mx.exp(log_p)))
