"""Random factors and strategies for them. Numbers in docstrings of tests are those of the invariants of the merge."""

import numpy as np
from hypothesis import strategies as st

from bp_multirun import Pair

SHAPES = {"layers.0.q_proj": (6, 5), "layers.0.v_proj": (3, 5), "layers.1.q_proj": (6, 5)}  # out, in
RANK = 2
seeds = st.integers(0, 2**32 - 1)


@st.composite
def sizes(draw):
    """Rank, inputs and a generator."""
    rank = draw(st.integers(1, 16))
    return rank, draw(st.integers(rank, 64)), np.random.default_rng(draw(seeds))


def orthogonal(rng, size):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def lower(rng, rank):
    """Lower-triangular with a positive diagonal, far from singular."""
    return np.tril(rng.uniform(-0.3, 0.3, (rank, rank)), -1) / rank + np.diag(rng.uniform(0.5, 2, rank))


def full_rank(rng, rank, width):
    return lower(rng, rank) @ orthogonal(rng, width)[:rank]


def factors(rng, shapes=SHAPES, rank=RANK):
    draw = rng.standard_normal
    return {
        name: Pair(draw((rank, into), np.float32), draw((out, rank), np.float32))
        for name, (out, into) in shapes.items()
    }


def stages(seed, count, **options):
    rng = np.random.default_rng(seed)
    return [factors(rng, **options) for _ in range(count)]


def content(state):
    """Everything in a state, as comparable bytes."""
    sets = (state.a, state.b_finetuned, state.b_merged)
    return state.index, [{name: array.tobytes() for name, array in held.items()} for held in sets]
