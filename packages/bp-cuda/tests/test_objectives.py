"""The losses at their edges; that they are TRL's is shown by tests/test_parity.py."""

import math

import numpy as np
import pytest
import torch
from tiny_models import batch, opened

from bp_core.examples import Batch
from bp_core.objectives import Objective
from bp_cuda import objectives


def test_the_odds_are_exact_where_a_probability_is_near_one_or_none():
    found = objectives.log_odds(torch.tensor([-1e-5, -0.5, -40.0], dtype=torch.float32))
    exact = [p - math.log(-math.expm1(p)) for p in (-1e-5, -0.5, -40.0)]
    assert np.allclose(found.numpy(), exact, rtol=1e-5)
    sure = torch.zeros(1, requires_grad=True)
    Objective(objectives.FUNCTIONS, "orpo", 0.1).orpo(sure, torch.tensor([-1.0])).sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_a_good_answer_pulls_up_and_a_bad_one_down():
    ratios, verdicts = torch.zeros(2, requires_grad=True), torch.tensor([True, False])
    Objective(objectives.FUNCTIONS, "kto", 0.1, weights=(1.0, 2.0)).kto(ratios, verdicts, 0.0).sum().backward()
    assert ratios.grad.tolist() == pytest.approx([-0.025, 0.05])


def test_a_rated_answer_is_right_when_the_adapter_moved_it_where_it_belongs(tiny):
    """Each one alone, by its drift; an adapter that changes nothing is right about none."""
    rail, lengths = opened(tiny, method="kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0), (9, 14, 5, 7)
    b, verdicts = batch(lengths), np.array([True, True, False, False])
    rated = Batch(b.tokens, b.trained, b.lengths, verdicts)
    assert rail.evaluate(rated).right == 0
    for seed, parameter in enumerate(rail.parameters.values()):
        torch.manual_seed(seed)
        parameter.data += 0.1 * torch.randn_like(parameter)
    ends = np.cumsum(lengths)
    rows = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    moved = [rail.kl_reference(Batch(b.tokens[r], b.trained[r], [r.stop - r.start])) for r in rows]
    right = sum((kl_reference > 0) == good for kl_reference, good in zip(moved, verdicts, strict=True))
    found = rail.evaluate(rated)
    assert (found.over, found.right) == (4, right) and 0 < right < 4
