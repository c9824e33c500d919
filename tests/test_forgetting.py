"""Merging forgets less than training on, on a real model through real folders; see forgetting.py for the experiment."""

import forgetting
import numpy as np

SEEDS = range(3)


def test_merging_forgets_less_than_training_on_and_still_learns(tmp_path):
    found = []
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        found.append(forgetting.experiment(seed, tmp_path / str(seed)))
    sequential, slao = ([outcomes[method] for outcomes in found] for method in ("sequential", "slao"))
    lost = [np.mean([outcome.forgetting for outcome in outcomes]) for outcomes in (sequential, slao)]
    assert lost[0] > 0.1  # there is something to forget
    assert lost[1] < 0.9 * lost[0]
    for outcomes in (sequential, slao):
        newest = np.mean([outcome.scores[-1, -1] for outcome in outcomes])
        assert newest < 0.8 * np.mean([outcome.before[-1] for outcome in outcomes])  # it still learns
    assert max(outcome.artifact for outcome in sequential + slao) == 0  # what is written is what was measured
