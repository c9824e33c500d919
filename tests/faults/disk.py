"""A disk that is full, or read-only, in the middle of a run; a small file system in memory plays it. Needs root."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

from bp_core.folders import damage

from .runs import Child, finish, same, training

FILLER = "filler"


@contextlib.contextmanager
def small_disk(folder, megabytes=4):
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def allowed(folder):
    """Whether file systems can be mounted here."""
    try:
        with small_disk(folder / "try"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def fill(disk):
    with contextlib.suppress(OSError), (disk / FILLER).open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def full(model, rows, folder, reference):
    """Full after the first checkpoint, and it stays so: the run fails by name; with room again it goes on."""
    with small_disk(folder / "full") as disk:
        work = training(model, rows, disk / "out", resume=False, disk_wait=0.0)
        code, child = _at_first_checkpoint(work, folder, lambda: fill(disk))
        assert code == 1 and "DiskFull" in child.said(), child.said()
        assert _whole(disk / "out"), "no checkpoint survived"
        (disk / FILLER).unlink()
        finish(model, rows, disk / "out", folder / "disk.log")
        same(disk / "out", reference)


def full_for_a_while(model, rows, folder, reference):
    """Full, and while the run waits somebody makes room: it goes on by itself."""
    with small_disk(folder / "while") as disk:
        child = Child(training(model, rows, disk / "out", resume=False), folder / "disk.log")
        assert child.wait_for(b"c"), child.said()
        fill(disk)
        assert child.wait_for(b"p"), child.said()
        (disk / FILLER).unlink()
        assert child.end() == 0, child.said()
        same(disk / "out", reference)


def read_only(model, rows, folder, reference):
    """Read-only after the first checkpoint: an error that says so; made writable again, the run goes on."""
    with small_disk(folder / "locked") as disk:

        def remount(mode):
            subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)

        # a file that is open for writing keeps a file system writable; between two it can be had
        code, child = _at_first_checkpoint(
            training(model, rows, disk / "out", resume=False), folder, lambda: _insist(remount, "ro")
        )
        assert code == 1 and "OutputUnusable" in child.said(), child.said()
        assert _whole(disk / "out"), "no checkpoint survived"
        remount("rw")
        finish(model, rows, disk / "out", folder / "disk.log")
        same(disk / "out", reference)


def _insist(remount, mode):
    for _ in range(1000):
        try:
            return remount(mode)
        except subprocess.CalledProcessError:
            continue
    raise AssertionError("the file system was always busy")


def _at_first_checkpoint(work, folder, harm):
    child = Child(work, folder / "disk.log")
    assert child.wait_for(b"c"), child.said()
    harm()
    return child.end(), child


def _whole(output):
    (run,) = [path.parent for path in Path(output).glob("runs/*/run.json")]
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["id"] == run.name
    assert os.path.getsize(run / "events.jsonl")
    return [path for path in run.glob("checkpoints/step-*") if damage(path) is None]
