"""Settings of a multi-run session: many stages whose adapters are merged into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from bp_core.settings import Panel, Range, Trait, check, only_where

Merge = Literal["slao", "sequential", "linear", "ties", "dare"]
Schedule = Literal["inverse-sqrt", "inverse", "constant"]
InitA = Literal["qr", "keep"]
InitB = Literal["finetuned", "merged"]

TASK_VECTORS: tuple[Merge, ...] = ("linear", "ties", "dare")  # stages are trained separately, then merged together
HELD_OUT, MOST_HELD_OUT = 0.1, 64  # share of a stage's conversations, and most rows


@dataclass(frozen=True)
class MultiRunConfig:
    """Settings of a session, besides those for training each stage."""

    runs: Annotated[
        int | None,
        "Cut the one data set into so many stages, drawn at random. Default: each data set is one stage, in order.",
        Range(2),
        Panel.STAGES,
        Trait.FREE,
    ] = None
    merge: Annotated[
        Merge,
        "slao: each stage goes on from the one before, and is mixed into what there is. sequential: goes on, without "
        "mixing. For comparison, from adapters that each began anew: linear, ties, dare.",
    ] = "slao"
    init_a: Annotated[
        InitA, "With slao: the next stage begins with the last A, its rows made orthonormal (qr), or as it is (keep)."
    ] = "qr"
    init_b: Annotated[InitB, "With slao: the next stage begins with the B last trained, or with the merged one."] = (
        "finetuned"
    )
    schedule: Annotated[
        Schedule,
        "With slao: the weight of the i-th stage when it is mixed in: 1/√i, 1/i (forgets less, learns less), or "
        "--weight.",
    ] = "inverse-sqrt"
    weight: Annotated[float, "With --schedule constant: the weight of each stage.", Range(1e-6, 1)] = 0.5
    density: Annotated[float, "With ties and dare: the share of each stage's changes that is kept.", Range(1e-6, 1)] = (
        0.5
    )
    replay: Annotated[
        float,
        "Rows of earlier stages to learn again with each stage: so many for each row of its own. 0: none.",
        Range(0, 10),
        Trait.FREE,
    ] = 0.0
    rate_decay: Annotated[
        float, "The learning rate of a stage, as a multiple of that of the one before.", Range(1e-6, 1), Trait.FREE
    ] = 1.0
    gate: Annotated[
        float | None,
        "Keep the earlier adapter when a stage would raise the mean loss of earlier stages by more than this, in nats "
        "a token. Default: every stage is merged.",
        Range(0),
        Trait.FREE,
    ] = None

    def __post_init__(self) -> None:
        check(self, _CLASHES)


_CLASHES = [
    *only_where("merge", ("slao",), "{} is a setting of merge slao", "init_a", "init_b", "schedule"),
    *only_where("schedule", ("constant",), "{} is set, but schedule is not constant", "weight"),
    *only_where("merge", ("ties", "dare"), "{} is a setting of merge ties and dare", "density"),
]
