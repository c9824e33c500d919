"""What gives when memory runs out: first the micro-batch, then time. The experiment does not."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from statistics import median

from bp_core.errors import OutOfMemory
from bp_core.events import MemoryShrunk, Relieved, Stepped, Watch
from bp_core.rail import Rail

from .checkpoints import State

_RELIEFS = 3  # how many ways beyond the micro-batch are tried
_FULL = 0.97  # of the device
_SLOWER = 4.0  # times the usual seconds a token: no batch is that much harder, a trip to the host's memory is
_USUAL = 20  # steps that say what is usual
_ENOUGH = 5


class Room:
    """Makes room on a device. What it did is kept in the state, and done again when a run is resumed."""

    def __init__(self, rail: Rail, watch: Watch) -> None:
        self._rail, self._watch = rail, watch
        self._tried: list[str] = []

    def resume(self, state: State) -> None:
        """Bring a freshly opened rail to the reliefs of `state`."""
        for level in range(1, state.relief + 1):
            self._tried.append(self._rail.relieve(level) or f"relief {level}")

    def make(self, state: State, error: OutOfMemory | MemoryError) -> State:
        """The state to replay the step with. Raises OutOfMemory that says what was tried when nothing is left."""
        self._rail.discard()
        if state.micro_batch > 1:
            return self._shrunk(state, spilled=False)
        level = state.relief + 1
        what = self._rail.relieve(level) if level <= _RELIEFS else None
        if what is None:
            tried = ", ".join(["one example at a time", *self._tried])
            raise OutOfMemory(f"{str(error) or 'memory ran out'} (tried: {tried}).") from error
        self._tried.append(what)
        self._watch(Relieved(state.step, level, what))
        return replace(state, relief=level)

    def after_spill(self, state: State) -> State:
        """The state for the next steps when the last one spilled; as it is when it cannot be smaller."""
        return self._shrunk(state, spilled=True) if state.micro_batch > 1 else state

    def _shrunk(self, state: State, spilled: bool) -> State:
        smaller = state.micro_batch // 2
        self._watch(MemoryShrunk(state.step, smaller, spilled))
        return replace(state, micro_batch=smaller)


class Spill:
    """Notices that a driver moved memory to the host in silence: memory full, and steps far slower than usual."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=_USUAL)

    def noticed(self, step: Stepped) -> bool:
        """Whether this step spilled. Only where the rail tells how much is free, for only there it can happen."""
        pace, memory = step.seconds / step.tokens, step.memory
        full = memory.free is not None and memory.free <= (1 - _FULL) * memory.total
        if full and len(self._usual) >= _ENOUGH and pace > _SLOWER * median(self._usual):
            self._usual.clear()
            return True
        self._usual.append(pace)
        return False
