"""What is minimised: the losses of the methods, as functions of log-probabilities, for the arrays of every rail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .choices import Method
from .recipe import Recipe

Array = Any  # of the rail's framework
Losses = tuple[Array, Array]  # each with the margin by which the better answer is preferred, where there is one


@dataclass(frozen=True)
class Functions:
    """What the losses need of a framework, number by number. log_odds: log p → log(p / (1 − p)), exact at both ends."""

    log_sigmoid: Callable[[Array], Array]
    sigmoid: Callable[[Array], Array]
    where: Callable[[Array, Array, Array], Array]
    log_odds: Callable[[Array], Array]


@dataclass(frozen=True)
class Scores:
    """Of each example the summed log-probability of its trained tokens, and their number; float32 [examples]."""

    sums: Array
    counts: Array

    @property
    def means(self) -> Array:
        """Mean log-probability of a trained token, float32 [examples]."""
        return self.sums / self.counts


@dataclass(frozen=True)
class Objective:
    """A method with its constants, in the arrays of one framework."""

    functions: Functions
    method: Method = "sft"
    beta: float = 0.0
    gamma: float = 0.0
    weights: tuple[float, float] = (1.0, 1.0)  # of desirable and undesirable answers

    @classmethod
    def of(cls, recipe: Recipe | None, functions: Functions) -> Objective:
        """What a recipe minimises; for reading without one, the loss of the tokens."""
        if recipe is None:
            return cls(functions)
        weights = (recipe.desirable_weight, recipe.undesirable_weight)
        return cls(functions, recipe.method, recipe.beta, recipe.gamma, weights)

    @property
    def needs_base(self) -> bool:
        return self.method == "kto"

    def of_pairs(self, scores: Scores) -> Losses:
        """Losses and margins [pairs] of scores [2 × pairs], in which chosen and rejected answers alternate."""
        chosen, rejected = scores.means[0::2], scores.means[1::2]
        losses = self.orpo(chosen, rejected) if self.method == "orpo" else self.simpo(chosen, rejected)
        return losses, chosen - rejected

    def of_rated(self, scores: Scores, base: Scores, desirable: Array, kl_reference: float) -> Losses:
        """Losses and margins [examples] of rated ones. desirable: bool [examples]; kl_reference: KTO's z₀, in nats."""
        ratios = scores.sums - base.sums
        return self.kto(ratios, desirable, kl_reference), self.functions.where(desirable, ratios, -ratios)

    def orpo(self, chosen: Array, rejected: Array) -> Array:
        """Odds ratio preference optimisation: the chosen answer's loss, and β × −log σ(log of the odds ratio).

        Mean log-probabilities per token [pairs] → losses [pairs]. arXiv:2403.07691, equations 3 to 7; β is their λ.
        """
        log_odds = self.functions.log_odds
        return -chosen - self.beta * self.functions.log_sigmoid(log_odds(chosen) - log_odds(rejected))

    def simpo(self, chosen: Array, rejected: Array) -> Array:
        """Simple preference optimisation: −log σ(β × difference of the mean log-probabilities − γ).

        Mean log-probabilities per token [pairs] → losses [pairs]. arXiv:2405.14734, equation 6.
        """
        return -self.functions.log_sigmoid(self.beta * (chosen - rejected) - self.gamma)

    def kto(self, ratios: Array, desirable: Array, kl_reference: float) -> Array:
        """Kahneman–Tversky optimisation: λ (1 − σ(±β (log ratio − z₀))), + for desirable answers.

        `ratios`: log p(answer) less the base's [examples]; `kl_reference` is z₀ in nats; `weights` are λ of desirable
        and undesirable answers. arXiv:2402.01306, equation 8.
        """
        where = self.functions.where
        sign, weight = where(desirable, 1.0, -1.0), where(desirable, *self.weights)
        return weight * (1 - self.functions.sigmoid(sign * self.beta * (ratios - kl_reference)))
