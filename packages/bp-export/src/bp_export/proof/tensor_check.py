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
_ROWS = 256  # of a matrix on which the adapter's share is measured
_SHARE = 0.25  # how far from 1 the share may be: an adapter left out has 0, with half the alpha 1/2, twice 2
_SIGMAS = 5.0  # a share is judged only where so many of its standard errors are below `_SHARE`


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
    """The adapter is in each matrix that it changed, also of a quantised file. Without an adapter no check.

    Of each matrix the share of the adapter is measured: the change from the base to the file, projected on the
    change that the adapter makes. It is 1, up to the noise of quantisation, which is independent of the adapter: the
    standard error is |noise| / (|change| × √n) over the n values compared. One check of all matrices together would
    not notice one that is wrong.
    """
    shares = AdapterShares()
    for done, planned in enumerate(converter.plan, 1):
        shares.add(gguf, converter, planned)
        if notify:
            notify(Progress("compare adapter", done, len(converter.plan)))
    if not shares.matrices:
        return []
    measured = shares.extremes or "not measurable"
    note = f"{shares.judged} of {shares.matrices} matrices measurable"
    if shares.wrong:
        note = f"not in {', '.join(shares.wrong[:3])}; {note}"
    name = "adapter in each matrix"
    return [Check(name, measured, [1 - _SHARE, 1 + _SHARE], not shares.wrong, note=note)]


@dataclass
class AdapterShares:
    """How much of the adapter is in the matrices of a file. `wrong` are the names of those that lack it."""

    matrices: int = 0
    judged: int = 0
    extremes: list[float] = field(default_factory=list)  # smallest and largest share
    wrong: list[str] = field(default_factory=list)

    def add(self, gguf: GgufFile, converter: Converter, planned: Planned) -> None:
        """Measure one tensor; those that are no matrices, or that the adapter leaves alone, are passed over."""
        change = converter.change(planned)
        if change is None or len(planned.shape) != 2:
            return
        before, after = change
        self.matrices += 1
        places = np.unique(np.linspace(0, len(after) - 1, _ROWS).astype(np.int64))
        step = (after - before)[places].astype(np.float64)
        noise = gguf.rows(planned.name, places) - after[places].astype(np.float64)
        length = float(np.square(step).sum())
        if length == 0:
            return
        # A wrong matrix has large noise too; what tells is the noise that does not point where the adapter does.
        share = 1 + float((noise * step).sum()) / length
        rest = noise - (share - 1) * step
        error = math.sqrt(float(np.square(rest).sum()) / length / step.size)
        if not _SIGMAS * error < _SHARE:
            return
        self.judged += 1
        self.extremes = [min([share, *self.extremes]), max([share, *self.extremes])]
        if abs(share - 1) > _SHARE:
            self.wrong.append(planned.name)


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
