"""The learning rate: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017, SGDR, eq. 5)."""

from __future__ import annotations

import math

from bp_core.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of the update after `step` finished ones; never zero.

    It depends on the recipe alone, so a run extended to more steps continues on the longer schedule: the rate jumps up
    from near zero, to half the peak where the steps are doubled.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / (recipe.warmup_steps + 1)
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
