"""The MLX rail against the CPU rail: the same losses, the same curves, one adapter that both write and read."""

import json

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="there is no MLX for this machine")

import tiny_families
import torch
from faults.runs import prepare
from peft import PeftModel
from tiny_models import recipe, save_tiny
from transformers import AutoModelForCausalLM

from backpropagate import Trainer
from bp_core.backends import find
from bp_core.examples import Batch
from bp_core.rail import Job
from bp_core.recipe import Recipe

# Of each family one whose details mlx-lm has to get right: rotary kinds, windows, soft caps, linear attention.
FAMILIES = ["llama31", "qwen3.5"]
OTHERS = ["phi4-mini", "llama-biases", "smollm3", "mistral-small", "qwen2.5", "qwen3", "gemma2", "gemma3"]
KINDS = {
    "rslora": dict(rslora=True, rank=8),
    "dora": dict(dora=True),
    "orpo": dict(method="orpo", beta=0.1),
    "simpo": dict(method="simpo", beta=2.0, gamma=1.0),
    "kto": dict(method="kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.2),
    "named layers": dict(target_modules="q_proj,down_proj"),
}
QUICK = ("dora", "orpo", "kto")  # the others take their time in the slow tier


def each(names, quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def batch(lengths=(18, 24, 7, 12), seed=0, words=300):
    random, total = np.random.default_rng(seed), sum(lengths)
    trained, starts = random.random(total) < 0.6, np.cumsum([0, *lengths[:-1]])
    trained[starts], trained[starts + 1] = False, True
    tokens = random.integers(3, words, total).astype(np.int32)
    return Batch(tokens, trained, np.array(lengths, np.int32), np.arange(len(lengths)) % 2 == 0, 0.3)


def opened(name, folder, adapter=None, **changes):
    rail = find(name)
    rail.open(Job(folder, adapter=adapter, recipe=recipe(backend=name, **changes), dtype="float32"))
    return rail


def both(folder, place, **changes):
    """Both rails with the adapter that the CPU rail starts with."""
    cpu = opened("cpu", folder, **changes)
    return cpu, opened("mlx", folder, adapter=written(cpu, place), **changes)


def written(rail, place):
    place.mkdir(parents=True)
    rail.write_adapter(place)
    return place


def go(rail, seeds, words=300):
    losses = []
    for seed in seeds:
        losses.append(rail.accumulate(batch(seed=seed, words=words), 0.05))
        rail.update(5e-3)
    return losses


def close(mine, theirs):
    assert mine[0] == pytest.approx(theirs[0], rel=1e-4)
    np.testing.assert_allclose(mine, theirs, rtol=1e-3)
    assert len(set(mine)) == len(mine)


@pytest.mark.parametrize("family", each([*FAMILIES, *OTHERS], FAMILIES))
def test_each_family_has_the_cpu_rails_curve_logits_and_names(family, tmp_path):
    folder = tiny_families.save(family, tmp_path / family)
    cpu, mlx = both(folder, tmp_path / "start", max_length=24)
    close(go(mlx, range(3), 1000), go(cpu, range(3), 1000))
    words = batch(words=1000).tokens[:24]
    np.testing.assert_allclose(mlx.logits(words), cpu.logits(words), atol=2e-3)
    np.testing.assert_allclose(mlx.logits(words, adapter=False), cpu.logits(words, adapter=False), atol=2e-4)
    reader = find("cpu")
    reader.open(Job(folder, adapter=written(mlx, tmp_path / "mlx"), dtype="float32"))
    np.testing.assert_allclose(reader.logits(words), mlx.logits(words), atol=2e-4)


@pytest.mark.parametrize("kind", each(KINDS, QUICK))
def test_each_kind_of_adapter_and_method_has_the_cpu_rails_curve(kind, tiny, tmp_path):
    cpu, mlx = both(tiny, tmp_path / "start", **KINDS[kind])
    close(go(mlx, range(10)), go(cpu, range(10)))
    assert mlx.kl_reference(batch()) == pytest.approx(cpu.kl_reference(batch()), rel=1e-3)
    mine, theirs = mlx.evaluate(batch()), cpu.evaluate(batch())
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-3) and mine[1:] == theirs[1:]


@pytest.mark.slow
def test_the_whole_way_has_the_cpu_rails_curve_on_the_same_examples(home, tmp_path):
    """Of all weights, for those start alike: data, order, schedule, clipping and steps through the two doors."""
    runs, (model, rows) = {}, prepare(tmp_path)
    for name in ("cpu", "mlx"):
        settings = dict(mode="full", learning_rate=1e-3, max_length=64, batch_size=4, dtype="float32", packing=True)
        trainer = Trainer(str(model), output=str(tmp_path / name), backend=name, report_to="none", **settings)
        runs[name] = trainer.train(rows, steps=10, watch=lambda event: None)
        trainer.close()
    close(runs["mlx"].losses, runs["cpu"].losses)
    assert (runs["mlx"].tokens, runs["mlx"].targets) == (runs["cpu"].tokens, runs["cpu"].targets)
    base = AutoModelForCausalLM.from_pretrained(runs["mlx"].adapter, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(runs["cpu"].adapter, dtype=torch.float32)
    with torch.no_grad():
        mine, other = (model(torch.tensor([[3, 500, 1200, 77]])).logits for model in (base, theirs))
    np.testing.assert_allclose(mine, other, atol=2e-3)


@pytest.mark.parametrize("kind", each(["rslora", "dora"], QUICK))
def test_an_adapter_goes_from_rail_to_rail_and_back(kind, tiny, tmp_path):
    """Trained on the CPU, trained on with MLX, and back: each time as if the other had gone on."""
    at = written(go_on("cpu", tiny, None, [0, 1], kind), tmp_path / "0")
    for number, (first, second) in enumerate([("mlx", "cpu"), ("cpu", "mlx")], 1):
        mine, other = go_on(first, tiny, at, [2, 3], kind), go_on(second, tiny, at, [2, 3], kind)
        np.testing.assert_allclose(mine.logits([5, 17, 200]), other.logits([5, 17, 200]), atol=1e-3)
        assert np.abs(mine.logits([5, 17, 200]) - mine.logits([5, 17, 200], adapter=False)).max() > 1e-2
        at = written(mine, tmp_path / str(number))


def go_on(name, folder, adapter, seeds, kind):
    rail = opened(name, folder, adapter=adapter, **KINDS[kind])
    go(rail, seeds)
    return rail


def test_peft_loads_what_mlx_wrote(tiny, tmp_path):
    rail = opened("mlx", tiny, dora=True, rank=8)
    go(rail, range(3))
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    read = PeftModel.from_pretrained(model, written(rail, tmp_path / "lora"))
    with torch.no_grad():
        logits = read(torch.tensor([[5, 17, 200, 31]])).logits[0].numpy()
    np.testing.assert_allclose(logits, rail.logits([5, 17, 200, 31]), atol=5e-5)
    assert read.peft_config["default"].base_model_name_or_path == str(tiny)


@pytest.mark.slow
def test_training_by_name_says_which_build_and_exports_unchanged(tiny_llama, rows, tmp_path):
    trainer = Trainer(str(tiny_llama), output=str(tmp_path), backend="mlx", learning_rate=1e-2, report_to="none")
    run = trainer.train(rows, steps=3, watch=lambda event: None)
    record = json.loads((run.folder / "run.json").read_text())
    assert "CPU build of MLX" in record["opened"]["device"] and Recipe(**record["recipe"]).backend == "mlx"
    trainer.close()
    done = trainer.export("gguf", quantization="q8_0", notify=lambda progress: None)
    assert done.parity.proven and done.parity.losses["merged"] == pytest.approx(done.parity.losses["adapter"], abs=1e-3)
