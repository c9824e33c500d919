"""The losses of the training methods, as functions of log-probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, sigmoid

from bp_core.choices import Method
from bp_core.recipe import Recipe

Losses = tuple[Tensor, Tensor]  # losses, and margins by which the better answer is preferred


@dataclass(frozen=True)
class Scores:
    """For each example the summed log-probability (nats) and number of its trained tokens; float32 [examples]."""

    sums: Tensor
    counts: Tensor

    @property
    def means(self) -> Tensor:
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

    def of_rated(self, scores: Scores, base: Scores, desirable: Tensor, kl_reference: float) -> Losses:
        """Losses and margins, float32 [examples]. desirable: bool [examples]; kl_reference: KTO's z₀, in nats."""
        ratios = scores.sums - base.sums
        return kto(ratios, desirable, kl_reference, self.beta, self.weights), torch.where(desirable, ratios, -ratios)


def of(recipe: Recipe | None) -> Objective:
    """The objective of a recipe; without one, for inference, the loss per token."""
    if recipe is None:
        return Objective()
    weights = (recipe.desirable_weight, recipe.undesirable_weight)
    return Objective(recipe.method, recipe.beta, recipe.gamma, weights)


def orpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Odds ratio preference optimisation: the chosen answer's loss, and β × −log σ(log of the odds ratio).

    Mean log-probabilities per token [pairs] → losses [pairs]. arXiv:2403.07691, equations 3 to 7; β is their λ.
    """
    return -chosen - beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation: −log σ(β × difference of the mean log-probabilities − γ).

    Mean log-probabilities per token [pairs] → losses [pairs]. arXiv:2405.14734, equation 6.
    """
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def kto(ratios: Tensor, desirable: Tensor, kl_reference: float, beta: float, weights: tuple[float, float]) -> Tensor:
    """Kahneman–Tversky optimisation: λ (1 − σ(±β (log ratio − z₀))), + for desirable answers.

    `ratios` [examples]: log p(answer) minus the base's, in nats; `kl_reference` is z₀; `weights` are λ of desirable and
    undesirable answers. Losses [examples].
    arXiv:2402.01306, equation 8.
    """
    sign, weight = torch.where(desirable, 1.0, -1.0), torch.where(desirable, *weights)
    return weight * (1 - sigmoid(sign * beta * (ratios - kl_reference)))


def _log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 − p)), accurate also for p near 1, where log(1 − p) loses digits."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    small = torch.log(-torch.expm1(log_p.clamp(min=-math.log(2))))
    return log_p - torch.where(log_p > -math.log(2), small, torch.log1p(-torch.exp(log_p)))
