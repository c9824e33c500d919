"""How far two programs may be apart that add the same numbers in another order, and then round."""

import torch

HALF_UNIT = 2.0**-24  # of the last place of a float32 between 1 and 2: what one operation may be off by


def rounding_gap(magnitudes, terms):
    """How far apart two float32 sums of the same `terms` products may be, [rows, columns].

    `magnitudes` are the sums of the absolute values of what is added. In whatever order, and with or without fused
    multiplications, each operation rounds by half a unit in the last place; a sum of n products takes n + 1 operations
    after each other at most, scaling and adding to the base included. So each program is within
    (n + 1) × 2⁻²⁴ × magnitude of the true sum, and two are within twice that (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1; terms in 2⁻⁴⁸ are left out, and one more operation is allowed for them).
    """
    return 2 * (terms + 2) * HALF_UNIT * magnitudes


def assert_rounded(found, truth, gap, name=""):
    """`found`, in its own format, is `truth` (float32) rounded, where both may be `gap` apart before they are rounded.

    Each value must be within half a unit in the last place of its format, which is what rounding is, and the gap. Two
    sums that lie on either side of the middle between two neighbours are rounded apart, by a whole unit. The middle
    lies in a gap with probability gap / unit, so that share of places, taken over the whole tensor, may differ from
    `truth` rounded; the gap being the worst case, the real share lies far below. Where the gap is 0 all must be equal.
    """
    units = _units(truth.abs().maximum(found.float().abs()), found.dtype)
    off = (found.float() - truth).abs()
    assert (off <= units / 2 + gap).all(), f"{name}: {(off / units).max():.3f} units in the last place"
    differ = found != truth.to(found.dtype)
    allowed = (gap / units).clamp(max=1).expand_as(units)
    assert not differ[allowed == 0].any(), f"{name}: what nothing was added to is not the same"
    share, most = differ.float().mean().item(), allowed.mean().item()
    assert share <= most, f"{name}: {share:.2e} of the places differ, of which {most:.2e} may"


def _units(values, dtype):
    """What the last place of each value is worth in a format."""
    format = torch.finfo(dtype)
    exponents = torch.frexp(values.clamp(min=format.smallest_normal)).exponent - 1
    return format.eps * torch.exp2(exponents.float())
