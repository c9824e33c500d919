"""Drawing the next token by chance: temperature and nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bp_core.rail import Pick


def sampler(temperature: float, top_p: float, seed: int | None) -> Pick:
    """What draws each token; None for temperature 0, where it is the likeliest. The same seed draws the same."""
    if temperature == 0:
        return None
    generator = np.random.default_rng(seed)

    def pick(logits: Any) -> int:
        return _draw(np.asarray(logits, dtype=np.float64) / temperature, top_p, generator)

    return pick


def _draw(logits: Any, top_p: float, generator: np.random.Generator) -> int:
    """A token id out of the fewest likeliest ones whose probabilities reach `top_p`. logits: float64 [vocabulary]."""
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits[order] - logits[order[0]])
    total = np.cumsum(weights / weights.sum())
    count = int(np.searchsorted(total, top_p)) + 1
    reach = total[: min(count, len(total))]
    place = int(np.searchsorted(reach, generator.random() * reach[-1], side="right"))
    return int(order[min(place, len(reach) - 1)])
