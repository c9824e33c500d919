"""A disk that is full in the middle of a run (a small file system in memory plays it; needs root), or read-only."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

from bp_core.folders import damage

from .runs import Child, finish, same, training

FILLER = "filler"
NOBODY = 65534


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
    """Nothing more may be written after the first checkpoint: an error that says so; then it goes on."""
    output = folder / "locked"

    def work(tell):
        def told(word):
            tell(word)
            if word == b"c" and os.geteuid() == 0:  # root may write anywhere; be somebody else
                os.seteuid(NOBODY)
            elif word == b"c":
                next(output.glob("runs/*/checkpoints")).chmod(0o555)

        return training(model, rows, output, resume=False)(told)

    child = Child(work, folder / "disk.log")
    assert child.end() == 1 and "OutputUnusable" in child.said(), child.said()
    assert _whole(output), "no checkpoint survived"
    for path in output.glob("runs/*/checkpoints"):
        path.chmod(0o755)
    finish(model, rows, output, folder / "disk.log")
    same(output, reference)


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
