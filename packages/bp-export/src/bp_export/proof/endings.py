"""Whether answers end, and whether the thoughts in them do: some training prompts, answered by the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bp_core.events import Notify
from bp_core.thought_marks import CLOSE, OPEN

from ..llama_cpp.engine import Engine, GeneratedTokens
from ..parity import Check
from ..progress import tracked
from ..replies import share

if TYPE_CHECKING:
    from .trained_model import Reference

GENERATIONS, GENERATED = 3, 128  # answers, and tokens of each
_NAME = "answers end"


def check_endings(
    file: Path,
    asked: Sequence[Sequence[int]],
    opened: Sequence[bool],
    stop: Sequence[int],
    reference: Reference | None,
    notify: Notify | None,
) -> list[Check]:
    """Answers to prompts of token ids. `opened`: which of them begin a thought; `stop`: the ids that end an answer.

    No answer that ends is a failure only where those of the trained model, the `reference`, do.
    """
    with Engine(file, context=max(map(len, asked)) + GENERATED, gpu=False) as engine:
        made = [engine.generate(prompt, GENERATED) for prompt in tracked(asked, "generate", notify)]
    ended = sum(answer.stopped for answer in made)
    note = f"of {len(asked)} answers within {GENERATED} tokens"
    thoughts = _thoughts(opened, made)
    if ended:
        return [*thoughts, Check(_NAME, ended, 1, passed=True, note=note)]
    theirs = [reference.generate(prompt, limit=GENERATED, stop=stop) for prompt in asked] if reference else []
    ends = sum(bool(tokens) and tokens[-1] in stop for tokens in theirs)
    note = f"{note}; {ends} do in the trained model"
    if ends * 2 >= len(asked):
        return [*thoughts, Check(_NAME, 0, 1, passed=False, note=note)]
    return [*thoughts, Check(_NAME, 0, 1, passed=True, warning=True, note=f"{note}: it never learned to stop")]


def _thoughts(opened: Sequence[bool], made: Sequence[GeneratedTokens]) -> list[Check]:
    """How many answers close their thought, among those that begin one; no check where none does."""
    closed = [
        CLOSE in answer.text
        for begun, answer in zip(opened, made, strict=True)
        if begun or answer.text.lstrip().startswith(OPEN)
    ]
    return [share("thoughts close", closed)] if closed else []
