"""Arithmetic over long arrays in blocks that stay in the processor's cache, so memory is read and written once."""

from __future__ import annotations

import numpy as np

BLOCK = 1 << 15  # elements: four streams of float32 fit a second-level cache of 512 KiB


def blend(old: np.ndarray, new: np.ndarray, weight: float) -> tuple[np.ndarray, bool]:
    """old + weight (new - old), and whether all of it is finite. Contiguous float32 of one shape."""
    result = np.empty_like(old)
    x, y, out = old.reshape(-1), new.reshape(-1), result.reshape(-1)
    scratch, bits = np.empty(min(BLOCK, x.size), np.float32), np.empty(min(BLOCK, x.size), np.bool_)
    finite, share = True, np.float32(weight)
    with np.errstate(over="ignore", invalid="ignore"):  # told by what is returned
        for start in range(0, x.size, BLOCK):
            part = slice(start, min(start + BLOCK, x.size))
            step, good = scratch[: part.stop - start], bits[: part.stop - start]
            np.subtract(y[part], x[part], out=step)
            np.multiply(step, share, out=step)
            np.add(x[part], step, out=out[part])
            finite &= bool(np.isfinite(out[part], out=good).all())
    return result, finite


def finite(array: np.ndarray) -> bool:
    """Whether a contiguous array has finite numbers only."""
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
