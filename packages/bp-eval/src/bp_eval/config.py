"""Settings of `eval`, of `compare`, and of lm-evaluation-harness."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from bp_core.choices import DType
from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_core.settings import Clash, Range, check

from .gates import METRICS, OF_ANSWERS, OF_THOUGHTS, OF_TOOLS, gates_in

LONGEST_ANSWER = 512
_Backend = Annotated[str, "Where to compute: auto, or the name of an installed backend."]
_Format = Annotated[DType, "Number format of the weights. auto: bfloat16 where it is fast."]
_Base = Annotated[
    str | None, "Open the adapter on this model, where its own base cannot be found. Default: the base it names."
]


@dataclass(frozen=True)
class EvalConfig:
    """Settings of an evaluation."""

    against: Annotated[
        str | None, "Another model on the same rows: base, or a run, folder or model name. Default: none."
    ] = None
    gate: Annotated[
        str,
        "Conditions that must hold, else the exit code is 2: 'loss<2.5,f1>=0.3'. With --against also on the "
        "difference: 'loss_change<0'. Metrics: " + ", ".join(METRICS) + ".",
    ] = ""
    regex: Annotated[str | None, "A regular expression to look for in each answer. Default: none."] = None
    answers: Annotated[
        int,
        "Write answers to so many of the rows, spread over the data; 0 for the loss alone. Of rows with tools "
        "their call is asked, too.",
        Range(0),
    ] = 16
    max_tokens: Annotated[
        int | None,
        f"Longest answer, in tokens. Default: twice the longest in the data, at most {LONGEST_ANSWER}.",
        Range(1),
    ] = None
    samples: Annotated[int | None, "Use only the first so many rows of the data. Default: all.", Range(1)] = None
    base: _Base = None
    backend: _Backend = TrainConfig.backend
    dtype: _Format = TrainConfig.dtype

    def __post_init__(self) -> None:
        check(self, _EVAL_CLASHES)
        gates = gates_in(self.gate)
        problems = []
        if self.against is None and any(gate.change for gate in gates):
            problems.append("a gate is on a difference, but there is nothing to compare with: give --against")
        if self.regex is None and any(gate.metric == "regex" for gate in gates):
            problems.append("a gate is on regex, but there is no pattern: give --regex")
        if not self.answers and any(gate.metric in OF_ANSWERS + OF_TOOLS + OF_THOUGHTS for gate in gates):
            problems.append("a gate is on answers, but answers is 0")
        if problems:
            raise BadValue("; ".join(problems) + ".")


@dataclass(frozen=True)
class CompareConfig:
    """Settings of a side-by-side comparison of answers."""

    file: Annotated[str | None, "A .gguf file, whose answers are shown too. Default: none."] = None
    output: Annotated[str | None, "Write the page here, as .md and .html. Default: only to the screen."] = None
    answers: Annotated[int, "How many rows of the data to ask, spread over it.", Range(1)] = 4
    max_tokens: Annotated[int, "Longest answer, in tokens.", Range(1)] = 128
    base: _Base = None
    backend: _Backend = TrainConfig.backend
    dtype: _Format = TrainConfig.dtype

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class HarnessConfig:
    """Settings of tasks of lm-evaluation-harness."""

    samples: Annotated[int | None, "Use only the first so many rows of each task. Default: all.", Range(1)] = None
    shots: Annotated[int | None, "Solved examples before each question. Default: what the task says.", Range(0)] = None
    chat: Annotated[bool, "Ask in the model's chat template, as a user would; tasks are made for plain text."] = False
    base: _Base = None
    backend: _Backend = TrainConfig.backend
    dtype: _Format = TrainConfig.dtype

    def __post_init__(self) -> None:
        check(self)


_EVAL_CLASHES: list[Clash] = [
    *(
        Clash(
            (name, "answers"),
            lambda value, answers: value is not None and not answers,
            f"{name} is about answers, but answers is 0",
        )
        for name in ("regex", "max_tokens")
    ),
    Clash(("regex",), lambda pattern: pattern is not None and not _compiles(pattern), "regex is no regular expression"),
]


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
