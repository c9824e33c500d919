"""A step is cut so that it fits: as large as can be, what the user set stays, and the reason is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.config import TrainConfig
from bp_plan.defaults import for_machine
from bp_plan.memory import GIB
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, full_rows, row_sizes

MODEL = PRESETS["llama-3.2-1b"].config


def cut_for(gib, rows=None, model=MODEL, **settings):
    """The step of a batch of 8 of an adapter on 16-bit weights, on a card with so many GiB free."""
    room = DeviceInfo("cuda", None if gib is None else int(gib * GIB), "bfloat16")
    return resolve(
        for_machine(TrainConfig(mode="lora", batch_size=8, **settings), room), rows or full_rows(8, 2048), model
    )[1]


def test_less_room_means_smaller_micro_batches_and_then_layers_computed_twice():
    found = [cut_for(gib) for gib in (80, 12, 6, 4)]
    assert [(c.micro_batch, c.activation_checkpointing) for c in found] == [
        (8, False),
        (4, False),
        (1, False),
        (2, True),
    ]
    assert found[0].why == {"micro_batch": "the batch size", "activation_checkpointing": "not needed"}
    assert found[1].why["micro_batch"] == "the most that fits into the 12.0 GiB that are free"
    assert "without it more than the 4.0 GiB" in found[3].why["activation_checkpointing"]
    assert all(c.fits and c.estimate.total <= gib * GIB for c, gib in zip(found, (80, 12, 6, 4), strict=True))


def test_where_nothing_fits_the_smallest_is_tried_and_said_to_be_too_large():
    found = cut_for(3)
    assert (found.micro_batch, found.activation_checkpointing, found.fits) == (1, True, False)
    assert "even so not within" in found.why["micro_batch"]


def test_what_the_user_set_stays():
    found = cut_for(4, micro_batch=4)
    assert (found.micro_batch, found.activation_checkpointing, found.fits) == (4, True, False)
    found = cut_for(4, activation_checkpointing=False)
    assert (found.micro_batch, found.activation_checkpointing, found.fits) == (1, False, False)
    assert cut_for(80, micro_batch=99).micro_batch == 8


def test_without_knowing_the_room_or_the_shape_nothing_is_promised():
    found = cut_for(None)
    assert (found.micro_batch, found.fits) == (8, None) and found.estimate
    found = cut_for(80, model={})
    assert (found.micro_batch, found.fits, found.estimate) == (8, None, None)
    assert cut_for(80, model={}, packing=True).micro_batch == 1


def test_short_rows_leave_room_for_more_of_them():
    long_one = row_sizes([(2048, 2000, 0), *[(64, 32, 64**2)] * 7])
    assert cut_for(12, long_one).micro_batch > cut_for(12).micro_batch
    assert long_one.largest(2).tokens == 2112 and long_one.largest(3).targets == 2064
    assert long_one.largest(2).weights == 2 * 64**2  # the two rows that keep the most


@pytest.mark.parametrize("packing", [False, True])
@given(free=st.floats(1, 200), batch=st.integers(1, 64), length=st.integers(8, 9000))
def test_what_is_said_to_fit_fits_and_a_larger_micro_batch_would_not(packing, free, batch, length):
    room = DeviceInfo("cuda", int(free * GIB), "bfloat16")

    def cut(**settings):
        config = TrainConfig(mode="lora", packing=packing, batch_size=batch, **settings)
        return resolve(for_machine(config, room), full_rows(batch, length), MODEL)[1]

    found = cut()
    assert 1 <= found.micro_batch <= batch
    assert found.fits == (found.estimate.total <= room.free)
    if not found.fits:
        assert found.micro_batch == 1 and found.activation_checkpointing
    elif found.activation_checkpointing:
        assert not cut(activation_checkpointing=False).fits
