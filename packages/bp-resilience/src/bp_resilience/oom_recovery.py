"""Recovery when memory runs out: a smaller micro-batch first, then slower ways to compute. Results stay the same."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from statistics import median

from bp_core.errors import OutOfMemory
from bp_core.events import MemoryShrunk, Relieved, Stepped, Watch
from bp_core.rail import Rail

from .checkpoints import State

_MOST_SAVINGS = 3  # levels of `Rail.save_memory` that are tried after a micro-batch of 1
_FULL = 0.97  # share of the device's memory in use
_SLOWER = 4.0  # times the median seconds per token: no batch is that much harder, only memory moved to the host is
_USUAL = 20  # steps of which the median is taken
_ENOUGH = 5  # steps needed before it is trusted


class OomRecovery:
    """Reduces the memory that a step needs. What was done is kept in the state, and repeated when a run resumes."""

    def __init__(self, rail: Rail, watch: Watch) -> None:
        self._rail, self._watch = rail, watch
        self._tried: list[str] = []

    def resume(self, state: State) -> None:
        """Bring a freshly opened rail to the memory-saving level of `state`."""
        for level in range(1, state.memory_saving + 1):
            self._tried.append(self._rail.save_memory(level) or f"memory saving {level}")

    def recover(self, state: State, error: OutOfMemory | MemoryError) -> State:
        """The state to replay the step with. Raises OutOfMemory, with what was tried, when no way is left."""
        self._rail.discard()
        if state.micro_batch > 1:
            return self._shrunk(state, spilled=False)
        level = state.memory_saving + 1
        what = self._rail.save_memory(level) if level <= _MOST_SAVINGS else None
        if what is None:
            tried = ", ".join(["one example at a time", *self._tried])
            raise OutOfMemory(f"{str(error) or 'memory ran out'} (tried: {tried}).") from error
        self._tried.append(what)
        self._watch(Relieved(state.step, level, what))
        return replace(state, memory_saving=level)

    def after_spill(self, state: State) -> State:
        """The state after a step that spilled: half the micro-batch, where that is possible."""
        return self._shrunk(state, spilled=True) if state.micro_batch > 1 else state

    def _shrunk(self, state: State, spilled: bool) -> State:
        smaller = state.micro_batch // 2
        self._watch(MemoryShrunk(state.step, smaller, spilled))
        return replace(state, micro_batch=smaller)


class UnifiedMemorySpill:
    """Detects that the driver moved GPU memory to the host without an error: memory is full, and steps are slow."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=_USUAL)

    def noticed(self, step: Stepped) -> bool:
        """Whether this step spilled. Never where the rail gives no `Memory.free`: drivers there fail instead."""
        memory, seconds_per_token = step.memory, step.seconds / step.tokens
        full = memory.free is not None and memory.free <= (1 - _FULL) * memory.total
        if full and len(self._usual) >= _ENOUGH and seconds_per_token > _SLOWER * median(self._usual):
            self._usual.clear()
            return True
        self._usual.append(seconds_per_token)
        return False
