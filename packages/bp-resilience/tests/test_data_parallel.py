"""Several processes, here threads, that train as one: same decisions, same result, one of them writes."""

import json
import threading

import pytest
from tiny_runs import Time, held_out, kinds, run

from bp_core.errors import BackpropagateError, DiskFull, Interrupted, OutOfMemory, PeerLost
from bp_core.events import Checkpointed, Evaluated, MemoryShrunk, Paused, Relieved, Stepped
from bp_core.null_rail import NullRail
from bp_core.process_group import all_agree, on_rank0
from bp_resilience import LoopContext, Signals


class Member:
    """One thread of a team."""

    def __init__(self, rank, table, barrier):
        self.rank, self.size = rank, len(table)
        self._table, self._barrier = table, barrier

    def gather(self, value):
        self._table[self.rank] = json.dumps(value)
        try:
            self._barrier.wait()
            told = [json.loads(text) for text in self._table]
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise PeerLost("a thread is gone.") from None
        return told

    def leave(self):
        self._barrier.abort()


def together(size, work):
    """What `work(member)` gave or raised in each thread."""
    table, barrier, results = [None] * size, threading.Barrier(size, timeout=20), [None] * size

    def begin(rank):
        member = Member(rank, table, barrier)
        try:
            results[rank] = work(member)
        except Exception as error:  # noqa: BLE001 - told to the test
            results[rank] = error
            if not isinstance(error, BackpropagateError):  # one of ours was agreed on
                member.leave()

    threads = [threading.Thread(target=begin, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def trained(folder, size=2, rail=NullRail, context=None, **changes):
    """A run by a team: rail, state and events of each member. `rail` and `context` may look at the rank."""

    def work(member):
        events = []
        made = rail(group=member)
        surroundings = context(member.rank, events) if context else None
        return *run(folder, made, events.append, surroundings, **changes), events

    return together(size, work)


def losses(events):
    return [event.loss for event in kinds(events, Stepped)]


@pytest.mark.parametrize(
    ("size", "changes"), [(2, {}), (3, {"micro_batch": 4}), (3, {"batch_size": 2}), (4, {"batch_size": 1})]
)
def test_a_team_learns_what_one_process_does(tmp_path, size, changes):
    alone = []
    one, _ = run(tmp_path / "one", watch=alone.append, **changes)
    members = trained(tmp_path / "group", size, **changes)
    for rail, state, events in members:
        assert rail.weight == pytest.approx(one.weight, rel=1e-12) and rail.weight == members[0][0].weight
        assert losses(events) == pytest.approx(losses(alone), rel=1e-12)
        assert [type(event) for event in events] == [type(event) for event in alone]
        assert state == members[0][1]
    computed = [sum(int(line.split()[1]) for line in rail.log if line.startswith("acc")) for rail, _, _ in members]
    assert sum(computed) == 10 * changes.get("batch_size", 6)
    assert max(computed) - min(computed) <= 10 or changes.get("batch_size", 6) < size


def test_a_step_is_dealt_out_evenly_also_when_it_fits_at_once(tmp_path):
    members = trained(tmp_path, 2, micro_batch=6)
    assert all(rail.log[0] == "accumulate 3" for rail, _, _ in members)


def test_memory_that_runs_out_in_one_shrinks_all(tmp_path):
    def rail(group):
        return NullRail(capacity=1 if group.rank == 1 else None, savings=1, group=group)

    one, _ = run(tmp_path / "one")
    members = trained(tmp_path / "group", rail=rail)
    for rail, state, events in members:
        assert state.micro_batch == 1 and state == members[0][1]
        assert rail.weight == pytest.approx(one.weight, rel=1e-12) and rail.updates == 10
        assert [event.micro_batch for event in kinds(events, MemoryShrunk)] == [3, 1]


def test_without_anything_left_to_give_all_fail_alike(tmp_path):
    def rail(group):
        return NullRail(capacity=0 if group.rank == 1 else None, group=group)

    members = trained(tmp_path, rail=rail)
    assert [str(error) for error in members] == [str(members[0])] * 2
    assert all(isinstance(error, OutOfMemory) for error in members) and "0 do" in str(members[0])
    assert not kinds(members, Relieved)


def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path):
    class Pressing(Signals):
        def __init__(self, events):
            super().__init__()
            self._events = events

        @property
        def stop_requested(self):
            return len(kinds(self._events, Stepped)) >= 4

        @stop_requested.setter
        def stop_requested(self, value):
            pass

    found = trained(
        tmp_path, context=lambda rank, events: LoopContext(signals=Pressing(events) if rank == 1 else Signals())
    )
    assert [str(error) for error in found] == ["stopped after step 4 of 10; a checkpoint was written."] * 2
    assert all(isinstance(error, Interrupted) for error in found)
    again = trained(tmp_path)
    one, _ = run(tmp_path / "one")
    assert all(rail.weight == pytest.approx(one.weight, rel=1e-12) for rail, _, _ in again)
    assert all(losses(events) == losses(again[0][2]) and len(losses(events)) == 6 for _, _, events in again)


def test_a_run_of_a_team_is_gone_on_with_by_one(tmp_path):
    def cut(rank, events):
        class Stopping(Signals):
            stop_requested = property(lambda self: len(kinds(events, Stepped)) >= 4, lambda self, value: None)

        return LoopContext(signals=Stopping())

    trained(tmp_path / "group", context=cut)
    rail, state = run(tmp_path / "group")
    one, whole = run(tmp_path / "one")
    assert rail.weight == pytest.approx(one.weight, rel=1e-12) and state.tokens == whole.tokens


def test_one_hot_card_pauses_all(tmp_path):
    def context(rank, events):
        temperatures = iter([95.0] + [60.0] * 100)
        return LoopContext(clock=Time().clock, sensor=(lambda: next(temperatures)) if rank == 1 else None)

    members = trained(tmp_path, context=context, max_temp=80.0, cooldown=10.0)
    for _, _, events in members:
        assert [event.reason for event in kinds(events, Paused)] == ["the card has 95 °C, allowed are 80"]


def test_only_the_leader_touches_the_disk_and_its_failure_is_everybodys(tmp_path):
    class Full(NullRail):
        def save(self, folder):
            assert self.group.rank == 0
            raise DiskFull("no room.")

    time = Time()
    found = trained(tmp_path, rail=Full, context=lambda rank, events: LoopContext(clock=time.clock), disk_wait=1.0)
    assert all(isinstance(error, DiskFull) and "no room" in str(error) for error in found)


def test_checkpoints_are_written_once(tmp_path):
    class Counting(NullRail):
        saved = 0

        def save(self, folder):
            self.saved += 1
            super().save(folder)

    members = trained(tmp_path, 3, rail=Counting)
    assert [rail.saved for rail, _, _ in members] == [4, 0, 0]
    told = [[event.folder for event in kinds(events, Checkpointed)] for _, _, events in members]
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("rows", [1, 7])
def test_evaluation_is_shared_and_comes_to_the_same(tmp_path, rows):
    def context(rank, events):
        return LoopContext(held_out(rows))

    alone = []
    run(tmp_path / "one", None, alone.append, context(0, []), eval_every=2, micro_batch=2)
    members = trained(tmp_path / "group", 3, context=context, eval_every=2, micro_batch=2)
    for _, _, events in members:
        looks = kinds(events, Evaluated)
        assert [event.loss for event in looks] == pytest.approx([event.loss for event in kinds(alone, Evaluated)])
        assert [event.targets for event in looks] == [event.targets for event in kinds(alone, Evaluated)]


def test_memory_that_runs_out_in_an_evaluation_of_one_shrinks_all(tmp_path):
    class Short(NullRail):
        def evaluate(self, batch):
            if self.group.rank == 1 and len(batch.lengths) > 1 and self.updates == 10:
                raise OutOfMemory("too much")
            return super().evaluate(batch)

    members = trained(
        tmp_path, rail=Short, context=lambda rank, events: LoopContext(held_out(8)), eval_every=10, micro_batch=4
    )
    assert [state.eval_batch for _, state, _ in members] == [1, 1]


def test_an_error_of_ours_in_one_is_raised_in_all():
    def work(member):
        def act():
            if member.rank == 2:
                raise DiskFull("none left.", where="/there", fix="Tidy up.")
            return "done"

        return all_agree(member, act)

    found = together(3, work)
    assert {(type(error), str(error), error.fix) for error in found} == {(DiskFull, "/there: none left.", "Tidy up.")}


def test_what_the_leader_finds_all_get():
    assert together(3, lambda member: on_rank0(member, lambda: [member.rank, None])) == [[0, None]] * 3


def test_a_mistake_in_one_ends_the_others():
    def work(member):
        return all_agree(member, lambda: 1 // member.rank)

    mistake, other = together(2, work)
    assert isinstance(mistake, ZeroDivisionError) and isinstance(other, PeerLost)
