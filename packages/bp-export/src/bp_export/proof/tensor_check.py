"""Compare the weights in a GGUF with the merged weights, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bp_core.events import Notify

from ..gguf.convert import Converter, PlannedTensor
from ..gguf.reader import GgufFile
from ..parity import Check
from ..progress import tracked

# Half a unit in the last place, relative to the value: the largest error of rounding to the type.
ROUNDING = {"F16": 2.0**-11, "BF16": 2.0**-8, "F32": 2.0**-24}
# Largest relative root mean square error of each number format. Normally distributed weights have half of it.
ERRORS = {"F32": 1e-3, "F16": 2e-3, "BF16": 1e-2, "Q8_0": 0.02, "Q6_K": 0.04, "Q5": 0.09, "Q4": 0.2}
_COARSE = 0.5  # any other format
# The same error, measured on normally distributed weights that are not on the format's grid.
NATURAL = {"Q8": 0.0053, "Q6": 0.0177, "Q5": 0.036, "Q4": 0.071}
_ROWS = 256  # rows of a matrix that are measured
_LOST, _TWICE = 0.25, 1.75  # an adapter left out has share 0, one that was added twice has 2
_SIGMAS = 5.0  # a share is judged only if this many of its standard errors are less than `_LOST`
_OFF_GRID = 0.6  # of the natural error; below it, the base was on the format's grid already


def check_rounding(gguf: GgufFile, converter: Converter, notify: Notify | None) -> Check:
    """Each value of a float file is the merged weight, rounded: within half a unit in the last place."""
    worst, name = _worst_tensor(gguf, converter, _largest_error, ROUNDING.__getitem__, notify)
    note = f"the largest error, as a multiple of what rounding may cause, in {name}"
    return Check("f16 tensors", _finite_or_text(worst), 1.0, worst <= 1.0, note=note)


def check_formats(gguf: GgufFile, converter: Converter, notify: Notify | None) -> Check:
    """Each tensor, dequantised, is the merged weight, within the error that its number format may cause."""
    worst, name = _worst_tensor(gguf, converter, _mean_error, _format_limit, notify)
    note = f"the largest error, as a multiple of what its number format may cause, in {name}"
    return Check("weights in the file", _finite_or_text(worst), 1.0, worst <= 1.0, note=note)


def _worst_tensor(
    gguf: GgufFile,
    converter: Converter,
    error: Callable[[np.ndarray, np.ndarray], float],
    limit: Callable[[str], float],
    notify: Notify | None,
) -> tuple[float, str]:
    """The largest error, in units of the limit for the tensor's number format, and the tensor's name."""
    worst = 0.0, "none"
    plan = [planned for planned in converter.plan if planned.name in gguf.tensors]
    for planned in tracked(plan, "compare tensors", notify):
        merged = converter.array(planned).astype(np.float32)
        ratio = error(gguf.array(planned.name), merged) / limit(gguf.tensors[planned.name].type.name)
        worst = max(worst, (ratio, planned.name))
    return worst


def check_adapter(gguf: GgufFile, converter: Converter, notify: Notify | None) -> list[Check]:
    """Each matrix of a quantised file has the adapter once. Returns no check if there is no adapter.

    The adapter's share in a matrix is the change from base to file, projected on the adapter's change. It is 1 plus
    quantisation noise, which is independent of the adapter: its standard error is |noise| / (|change| × √n) over the n
    values compared. Exception: if the base was dequantised from the same format, its weights are on the format's grid,
    and quantising takes back changes smaller than half a step. Such matrices are counted but not judged; the strength
    of the whole model shows what was lost.
    """
    shares = AdapterShares()
    for planned in tracked(converter.plan, "compare adapter", notify):
        shares.add(gguf, converter, planned)
    if not shares.matrices:
        return []
    note = f"{shares.judged} of {shares.matrices} matrices measurable"
    if shares.rounded_back:
        note += f"; in {shares.rounded_back} the base is on this format's grid, so small changes are rounded away"
    if shares.wrong:
        note = f"not as trained: {', '.join(shares.wrong[:3])}; {note}"
    measured = shares.extremes or "not measurable"
    return [Check("adapter in each matrix", measured, [_LOST, _TWICE], not shares.wrong, note=note)]


@dataclass
class AdapterShares:
    """The adapter's share in each matrix of a file. `wrong` names those without it, or with it twice."""

    matrices: int = 0
    judged: int = 0
    rounded_back: int = 0
    extremes: list[float] = field(default_factory=list)  # smallest and largest share
    wrong: list[str] = field(default_factory=list)

    def add(self, gguf: GgufFile, converter: Converter, planned: PlannedTensor) -> None:
        """Measure one tensor, if it is a quantised matrix that the adapter changes."""
        natural = NATURAL.get(gguf.tensors[planned.name].type.name[:2])
        change = converter.change(planned)
        if natural is None or change is None or len(planned.shape) != 2:
            return
        self.matrices += 1
        rows = np.unique(np.linspace(0, planned.shape[0] - 1, _ROWS).astype(np.int64))
        before, after = (values[rows].astype(np.float64) for values in change)
        stored = gguf.rows(planned.name, rows)
        if _mean_error(stored, before) < _OFF_GRID * natural:
            self.rounded_back += 1
            return
        self._judge(planned.name, after - before, stored - after)

    def _judge(self, name: str, step: np.ndarray, noise: np.ndarray) -> None:
        """`step` is the adapter's change, `noise` the file's error, both float64 [rows, columns]."""
        length = float(np.square(step).sum())
        if length == 0:
            return
        share = 1 + float((noise * step).sum()) / length
        independent = noise - (share - 1) * step  # a wrong matrix's noise points along the adapter
        error = math.sqrt(float(np.square(independent).sum()) / length / step.size)
        if _SIGMAS * error >= _LOST:
            return
        self.judged += 1
        self.extremes = [min([share, *self.extremes]), max([share, *self.extremes])]
        if not _LOST < share < _TWICE:
            self.wrong.append(name)


def _largest_error(stored: np.ndarray, expected: np.ndarray) -> float:
    """Largest relative difference. Values smaller than float16's smallest normal number count as that number."""
    if stored.shape != expected.shape:
        return math.inf
    smallest = float(np.finfo(np.float16).tiny)
    error = np.abs(stored - expected) / np.maximum(np.abs(expected), smallest)
    return float(error.max(initial=0.0)) if np.isfinite(error).all() else math.inf


def _mean_error(stored: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square error, relative to the root mean square of the weights."""
    if stored.shape != expected.shape or not np.isfinite(stored).all():
        return math.inf
    size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.sqrt(np.mean(np.square(stored - expected, dtype=np.float64)))) / max(size, 1e-12)


def _format_limit(type_: str) -> float:
    return next((limit for name, limit in ERRORS.items() if type_.startswith(name)), _COARSE)


def _finite_or_text(error: float) -> float | str:
    return error if math.isfinite(error) else "not comparable"
