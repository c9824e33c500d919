"""The weights in a GGUF, tensor by tensor, against the merged weights that it was made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from bp_core.events import Notify, Progress

from ..gguf.convert import Converter, Planned
from ..gguf.reader import GgufFile
from ..parity import Check

# Half a unit in the last place, relative to the value: the most that rounding to the type may change.
ROUNDING = {"F16": 2.0**-11, "BF16": 2.0**-8, "F32": 2.0**-24}
# Relative root mean square error that a number format may cause in a tensor; measured on normal values: half of these.
ERRORS = {"F32": 1e-3, "F16": 2e-3, "BF16": 1e-2, "Q8_0": 0.02, "Q6_K": 0.04, "Q5": 0.09, "Q4": 0.2}
_COARSE = 0.5  # of any other format
# The same error, as measured when normal values are quantised: what a format makes of weights that are not on its grid.
NATURAL = {"Q8": 0.0053, "Q6": 0.0177, "Q5": 0.036, "Q4": 0.071}
_ROWS = 256  # of a matrix on which the adapter's share is measured
_LOST, _TWICE = 0.25, 1.75  # an adapter left out has share 0, one that was added twice has 2
_SIGMAS = 5.0  # a share is judged only where so many of its standard errors are below `_LOST`
_OFF_GRID = 0.6  # of the natural error; with less the base lay on the format's grid already


def check_rounding(gguf: GgufFile, converter: Converter, notify: Notify | None) -> Check:
    """Every stored value of a float file is that of the merged weights, to half a unit in the last place."""
    worst, where = 0.0, "none"
    for done, planned in enumerate(converter.plan, 1):
        wanted = converter.array(planned).astype(np.float32)
        rounding = ROUNDING[gguf.tensors[planned.name].type.name]
        error = _worst_error(gguf.array(planned.name), wanted) / rounding
        worst, where = max((worst, where), (error, planned.name))
        if notify:
            notify(Progress("compare tensors", done, len(converter.plan)))
    note = f"the largest error, in units of what rounding may cause, in {where}"
    return Check("f16 tensors", _told(worst), 1.0, worst <= 1.0, note=note)


def check_formats(gguf: GgufFile, converter: Converter, notify: Notify | None) -> Check:
    """Every tensor of any file, dequantised, is that of the merged weights within what its number format costs."""
    worst, where = 0.0, "none"
    plan = [planned for planned in converter.plan if planned.name in gguf.tensors]
    for done, planned in enumerate(plan, 1):
        wanted = converter.array(planned).astype(np.float32)
        error = _mean_error(gguf.array(planned.name), wanted) / _allowed(gguf.tensors[planned.name].type.name)
        worst, where = max((worst, where), (error, planned.name))
        if notify:
            notify(Progress("compare tensors", done, len(plan)))
    note = f"the largest error, in units of what its number format may cause, in {where}"
    return Check("weights in the file", _told(worst), 1.0, worst <= 1.0, note=note)


def check_adapter(gguf: GgufFile, converter: Converter, notify: Notify | None) -> list[Check]:
    """No matrix of a quantised file lacks the adapter, or has it twice. Without an adapter no check.

    Of each matrix that the adapter changed its share is measured: the change from the base to the file, projected on
    the change that the adapter makes. It is 1 up to the noise of quantisation, which is independent of the adapter, so
    its standard error is |noise| / (|change| × √n) over the n values compared. One exception: a base whose weights lie
    on the grid of the format already, being unpacked from such a file, is drawn back onto it, and changes smaller than
    half a step are lost. Such matrices are counted, not judged: the strength of the whole model tells what that costs.
    """
    shares = AdapterShares()
    for done, planned in enumerate(converter.plan, 1):
        shares.add(gguf, converter, planned)
        if notify:
            notify(Progress("compare adapter", done, len(converter.plan)))
    if not shares.matrices:
        return []
    note = f"{shares.judged} of {shares.matrices} matrices measurable"
    if shares.drawn_back:
        note += f"; of {shares.drawn_back} the base has no more bits than this format, which takes small changes back"
    if shares.wrong:
        note = f"not as trained: {', '.join(shares.wrong[:3])}; {note}"
    measured = shares.extremes or "not measurable"
    return [Check("adapter in each matrix", measured, [_LOST, _TWICE], not shares.wrong, note=note)]


@dataclass
class AdapterShares:
    """How much of the adapter is in the matrices of a file. `wrong` are the names of those that lack or double it."""

    matrices: int = 0
    judged: int = 0
    drawn_back: int = 0
    extremes: list[float] = field(default_factory=list)  # smallest and largest share of those judged
    wrong: list[str] = field(default_factory=list)

    def add(self, gguf: GgufFile, converter: Converter, planned: Planned) -> None:
        """Measure one tensor; those that are no quantised matrices, or not of the adapter, are passed over."""
        natural = NATURAL.get(gguf.tensors[planned.name].type.name[:2])
        change = converter.change(planned)
        if natural is None or change is None or len(planned.shape) != 2:
            return
        self.matrices += 1
        places = np.unique(np.linspace(0, planned.shape[0] - 1, _ROWS).astype(np.int64))
        before, after = (values[places].astype(np.float64) for values in change)
        stored = gguf.rows(planned.name, places)
        if _mean_error(stored, before) < _OFF_GRID * natural:
            self.drawn_back += 1
            return
        self._judge(planned.name, after - before, stored - after)

    def _judge(self, name: str, step: np.ndarray, noise: np.ndarray) -> None:
        """`step` is what the adapter changes, `noise` what is in the file besides, both float64 [rows, columns]."""
        length = float(np.square(step).sum())
        if length == 0:
            return
        share = 1 + float((noise * step).sum()) / length
        independent = noise - (share - 1) * step  # of a wrong matrix the rest of the noise points along the adapter
        error = math.sqrt(float(np.square(independent).sum()) / length / step.size)
        if _SIGMAS * error >= _LOST:
            return
        self.judged += 1
        self.extremes = [min([share, *self.extremes]), max([share, *self.extremes])]
        if not _LOST < share < _TWICE:
            self.wrong.append(name)


def _worst_error(stored: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the value; values too small for a normal float16 count as its smallest."""
    if stored.shape != wanted.shape:
        return math.inf
    smallest = float(np.finfo(np.float16).tiny)
    error = np.abs(stored - wanted) / np.maximum(np.abs(wanted), smallest)
    return float(error.max(initial=0.0)) if np.isfinite(error).all() else math.inf


def _mean_error(stored: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of the values."""
    if stored.shape != wanted.shape or not np.isfinite(stored).all():
        return math.inf
    size = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    return float(np.sqrt(np.mean(np.square(stored - wanted, dtype=np.float64)))) / max(size, 1e-12)


def _allowed(type_: str) -> float:
    return next((limit for name, limit in ERRORS.items() if type_.startswith(name)), _COARSE)


def _told(error: float) -> float | str:
    return error if math.isfinite(error) else "not comparable"
