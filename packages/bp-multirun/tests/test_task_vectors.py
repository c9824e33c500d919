"""linear, TIES and DARE, against PEFT's own where it computes the same, and against what their papers say."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from random_factors import factors, stages

from bp_core.errors import BadValue, MergeRefused
from bp_multirun import Pair, merge
from bp_multirun.task_vectors import trimmed, truncated

SHAPES = {"first": (40, 30), "second": (12, 40)}
RANK, ALPHA, COUNT = 4, 6, 3
SCALINGS = dict.fromkeys(SHAPES, ALPHA / RANK)
ONE = {"x": (30, 20)}


def change(pair, scaling=1.0):
    return scaling * pair.b.astype(np.float64) @ pair.a


def cut(matrix, rank):
    u, s, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def adapters(count=COUNT):
    return stages(0, count, shapes=SHAPES, rank=RANK)


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(30, 40), torch.nn.Linear(40, 12)


def peft_merge(kind, weights, **options):
    """What PEFT makes of the same adapters: ΔW by layer."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(SHAPES))
    model = get_peft_model(Layers(), config, adapter_name="0")
    for number, held in enumerate(adapters()):
        if number:
            model.add_adapter(str(number), config)
        tensors = {
            f"base_model.model.{name}.lora_{factor}.weight": torch.from_numpy(array)
            for name, pair in held.items()
            for factor, array in (("A", pair.a), ("B", pair.b))
        }
        assert not set_peft_model_state_dict(model, tensors, adapter_name=str(number)).unexpected_keys
    names = [str(number) for number in range(COUNT)]
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind, svd_rank=RANK, **options)
    return {name: getattr(model.base_model.model, name).get_delta_weight("merged").detach().numpy() for name in SHAPES}


@pytest.mark.parametrize(
    ("rule", "density", "kind", "weight", "options"),
    [
        ("linear", 0.5, "svd", 1 / COUNT, {}),
        ("ties", 0.5, "ties_svd", 1, dict(density=0.5, majority_sign_method="total")),
        ("ties", 0.2, "ties_svd", 1, dict(density=0.2, majority_sign_method="total")),
    ],
)
def test_peft_merges_to_the_same(rule, density, kind, weight, options):
    ours = merge(rule, adapters(), SCALINGS, density=density)
    for name, expected in peft_merge(kind, [weight] * COUNT, **options).items():
        found = change(ours[name], SCALINGS[name])
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def test_the_mean_is_the_nearest_of_its_rank():
    held = adapters(5)
    for name, pair in merge("linear", held, SCALINGS).items():
        expected = cut(np.mean([change(adapter[name]) for adapter in held], axis=0), RANK)
        assert np.linalg.norm(change(pair) - expected) < 1e-6 * np.linalg.norm(expected)
        assert (pair.a.dtype, pair.a.shape, pair.b.shape) == (np.float32, held[0][name].a.shape, held[0][name].b.shape)
        np.testing.assert_allclose(np.linalg.norm(pair.a, axis=1), np.linalg.norm(pair.b, axis=0), rtol=1e-5)


@pytest.mark.parametrize("rule", ["linear", "ties", "dare"])
def test_one_adapter_alone_stays_what_it_is(rule):
    (held,) = adapters(1)
    for name, pair in merge(rule, [held, held], SCALINGS, density=1).items():
        np.testing.assert_allclose(change(pair), change(held[name]), atol=1e-5)


@pytest.mark.parametrize("rule", ["linear", "ties", "dare"])
def test_the_scaling_is_divided_out(rule):
    one, other = (merge(rule, adapters(), dict.fromkeys(SHAPES, scaling)) for scaling in (1.0, 4.0))
    for name in SHAPES:
        np.testing.assert_allclose(change(one[name]), change(other[name]), atol=1e-5)


def test_ties_as_the_paper_writes_it():
    rng = np.random.default_rng(0)
    held = [factors(rng, ONE, rank=20) for _ in range(4)]  # of full rank: nothing is cut
    kept = []
    for adapter in held:
        full = change(adapter["x"])
        order = np.argsort(-np.abs(full), axis=None)
        kept.append(np.where(np.isin(np.arange(full.size), order[: full.size // 5]).reshape(full.shape), full, 0))
    sign = np.where(np.sum(kept, axis=0) >= 0, 1, -1)
    agreeing = np.stack([np.where(np.sign(value) == sign, value, 0) for value in kept])
    expected = agreeing.sum(0) / np.maximum((agreeing != 0).sum(0), 1)
    found = merge("ties", held, {"x": 1.0}, density=0.2)["x"]
    np.testing.assert_allclose(change(found), expected, atol=2e-5)


def test_trimming_keeps_the_largest():
    values = np.array([[3.0, -5, 1], [0, 2, -4]])
    np.testing.assert_array_equal(trimmed(values, 0.5), [[3, -5, 0], [0, 0, -4]])
    np.testing.assert_array_equal(trimmed(values, 0.1), values * 0)
    np.testing.assert_array_equal(trimmed(values, 1), values)


class Mask:
    """A generator whose draws are known."""

    def __init__(self, masks):
        self.masks = iter(masks)

    def random(self, shape, dtype):
        return np.where(next(self.masks), 0, 1).astype(dtype)


def test_dare_drops_and_enlarges(monkeypatch):
    rng = np.random.default_rng(0)
    held = [factors(rng, ONE, rank=20) for _ in range(3)]
    masks = [rng.random((30, 20)) < 0.3 for _ in held]
    expected = np.mean([mask * change(one["x"]) / 0.3 for mask, one in zip(masks, held, strict=True)], axis=0)
    monkeypatch.setattr("bp_multirun.task_vectors._generator", lambda seed, name: Mask(masks))
    found = merge("dare", held, {"x": 2.0}, density=0.3)["x"]
    np.testing.assert_allclose(change(found), expected, atol=5e-5)


def test_dare_is_right_on_average():
    held = [factors(np.random.default_rng(seed), ONE, rank=20) for seed in (1, 2)]
    count = 400
    drawn = np.stack([change(merge("dare", held, {"x": 1.0}, seed=seed)["x"]) for seed in range(count)])
    expected = np.mean([change(one["x"]) for one in held], axis=0)
    error = drawn.std(0) / np.sqrt(count)
    assert np.abs((drawn.mean(0) - expected) / error).max() < 5 and drawn.std(0).min() > 0.001


def test_dare_is_the_same_for_one_seed_whatever_else_is_merged():
    held = adapters()
    first, again, other = (merge("dare", held, SCALINGS, seed=seed) for seed in (1, 1, 2))
    alone = merge("dare", [{"second": adapter["second"]} for adapter in held], SCALINGS, seed=1)
    np.testing.assert_array_equal(first["first"].a, again["first"].a)
    np.testing.assert_array_equal(first["second"].b, alone["second"].b)
    assert not np.array_equal(first["first"].a, other["first"].a)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_large_matrices_are_cut_nearly_as_well_as_by_the_whole_decomposition(noise):
    rng = np.random.default_rng(0)
    pair = factors(rng, {"x": (700, 500)}, rank=8)["x"]
    matrix = pair.b @ pair.a + noise * 8 * rng.standard_normal((700, 500), np.float32)
    u, s, vt = truncated(matrix, 8, np.random.default_rng(1))
    best = np.linalg.norm(matrix - cut(matrix, 8))
    found = np.linalg.norm(matrix.astype(np.float64) - u * s @ vt)
    assert found <= best * 1.001 + 1e-5 * np.linalg.norm(matrix)


def test_a_layer_with_fewer_outputs_than_its_rank():
    held = [factors(np.random.default_rng(seed), {"x": (2, 9)}, rank=4) for seed in range(3)]
    for rule in ("linear", "ties"):
        pair = merge(rule, held, {"x": 1.0}, density=1)["x"]
        assert pair.a.shape == (4, 9) and pair.b.shape == (2, 4)
    expected = np.mean([change(one["x"]) for one in held], axis=0)
    np.testing.assert_allclose(change(merge("linear", held, {"x": 1.0})["x"]), expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["linear", "ties", "dare"])
def test_nothing_that_was_given_changes(rule):
    held, untouched = adapters(), adapters()
    drawn = str(np.random.get_state())
    merge(rule, held, SCALINGS)
    assert str(np.random.get_state()) == drawn
    for one, other in zip(held, untouched, strict=True):
        for name in SHAPES:
            np.testing.assert_array_equal(one[name].a, other[name].a)
            np.testing.assert_array_equal(one[name].b, other[name].b)


def test_what_does_not_fit_is_refused():
    held = adapters()
    with pytest.raises(MergeRefused, match="second"):
        merge("linear", [held[0], {"first": held[1]["first"]}], SCALINGS)
    with pytest.raises(MergeRefused, match="no finite numbers"):
        bad = Pair(held[0]["first"].a * np.nan, held[0]["first"].b)
        merge("linear", [held[0], held[1] | {"first": bad}], SCALINGS)
    for rule, density, given in [("mean", 0.5, held), ("ties", 0, held), ("dare", 1.5, held), ("linear", 0.5, [])]:
        with pytest.raises(BadValue):
            merge(rule, given, SCALINGS, density=density)
