"""Many different adapters for measuring the proof: one training run each, kept at several of its steps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backpropagate import Trainer
from bp_core.backends import choose_rail
from bp_core.contract import CONTRACT_FILE
from bp_core.examples import Sample
from bp_core.folders import write_json
from bp_core.rail import Job
from bp_data import Batches, ChatTokenizer, prepare
from bp_resilience import learning_rate


@dataclass(frozen=True)
class Training:
    """How one run trains. `keep` are the steps at which its adapter is written."""

    seed: int
    rank: int
    keep: tuple[int, ...]
    backend: str = "cpu"
    mode: str = "lora"
    dora: bool = False
    rate: float | None = None  # learning rate; None takes the computed one


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter folder with its contract, and what is known of it. `loss` is per trained token."""

    folder: Path
    training: Training
    step: int
    loss: float
    samples: Sequence[Sample]


def train(model: Path, data: Path, training: Training, folder: Path) -> Iterator[TrainedAdapter]:
    """Train as `Trainer` would, and give the adapter at each step of `training.keep`."""
    settings = {"rank": training.rank, "seed": training.seed, "mode": training.mode, "dora": training.dora}
    settings |= {"learning_rate": training.rate, "backend": training.backend}
    trainer = Trainer(str(model), report_to="none", output=str(folder / "output"), **settings)
    recipe = trainer.plan(data, steps=max(training.keep)).recipe
    prepared = prepare(data, ChatTokenizer.open(model), max_length=recipe.max_length)
    batches = Batches(prepared.examples, recipe.seed)
    _, rail, _ = choose_rail(training.backend)
    rail.open(Job(model, None, recipe, recipe.dtype))
    try:
        for step in range(max(training.keep)):
            examples = batches.take(recipe.batch_size)
            loss = sum(rail.accumulate(batch, examples.weight) for batch in examples.split(recipe.micro_batch))
            rail.update(learning_rate(recipe, step))
            if step + 1 in training.keep:
                place = folder / f"step-{step + 1:04d}"
                os.makedirs(place)
                rail.write_adapter(place)
                write_json(place / CONTRACT_FILE, prepared.contract.as_dict())
                yield TrainedAdapter(place, training, step + 1, loss, prepared.samples)
    finally:
        rail.close()
