from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.examples import Batch, Example
from bp_core.examples import Batches as Protocol
from bp_data import Batches
from bp_data.preparing.batches import Step
from bp_data.preparing.packing import pack

FIRST = [4, 1, 3, 6, 0, 7, 2, 5]
SECOND = [1, 2, 5, 3, 6, 0, 4, 7]


def examples(count: int) -> list[Example]:
    """Distinct examples: number i holds the token i, i % 4 + 1 times."""
    return [Example(array("i", [i] * (i % 4 + 1)), bytes([0] + [1] * (i % 4))) for i in range(count)]


def numbers(batches: Iterable[Batch]) -> list[int]:
    """Which examples stand in the micro-batches, found by cutting at `lengths`."""
    found = []
    for batch in batches:
        assert (batch.tokens.dtype, batch.trained.dtype, batch.lengths.dtype) == (np.int32, np.bool_, np.int32)
        assert len(batch.tokens) == len(batch.trained) == batch.lengths.sum()
        for part in np.split(batch.tokens, np.cumsum(batch.lengths)[:-1]):
            assert (part == part[0]).all()
            found.append(int(part[0]))
    return found


def test_it_is_the_stream_that_the_loop_expects() -> None:
    stream: Protocol = Batches(examples(5), seed=1)
    assert stream.position == 0


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_any_micro_batch_holds_the_same_examples(size: int, count: int, micro: int, seed: int) -> None:
    step = Batches(examples(size), seed).take(count)
    whole, parts = list(step.split(count)), list(step.split(micro))
    assert sorted(numbers(parts)) == sorted(numbers(whole))
    assert len(parts) == -(-count // micro)
    assert max(len(part.lengths) for part in parts) <= micro
    assert sum(int(part.trained.sum()) for part in parts) == step.trained_tokens
    assert sum(len(part.tokens) for part in parts) == step.tokens


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 9))
def test_every_epoch_holds_every_example_once_wherever_steps_begin(size: int, counts: list[int], seed: int) -> None:
    stream = Batches(examples(size), seed)
    order = [number for count in counts for number in numbers(stream.take(count).split(count))]
    assert stream.position == len(order) == sum(counts)
    for start in range(0, len(order), size):
        epoch = order[start : start + size]
        assert max(Counter(epoch).values()) == 1
        assert len(epoch) < size or sorted(epoch) == list(range(size))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(0, 200), st.integers(1, 50))
def test_seeking_gives_the_stream_from_there(size: int, position: int, count: int) -> None:
    straight, sought = Batches(examples(size), 3), Batches(examples(size), 3)
    straight.take(position)
    sought.take(5)
    sought.seek(position)
    assert numbers(sought.take(count).split(9)) == numbers(straight.take(count).split(9))
    assert sought.position == straight.position


def test_epochs_and_seeds_differ_and_the_order_is_pinned() -> None:
    stream = Batches(examples(8), seed=42)
    first, second = numbers(stream.take(8).split(8)), numbers(stream.take(8).split(8))
    assert first != second
    assert numbers(Batches(examples(8), seed=43).take(8).split(8)) != first
    # A checkpoint's position means these examples, on every machine and with every numpy.
    assert (first, second) == (FIRST, SECOND)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=24), st.integers(1, 8))
def test_micro_batches_are_nearly_even_in_tokens(lengths: list[int], micro: int) -> None:
    step = Step([[Example([0] * length, [1] * length)] for length in lengths])
    sizes = [len(part.tokens) for part in step.split(micro)]
    in_order = [sum(lengths[i : i + micro]) for i in range(0, len(lengths), micro)]
    assert max(sizes) <= max(*in_order, max(lengths) + sum(lengths) / len(sizes))


def test_a_long_example_gets_short_company() -> None:
    step = Step([[Example([i] * length, [1] * length)] for i, length in enumerate([9, 8, 1, 2, 3, 4])])
    assert [part.lengths.tolist() for part in step.split(2)] == [[9, 1], [8, 2], [3, 4]]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(4, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_packed_rows_stay_together_and_every_epoch_holds_every_example_once(
    size: int, capacity: int, count: int, micro: int, seed: int
) -> None:
    rows = pack([len(example.tokens) for example in examples(size)], capacity)
    stream = Batches(examples(size), seed, rows)
    epoch = [numbers(stream.take(1).split(1)) for _ in range(len(rows))]
    assert sorted(map(tuple, epoch)) == sorted(map(tuple, rows))
    assert sorted(number for row in epoch for number in row) == list(range(size))
    step = stream.take(count)
    parts = list(step.split(micro))
    assert all(len(part.tokens) <= micro * capacity for part in parts)
    assert sum(int(part.trained.sum()) for part in parts) == step.trained_tokens
    again = Batches(examples(size), seed, rows)
    again.seek(len(rows))
    assert numbers(again.take(count).split(count)) == numbers(step.split(count))


def test_plain_lists_serve_as_examples() -> None:
    (batch,) = Batches([Example([5, 6, 7], [0, 1, 1])], seed=0).take(1).split(1)
    assert (batch.tokens.tolist(), batch.trained.tolist()) == ([5, 6, 7], [False, True, True])
