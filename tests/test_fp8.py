"""A run with float8 products, rounded on the CPU as a card rounds them: trained, exported on the 16-bit base."""

import pytest

from backpropagate import Trainer
from bp_core.folders import damage

pytest.importorskip("torchao", reason="needs the group `fp8`")
SETTINGS = dict(backend="cpu", rank=8, batch_size=4, learning_rate=1e-2, max_length=64, dtype="float32", fp8=True)


def silent(event):
    return None


def test_what_is_trained_exports_and_is_proven_on_the_16_bit_base(tiny_llama, rows, tmp_path, monkeypatch):
    rails = pytest.importorskip("bp_cuda.rail")
    monkeypatch.setattr(rails.TorchRail, "emulates_float8", True)
    trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), **SETTINGS)
    plan = trainer.plan(rows)
    assert plan.recipe.fp8 and plan.preflight.memory is None  # the formula does not know the casts
    run = trainer.train(rows, steps=8, watch=silent)
    trainer.close()
    assert run.losses[-1] < run.losses[0] and damage(run.adapter) is None
    done = Trainer(str(tiny_llama), output=str(tmp_path / "out"), backend="cpu").export(
        "gguf", quantization="q8_0", notify=silent
    )
    assert done.parity is not None and done.parity.proven
