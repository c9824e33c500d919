"""Several processes of one run, as a launcher would start them, but forked from a server that has loaded torch once.

The server computes nothing itself, or autograd's threads would be missing in its children.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path

import tiny_models
import torch
from safetensors.torch import load_file
from tiny_models import batch, recipe

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_core.errors import Interrupted, PeerLost
from bp_core.events import MemoryShrunk, Stepped
from bp_core.examples import Example
from bp_core.rail import Job
from bp_cuda import process_group
from bp_cuda.fsdp import full_tensor, local_tensor
from bp_cuda.rail import CpuRail
from bp_data import Batches
from bp_resilience import CheckpointManager, train

SECONDS = 120  # after which what still runs hangs


def launch(size, work, folder):
    """Exit codes of `size` processes that did `work(rank)`, and what each wrote to stdout and stderr.

    A code is what `work` returned, 99 if it raised, or minus the signal that ended the process.
    """
    folder.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    around = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    around |= {name: value for name, value in os.environ.items() if name.startswith(("BACKPROPAGATE", "OMP"))}
    context = multiprocessing.get_context("forkserver")
    _serve(context)
    children = []
    for rank in range(size):
        ours = {name: str(value) for name, value in (around | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        children.append(context.Process(target=_child, args=(rank, ours, work, folder)))
        children[-1].start()
    until = time.monotonic() + SECONDS
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
        child.kill()
        child.join()
    said = [tuple((folder / f"{rank}.{name}").read_text() for name in ("out", "err")) for rank in range(size)]
    return [child.exitcode for child in children], said


def _serve(context):
    """Start the server, if it is not there yet, with all loaded; of our paths it knows by the environment."""
    before, paths = os.environ.get("PYTHONPATH"), (Path(__file__).parent, Path(tiny_models.__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    context.set_forkserver_preload(["ranks", "transformers.models.llama.modeling_llama"])
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def _child(rank, environment, work, folder):
    code = 99
    try:
        os.environ.update(environment)
        torch.set_num_threads(1)
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{stream}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        code = work(rank) or 0
    except BaseException:  # noqa: BLE001 - the end of the process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass
class Command:
    """A command line, which may differ from rank to rank."""

    lines: list

    def __call__(self, rank):
        return exit_code_of(app, self.lines[rank % len(self.lines)])


@dataclass
class Killed:
    """A run of which rank 0 is ended by the system after a step."""

    model: Path
    data: Path
    settings: dict
    steps: int
    at: int

    def __call__(self, rank):
        trainer = Trainer(str(self.model), **self.settings)
        watch = self._die if rank == 0 else None
        return exit_code_of(lambda **_: trainer.train(self.data, steps=self.steps, watch=watch) and 0, ["x"])

    def _die(self, event):
        if isinstance(event, Stepped) and event.step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Looped:
    """A run of the loop on a tiny model. Called it does its part, and returns 10 plus how often memory shrank."""

    folder: Path
    rail: type = CpuRail
    changes: dict = field(default_factory=dict)

    def __call__(self, rank=0):
        settings = recipe(micro_batch=3, **self.changes)
        rail = self.rail()
        rail.open(Job(self.folder.parent / "model", recipe=settings, dtype=settings.dtype))
        checkpoints = CheckpointManager(self.folder / "checkpoints", every=2, keep=9)
        events = []
        try:
            train(rail, Batches(examples(), seed=1), settings, checkpoints, events.append)
        except Interrupted:
            return 130
        whole = {name: full_tensor(value) for name, value in rail.parameters.items()}
        told = rail.join().gather({name: value.double().sum().item() for name, value in whole.items()})
        assert told[0] == told[-1]  # to the last bit
        return 10 + sum(isinstance(event, MemoryShrunk) for event in events)

    def weights(self):
        """What its last checkpoint holds."""
        return load_file(max((self.folder / "checkpoints").iterdir()) / "weights.safetensors")


@dataclass
class Held:
    """What a process holds of a model: bytes of weights and of moments, written to a file."""

    folder: Path
    changes: dict = field(default_factory=dict)

    def __call__(self, rank=0):
        rail = CpuRail()
        rail.open(Job(self.folder / "model", recipe=recipe(**self.changes), dtype="float32"))
        moments = [value for state in rail.optimizer.state.values() for value in state.values()]
        found = [sum(local_tensor(value).nbytes for value in part) for part in (rail.model.parameters(), moments)]
        (self.folder / f"held-{rank}.json").write_text(json.dumps(found))
        return 0


def examples():
    """Twelve short examples."""
    found = batch(lengths=tuple(5 + n % 4 for n in range(12)))
    ends = found.lengths.cumsum()
    return [
        Example(found.tokens[end - size : end], found.trained[end - size : end].tolist())
        for end, size in zip(ends, found.lengths, strict=True)
    ]


class ShortOfMemory(CpuRail):
    """Where more than one example at a time is too much for process 1."""

    def _losses(self, batch, *more):
        if self.group.rank == 1 and len(batch.lengths) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._losses(batch, *more)


class Signalled(CpuRail):
    """Where process 1 is asked to stop in the third step."""

    done = 0

    def update(self, learning_rate):
        self.done += 1
        if self.group.rank == 1 and self.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().update(learning_rate)


def silence(rank):
    """Process 1 does not answer, and process 0 gives it up."""
    process_group._PATIENCE = timedelta(seconds=2)
    joined = process_group.join(torch.device("cpu"))
    if rank == 1:
        time.sleep(6)
        return 5
    try:
        joined.gather("hello")
    except PeerLost:
        return 4
    return 6


def long_words(rank):
    told = process_group.join(torch.device("cpu")).gather(["x" * 1000 * rank, float("nan")])
    return 7 if [len(text) for text, _ in told] == [0, 1000, 2000] else 8
