"""Answers while training: in the events, in the report, and without a trace in the weights."""

import pytest

from backpropagate import Trainer
from bp_core.events import Sampled

SETTINGS = dict(
    rank=4, batch_size=4, micro_batch=2, learning_rate=1e-2, max_length=64, dtype="float32", report_to="none"
)  # fmt: skip


@pytest.mark.parametrize("backend", ["cpu", "null"])
def test_a_run_that_answers_on_the_way_ends_with_the_same_weights(backend, tiny_llama, rows, tmp_path):
    events, made = [], []
    for every in (None, 2):
        settings = SETTINGS | {"backend": backend, "held_out": 0.3, "sample_every": every, "dropout": 0.1}
        trainer = Trainer(str(tiny_llama), output=tmp_path / str(every), **settings)
        made.append(trainer.train(rows, steps=4, watch=events.append))
        trainer.close()
    found = [event for event in events if isinstance(event, Sampled)]
    assert [event.step for event in found] == [2] * 3 + [4] * 3 and all(event.question for event in found)
    name = "adapter_model.safetensors" if backend == "cpu" else "null.json"
    weights = [(run.adapter / name).read_bytes() for run in made]
    assert weights[0] == weights[1]
    report = (made[1].folder / "report.md").read_text(encoding="utf-8")
    assert "Answers while training" in report and "Question" in report
    assert "Answers while training" not in (made[0].folder / "report.md").read_text(encoding="utf-8")
