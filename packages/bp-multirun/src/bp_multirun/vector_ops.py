"""Arithmetic on long arrays in blocks that fit the processor's cache, so that memory is read and written once."""

from __future__ import annotations

import numpy as np

BLOCK = 1 << 15  # elements: three streams of float32 fit a second-level cache of 512 KiB


def blend(old: np.ndarray, new: np.ndarray, weight: float, out: np.ndarray) -> bool:
    """Write old + weight (new - old) to `out`; return whether it is finite. Contiguous float32, all of one shape."""
    old, new, out = old.reshape(-1), new.reshape(-1), out.reshape(-1)
    bits, share, good = np.empty(min(BLOCK, out.size), np.bool_), np.float32(weight), True
    with np.errstate(over="ignore", invalid="ignore"):  # the result tells
        for start in range(0, out.size, BLOCK):
            part, base = out[start : start + BLOCK], old[start : start + BLOCK]
            np.subtract(new[start : start + BLOCK], base, out=part)
            np.multiply(part, share, out=part)
            np.add(part, base, out=part)
            good &= bool(np.isfinite(part, out=bits[: part.size]).all())
    return good


def finite(array: np.ndarray) -> bool:
    """Whether all numbers of a contiguous array are finite."""
    flat = array.reshape(-1)
    bits = np.empty(min(BLOCK, flat.size), np.bool_)
    return all(
        np.isfinite(part := flat[start : start + BLOCK], out=bits[: part.size]).all()
        for start in range(0, flat.size, BLOCK)
    )


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """The inner product of two contiguous arrays of one shape, summed in float64."""
    x, y = x.reshape(-1), y.reshape(-1)
    return sum(
        float(x[start : start + BLOCK].astype(np.float64) @ y[start : start + BLOCK].astype(np.float64))
        for start in range(0, x.size, BLOCK)
    )
