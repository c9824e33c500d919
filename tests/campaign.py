"""The fault campaign: every fault that is claimed to be survived, put into real runs. Prints a table.

`uv run python tests/campaign.py` takes some minutes; `--small` a few of each, for the fast tests.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.append(str(Path(__file__).parent.parent / "packages" / "bp-export" / "tests"))  # its servers for tests

import pytest
from faults import damage, disk, kills, memory, processes, publishing, runs, stops
from ollama_server import OllamaServer
from push_hub import connected

from bp_core.backends import find


class Campaign:
    """A folder with a reference run in it, and the table of what was survived."""

    def __init__(self, folder, small, most):
        self.folder, self.small, self.most = folder, small, most
        self.model, self.rows = runs.prepare(folder)
        os.environ["BACKPROPAGATE_HOME"] = str(folder / "home")  # a ledger of its own
        self.reference = folder / "reference"
        runs.finish(self.model, self.rows, self.reference, folder / "reference.log")
        print(f"{'fault':58} {'injected':>8}   outcome", flush=True)

    @property
    def place(self):
        """What most faults need to know."""
        return self.model, self.rows, self.folder, self.reference

    def show(self, fault, count, outcome, began):
        print(f"{fault:58} {count:8}   {outcome}  ({time.monotonic() - began:.0f} s)", flush=True)

    def all(self):
        for part in (self.kills, self.memory, self.disk, self.damage, self.stops, self.processes, self.publishing):
            part()

    def kills(self):
        began = time.monotonic()
        fell = kills.kill_often(2 if self.small else 120, *self.place)
        self.show("kill -9 at a random moment, then resumed", fell.total(), "the same bytes", began)
        for stage, count in fell.most_common():
            print(f"  while in {stage:47} {count:8}")

    def memory(self):
        began = time.monotonic()
        here = (self.model, self.rows, self.folder)
        count, worst = memory.inject_all(*here, every=11 if self.small else 1)
        assert worst <= 1e-6, worst
        self.show("out of memory, each call of each verb", count, f"losses within {worst:.1e}", began)
        began = time.monotonic()
        count, worst = memory.relieve_all(*here)
        assert worst <= 1e-6, worst
        self.show("out of memory with one example at a time", count, f"losses within {worst:.1e}", began)
        error = memory.exhaust(*here)
        assert "tried: one example at a time, activation checkpointing" in str(error)
        self.show("memory that never comes back", 1, f"{error.code}, says what was tried", began)

    def disk(self):
        faults = {"a folder that becomes read-only": disk.read_only}
        if disk.allowed(self.folder):
            faults["a full disk, with room made later"] = disk.full
            faults["a full disk, with room made while it waits"] = disk.full_for_a_while
        else:
            print("a full disk: not tried, mounting is not allowed here")
        for name, fault in list(faults.items())[: 2 if self.small else None]:
            began = time.monotonic()
            fault(*self.place)
            self.show(name, 1, "the same bytes", began)

    def damage(self):
        killed, log = self.folder / "killed", self.folder / "killed.log"
        child = runs.Child(runs.training(self.model, self.rows, killed, resume=False), log)
        child.wait_for(b"c") and child.wait_for(b"c.")
        os.kill(child.pid, signal.SIGKILL)
        child.end()
        began = time.monotonic()
        count = damage.damage_all(*self.place, killed, every=9 if self.small else 1)
        self.show("a file of the newest checkpoint cut, flipped, emptied, gone", count, "the same bytes", began)

    def stops(self):
        began = time.monotonic()
        fell = stops.stop_everywhere(4 if self.small else 60, *self.place)
        self.show("SIGINT or SIGTERM, once or twice, at a random moment", fell.total(), "the same bytes", began)
        for stage in stops.STAGES:
            print(f"  while {stage:50} {fell[stage]:8}")

    def processes(self):
        faults = {
            "two runs into one output at once": processes.one_output,
            "two processes on one run": processes.one_run,
            "a wall clock that jumps by years": processes.clock_jumps,
        }
        for name, fault in faults.items():
            began = time.monotonic()
            fault(*self.place)
            self.show(name, 1, "the same bytes", began)

    def publishing(self):
        most = 3 if self.small else self.most
        self._meet(publishing.publishing(*self.place), most)
        self._meet(publishing.publishing_merged(*self.place), most)
        self._meet(publishing.exporting(self.reference, self.folder, "merged", overwrite=True), most)
        if self.small:
            return
        self._meet(publishing.exporting(self.reference, self.folder, "merged", overwrite=False), most)
        for overwrite in (False, True):
            self._meet(publishing.exporting(self.reference, self.folder, "lora", overwrite=overwrite), most)
        file = publishing.exporting(self.reference, self.folder, "gguf", overwrite=True, quantization="f16")
        self._meet(file, min(8, most))
        with pytest.MonkeyPatch.context() as patch, connected(patch, self.folder) as hub:
            self._meet(publishing.pushing(self.reference, self.folder, hub), min(8, most))
        with pytest.MonkeyPatch.context() as patch, OllamaServer("0.34.1", self._new("blobs")) as server:
            patch.setenv("OLLAMA_HOST", server.url)
            self._meet(publishing.registering(file.start / "made.gguf", self.folder, server), min(8, most))

    def _new(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _meet(self, case, most):
        began = time.monotonic()
        injected = publishing.meet(case, self.folder, most)
        self.show(f"{case.name}: a fault at each change of the disk", injected.total(), "ends, nothing lost", began)
        for name, count in injected.items():
            print(f"  {name:56} {count:8}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few of each fault")
    parser.add_argument("--only", choices=["kills", "memory", "disk", "damage", "stops", "processes", "publishing"])
    parser.add_argument("--most", type=int, default=1000, help="changes of the disk that meet a fault, of each case")
    parser.add_argument("--backend", choices=["cpu", "mlx"], default="cpu", help="whose runs meet the faults")
    options = parser.parse_args()
    runs.SETTINGS["backend"] = options.backend
    find(options.backend)  # imported here, so that no child has to
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    try:
        campaign = Campaign(folder, options.small, options.most)
        getattr(campaign, options.only or "all")()
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
