"""The rail protocol: what a framework must be able to compute so that the loop can train with it.

Time belongs to the loop, tensors to the rail: a rail never retries, logs or decides. Rails are found through the
entry-point group `backpropagate.rails`, by the name that `--backend` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from .choices import DType, Mode
from .config import TrainConfig
from .examples import Batch
from .process_group import Team
from .recipe import Recipe


@dataclass(frozen=True)
class Probe:
    """Whether a rail can run on this machine. `total` and `free` are bytes of the memory that training uses.

    `dtype` is what the setting "auto" means here, "" where it means nothing. `processor` and `instructions` say what
    computes on a host, by name and by the level of the kernels that the framework takes there (avx512, avx2, default):
    sums come out equal bit for bit only where both are the same. "" for a card, and where a framework does not tell.
    """

    available: bool
    device: str
    reason: str = ""
    total: int = 0
    free: int = 0
    dtype: DType | Literal[""] = ""
    processor: str = ""
    instructions: str = ""


@dataclass(frozen=True)
class Memory:
    """Bytes: in use now, the most since `open`, and what the device has.

    `free` is what nobody uses, told only where a driver spills into the host's memory instead of failing (CUDA on
    Windows and WSL); None elsewhere.
    """

    used: int
    peak: int
    total: int
    free: int | None = None


@dataclass(frozen=True)
class Job:
    """What to open: the base in `model` (a Hugging Face folder), with the PEFT folder `adapter` if there is one.

    With a `recipe` the model is opened for training (a new adapter if none is given); without, only for reading.
    `base_name` is what a written adapter calls its base (a hub id); by default the folder. `mode` is for reading what
    was trained so; for training the recipe says it.
    """

    model: Path
    adapter: Path | None = None
    recipe: Recipe | None = None
    dtype: DType = "auto"
    base_name: str | None = None
    mode: Mode = TrainConfig.mode


@dataclass(frozen=True)
class Opened:
    """What a rail opened: parameter counts, and the number format it computes in.

    `card` is NVML's UUID of the graphics card, "" for other devices.
    """

    parameters: int
    trainable: int
    device: str
    dtype: str
    card: str = ""


class Measured(NamedTuple):
    """Summed loss, and over how many it is summed: tokens, pairs or rated examples.

    `right`: of how many the model prefers the better answer. Of pairs, by the mean log-probability per token; of rated
    ones, whether the adapter made the answer likelier if it is good, less likely if bad. 0 where nothing is preferred.
    """

    loss: float
    over: int
    right: int = 0


class Rail(Protocol):
    """A framework under the loop. When the device's memory is exhausted it raises OutOfMemory, nothing else."""

    def probe(self) -> Probe:
        """Whether this machine can run it. Cheap; never raises."""
        ...

    def join(self) -> Team:
        """The processes that train together; the first call waits until all are there. Raises PeerLost.

        In a team `update` first adds up everybody's gradients, and `restore` reads where rank 0 is.
        """
        ...

    def check(self, settings: TrainConfig | Recipe) -> None:
        """Raise BadValue or PackageMissing for what this machine cannot do of `settings`. Cheap: nothing is loaded."""
        ...

    def slowdown(self, dtype: DType) -> float | None:
        """How many times longer layers take in `dtype` than in float32; None where the device has instructions for it.

        Measured, in about a tenth of a second, where the device emulates that format.
        """
        ...

    def open(self, job: Job) -> Opened:
        """Load the base, attach the adapter, build the optimizer."""
        ...

    def accumulate(self, batch: Batch, weight: float) -> float:
        """Add the gradients of weight × summed loss; return weight × summed loss."""
        ...

    def update(self, learning_rate: float) -> float:
        """Clip, step, clear; return the norm before clipping. Allocates before it changes anything.

        A norm that is not finite changes nothing but clears the gradients.
        """
        ...

    def discard(self) -> None:
        """Drop accumulated gradients and cached memory, so that a step can be replayed."""
        ...

    def relieve(self, level: int) -> str | None:
        """Need less memory from now on, at the cost of time: the `level`-th way (1, 2, …) besides those before it.

        Says in words what was done; None when there is no such way. What is computed stays the same.
        """
        ...

    def evaluate(self, batch: Batch) -> Measured:
        """The loss of what is trained, and how often the better answer is preferred; no gradients."""
        ...

    def drift(self, batch: Batch) -> float:
        """Sum over the examples of log p(answer) with the adapter less that without it; no gradients."""
        ...

    def logits(self, tokens: Sequence[int], *, adapter: bool = True) -> Any:
        """Float32 logits [len(tokens), vocabulary] of one short row, as numpy; with the adapter, or the base alone.

        After a full fine-tune there is no base to be alone.
        """
        ...

    def generate(
        self,
        prompt: Sequence[int],
        *,
        limit: int,
        stop: Sequence[int],
        adapter: bool = True,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        """Greedy continuation of one prompt, up to `limit` tokens or the first of `stop`, which is included."""
        ...

    def collect(self) -> None:
        """Every process of a team calls this before rank 0 saves or writes, which needs what the others hold."""
        ...

    def save(self, folder: Path) -> None:
        """Write adapter, optimizer and random state: everything that resume needs."""
        ...

    def restore(self, folder: Path) -> None:
        """Read back what `save` wrote, bit for bit."""
        ...

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT layout."""
        ...

    def write_model(self, folder: Path) -> None:
        """Write the whole model in Hugging Face's layout, after a full fine-tune."""
        ...

    def memory(self) -> Memory:
        """Bytes in use."""
        ...

    def close(self) -> None:
        """Let go of the model and its memory."""
        ...
