"""The trained model in float32 on the host: what an export is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bp_core.backends import choose_rail, find, rails
from bp_core.errors import ModelUnusable
from bp_core.examples import Batch, Sample
from bp_core.rail import Job, Rail
from bp_export.proof import samples as rows
from bp_export.weights.mlx import is_quantized

from ..models import locate
from ..models.compatibility import parameters

_BYTES = 4  # a parameter, in float32
_SHARE = 0.8  # of the free memory that may be used


class WholeModel:
    """A model that was trained whole, and the one it was before, if that is there and fits too."""

    def __init__(self, after: Rail, before: Rail | None) -> None:
        self._after, self._before = after, before

    def logits(self, tokens: Sequence[int], *, adapter: bool = True) -> Any:
        if adapter:
            return self._after.logits(tokens)
        return self._before.logits(tokens) if self._before else None

    def input_squares(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        return self._after.input_squares(rows)

    def generate(self, prompt: Sequence[int], *, limit: int, stop: Sequence[int]) -> list[int]:
        return self._after.generate(prompt, limit=limit, stop=stop)


def reference(job: Job, before: Path | None, stack: ExitStack) -> Rail | WholeModel | None:
    """What `job` opens, until `stack` ends; None where no rail is installed or it does not fit.

    `before` is the base of a model that was trained whole.
    """
    after = _opened(job, stack)
    if after is None or job.adapter:
        return after
    return WholeModel(after, _opened(Job(before, dtype=job.dtype), stack) if before else None)


def loss_on_quantized(job: Job, samples: Sequence[Sample], backend: str) -> dict[str, float]:
    """Nats per trained token, on the rows of the proof, of an adapter on its quantised base, by what that is kept in.

    `backend` is the rail that trained it, for each has a quantisation of its own. Raises PackageMissing.
    """
    _, rail, _ = choose_rail(backend)
    kind = rail.open(job).dtype
    try:
        sums = [rail.evaluate(Batch(row.tokens, row.trained, [len(row.tokens)])) for row in rows.choose(samples)]
    finally:
        rail.close()
    nats = sum(part.loss for part in sums)
    tokens = sum(part.over for part in sums)
    return {kind: nats / max(1, tokens)}


def _opened(job: Job, stack: ExitStack) -> Rail | None:
    name = "mlx" if is_quantized(locate.description(job.model)) else "cpu"  # PyTorch does not read MLX's 4 bits
    if name not in rails():
        return None
    rail = find(name)
    if not rail.probe().available or _BYTES * parameters(job.model) > _SHARE * rail.probe().free:
        return None
    try:
        rail.open(job)
    except ModelUnusable:  # such as a kind of model that only llama.cpp opens as text: its weights are compared
        return None
    stack.callback(rail.close)
    return rail
