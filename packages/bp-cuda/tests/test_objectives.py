"""The losses at their edges; that they are TRL's is shown by tests/test_parity.py."""

import math

import numpy as np
import pytest
import torch

from bp_cuda import objectives


def test_the_odds_are_exact_where_a_probability_is_near_one_or_none():
    found = objectives._log_odds(torch.tensor([-1e-5, -0.5, -40.0], dtype=torch.float32))
    exact = [p - math.log(-math.expm1(p)) for p in (-1e-5, -0.5, -40.0)]
    assert np.allclose(found.numpy(), exact, rtol=1e-5)
    sure = torch.zeros(1, requires_grad=True)
    objectives.orpo(sure, torch.tensor([-1.0]), 0.1).sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_a_good_answer_pulls_up_and_a_bad_one_down():
    ratios = torch.zeros(2, requires_grad=True)
    objectives.kto(ratios, torch.tensor([True, False]), 0.0, 0.1, (1.0, 2.0)).sum().backward()
    assert ratios.grad.tolist() == pytest.approx([-0.025, 0.05])
