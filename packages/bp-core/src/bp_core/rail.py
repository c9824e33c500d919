"""The rail protocol: what a framework (PyTorch, MLX) must be able to compute so that the loop can train with it.

A rail only computes; retries, logging and decisions are the loop's. Rails are found by the name given to `--backend`,
through the entry-point group `backpropagate.rails`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from .choices import PLAIN_MODE, DType, Mode
from .config import TrainConfig
from .examples import Batch
from .process_group import ProcessGroup
from .recipe import Recipe

TokenIds = Sequence[int]
OnToken = Callable[[int], None] | None  # is given each token id as it is generated
Pick = Callable[[Any], int] | None  # the next token id, from numpy logits: float32 [vocabulary]; None: the likeliest


@dataclass(frozen=True)
class Probe:
    """Whether a rail can run on this machine. `total` and `free` are bytes of the device's memory.

    `dtype` is what the setting "auto" means here, "" where it means nothing. `processor` and `instructions` say what
    computes on a host, by name and by the level of the kernels that the framework takes there (avx512, avx2, default):
    sums come out equal bit for bit only where both are the same. "" for a card, and where a framework does not tell.
    `shows_screen`: a desktop is on this card, which may want more of its memory while training runs. `toolkit`: the
    CUDA version that the framework was built for, "" for none.
    """

    available: bool
    device: str
    reason: str = ""
    total: int = 0
    free: int = 0
    dtype: DType | Literal[""] = ""
    processor: str = ""
    instructions: str = ""
    shows_screen: bool = False
    toolkit: str = ""


@dataclass(frozen=True)
class Memory:
    """Memory in bytes: in use now, the peak since `open`, and the device's total.

    `free` is given only where the driver moves GPU memory to the host instead of failing (CUDA on Windows and WSL).
    """

    used: int
    peak: int
    total: int
    free: int | None = None


@dataclass(frozen=True)
class Job:
    """What to open: the base model in the Hugging Face folder `model`, and optionally the PEFT folder `adapter`.

    With a `recipe` the model is opened for training, with a new adapter if none is given; without, only for inference.
    `base_name` is written into adapters as the name of their base (a hub id), by default the folder. `mode` is used
    only without a recipe: the mode in which the model was trained.
    """

    model: Path
    adapter: Path | None = None
    recipe: Recipe | None = None
    dtype: DType = "auto"
    base_name: str | None = None
    mode: Mode = PLAIN_MODE


@dataclass(frozen=True)
class ModelInfo:
    """The model that a rail opened. `parameters` and `trainable` count numbers, `dtype` is the base's number format.

    `card` is NVML's UUID of the graphics card, "" for other devices. `computed_by` says in words what a rail chose to
    compute it by, "" where there was nothing to choose.
    """

    parameters: int
    trainable: int
    device: str
    dtype: str
    card: str = ""
    computed_by: str = ""


class EvalSums(NamedTuple):
    """A summed loss (nats), and `over` how many trained tokens, pairs or rated examples it is summed.

    `right` counts those where the model prefers the better answer: pairs whose chosen answer has the higher mean
    log-probability per token; rated answers that the adapter made likelier if good, less likely if bad. 0 for sft.
    """

    loss: float
    over: int
    right: int = 0


class Rail(Protocol):
    """What the loop calls. A rail raises OutOfMemory, and no other error, when the device's memory is exhausted."""

    def probe(self) -> Probe:
        """Whether the rail can run on this machine. Cheap; never raises."""

    def join(self) -> ProcessGroup:
        """The processes that train together; the first call waits until all have started. Raises PeerLost.

        With several, `update` first adds up the gradients of all, and only rank 0 reads the files in `restore`.
        """

    def check(self, settings: TrainConfig) -> None:
        """Raise BadValue or PackageMissing for settings that this machine cannot run. Cheap: nothing is loaded."""

    def slowdown(self, dtype: DType) -> float | None:
        """How many times longer layers take in `dtype` than in float32; None where the device has instructions for it.

        Measured in about a tenth of a second, where the device emulates that format.
        """

    def open(self, job: Job) -> ModelInfo:
        """Load the base, attach the adapter, build the optimizer."""

    def accumulate(self, batch: Batch, weight: float) -> float:
        """Forward and backward: add the gradients of weight × summed loss, and return weight × summed loss."""

    def update(self, learning_rate: float) -> float:
        """Clip the gradients, step, clear them; return their L2 norm before clipping.

        A norm that is not finite only clears them. All memory is allocated before anything changes.
        """

    def discard(self) -> None:
        """Drop the accumulated gradients and cached memory, so that a step can be replayed."""

    def save_memory(self, level: int) -> str | None:
        """Use less memory from now on, at the cost of time: level 1, 2, … each adds one more way.

        Returns the way in words, None when there is no further one. Results stay the same.
        """

    def evaluate(self, batch: Batch) -> EvalSums:
        """The summed loss, and how often the better answer is preferred; no gradients."""

    def kl_reference(self, batch: Batch) -> float:
        """Sum over the examples of log p(answer) with the adapter minus without it, in nats; no gradients."""

    def logits(self, tokens: TokenIds, *, adapter: bool = True) -> Any:
        """Logits of one row as numpy: float32 [tokens, vocabulary], with the adapter or of the base alone.

        `adapter=False` is not possible after a full fine-tune.
        """

    def input_squares(self, rows: Sequence[TokenIds]) -> dict[str, Any]:
        """Sums over all tokens of `rows` of each linear layer's squared inputs, with the adapter: numpy [columns].

        By the layer's name in the base. An importance matrix for quantising is made of them.
        """
        ...

    def generate(
        self,
        prompt: TokenIds,
        *,
        limit: int,
        stop: TokenIds,
        adapter: bool = True,
        on_token: OnToken = None,
        pick: Pick = None,
    ) -> list[int]:
        """Continuation of a prompt (token ids): `limit` tokens, or up to the first in `stop`, included.

        Greedy, unless `pick` chooses each token.
        """

    def collect(self) -> None:
        """Bring sharded weights to rank 0. Every process calls this before rank 0 saves or writes."""

    def save(self, folder: Path) -> None:
        """Write trained weights, optimizer and random state: everything that resume needs."""

    def restore(self, folder: Path) -> None:
        """Read back what `save` wrote, bit for bit."""

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT layout."""

    def write_model(self, folder: Path) -> None:
        """Write the whole model in Hugging Face's layout, after a full fine-tune."""

    def memory(self) -> Memory:
        """Memory in use, in bytes."""

    def close(self) -> None:
        """Free the model and its memory."""
