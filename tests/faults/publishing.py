"""Faults at every change of the disk while something is published, exported, registered or pushed.

Each happens just before the n-th change, for every n, in a process of its own. It ends within a minute, with a code and
without a traceback; nothing that was whole is lost; and done again without the fault it ends as if there had been none.
"""

import contextlib
import errno
import os
import re
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.models import published
from backpropagate.training import run as training_run
from bp_core.folders import damage, write_manifest

from . import runs, stops
from .disk import NOBODY
from .runs import Child, training

MINUTE = 60
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}


class Watcher:
    """Calls `fault` before changes of files under `folder`, from the n-th on; counts them."""

    def __init__(self, folder, fault, at, reading=False):
        self.folder, self.fault, self.at, self.reading = str(folder), fault, at, reading
        self.armed, self.busy, self.seen = False, False, 0
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if not self.armed or self.busy or not self._concerns(event, arguments):
            return
        self.seen += 1
        if self.seen >= self.at:
            self.busy = True
            try:
                self.fault(event, self.seen == self.at)
            finally:
                self.busy = False

    def _concerns(self, event, arguments):
        if event != "open" and event not in _CHANGES:
            return False
        path = arguments[0]
        if event == "open" and not (self.reading or arguments[2] & _WRITES):
            return False
        inside = isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.folder)
        return inside or (event != "open" and isinstance(arguments[-1], int) and arguments[-1] > 2)  # below a folder


def killed(event, first):
    os.kill(os.getpid(), signal.SIGKILL)


def full(event, first):
    if event in ("open", "os.mkdir"):
        raise OSError(errno.ENOSPC, "No space left on device")


def read_only(event, first):
    raise OSError(errno.EROFS, "Read-only file system")


def sharing_violation(event, first):
    """As Windows says where a scanner has the folder open."""
    if event == "os.rename":
        raise PermissionError(errno.EACCES, "The process cannot access the file because another process uses it")


def another_owner(event, first):
    if first and os.geteuid() == 0:
        os.seteuid(NOBODY)


def taken_away(folder):
    away = folder.with_name(f"{folder.name}.away")

    def take(event, first):
        if first and folder.is_dir():
            folder.rename(away)

    return take


FAULTS = {
    "kill -9": lambda folder: killed,
    "a full disk": lambda folder: full,
    "made read-only": lambda folder: read_only,
    "another owner": lambda folder: another_owner,
    "a sharing violation (simulated)": lambda folder: sharing_violation,
    "folder taken away": taken_away,
}


@dataclass(frozen=True)
class Case:
    """What meets the faults. `start` is a folder to begin with, copied each time; `work(folder)` gives the work for a
    child, which arms the watcher; `whole(folder)` asserts what must hold after any fault, `done(folder)` what must
    hold once the work was done again."""

    name: str
    start: Path
    work: Any
    whole: Any
    done: Any
    reading: bool = False


def meet(case, folder, most):
    """Every fault at each change of the disk of a case, or at `most` of them. How many were injected, by fault."""
    count = _changes(case, folder)
    assert count > 0, f"{case.name} changes nothing"
    injected = Counter()
    for name, made in FAULTS.items():
        tried = min(most, count)
        for at in sorted({1 + number * (count - 1) // max(1, tried - 1) for number in range(tried)}):
            place = _fresh(case, folder)
            fell = place.with_name("case.fell")
            code, said = _child(case, place, _marking(made(place), fell), at)
            if code == 0 and not fell.exists():
                continue  # uploads open files from several threads, not always as often
            _check_end(case, name, at, code, said)
            back = place.with_name(f"{place.name}.away")
            if back.exists():
                _bring_back(back, place)
            where = f"{case.name}: {name} before change {at}: code {code}: {said}"
            with _told(where):
                case.whole(place)
            if code:  # a fault at the last changes may leave nothing to be done again
                code, said = _child(case, place, None, 0, place / "again.log")
                assert code == 0, f"{case.name}, after {name} before change {at}: {said}"
            with _told(where):
                case.done(place)
            injected[name] += 1
        assert injected[name] > tried // 2, f"{case.name}: {name} seldom fell: {injected[name]} of {tried}"
    return injected


def _marking(fault, mark):
    """The fault, after leaving a file that tells that it fell."""
    mark.unlink(missing_ok=True)

    def fall(event, first):
        if first:
            mark.touch()
        fault(event, first)

    return fall


def _bring_back(away, place):
    """A folder comes back to where another was made meanwhile: its files are put over those, but adapters not mixed."""
    for adapter in place.glob("lora"):
        if (away / adapter.name).exists():
            (away / adapter.name).rename(away / f"{adapter.name}-before")
    shutil.copytree(away, place, dirs_exist_ok=True)
    shutil.rmtree(away)


@contextlib.contextmanager
def _told(where):
    """Let what does not hold say after which fault."""
    try:
        yield
    except (AssertionError, OSError) as error:
        raise AssertionError(f"{error}\n{where}") from error


def _changes(case, folder):
    place = _fresh(case, folder)
    counted = folder / "count"

    def work(tell):
        watcher = Watcher(place, None, sys.maxsize, case.reading)
        code = case.work(place)(watcher)(tell)
        counted.write_text(str(watcher.seen))
        return code

    child = Child(work, folder / "count.log")
    assert child.end() == 0, child.said()
    case.done(place)
    return int(counted.read_text())


def _fresh(case, folder):
    place = folder / "case"
    for old in (place, place.with_name("case.away")):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(case.start, place)
    return place


def _child(case, place, fault, at, log=None):
    log = log or place.with_name("case.log")

    def work(tell):
        signal.alarm(MINUTE)
        return case.work(place)(Watcher(place, fault, at if fault else sys.maxsize, case.reading))(tell)

    child = Child(work, log)
    return child.end(), child.said()


def _check_end(case, name, at, code, said):
    where = f"{case.name}: {name} before change {at}: code {code}: {said}"
    assert code != -signal.SIGALRM, f"it hangs: {where}"
    if name == "kill -9":
        assert code == -signal.SIGKILL, where
        return
    assert code in (0, 1, 2, 3), where
    assert "Traceback" not in said and "mistake in Backpropagate" not in said, where
    assert code == 0 or (re.search(r"^error [A-Z_]+$", said, re.M) and "fix: " in said), where


def armed(watcher, module, name):
    """Let the watcher look while a function of a module runs."""
    original = getattr(module, name)

    def watched(*words, **settings):
        watcher.armed = True
        try:
            return original(*words, **settings)
        finally:
            watcher.armed = False

    setattr(module, name, watched)


def holding(folder, weights):
    """Places of adapters with these bytes, published or about to be."""
    return [path for path in folder.rglob("adapter_model.safetensors") if path.read_bytes() == weights]


def publishing(model, rows, folder, reference):
    """A run that is trained to its end, but killed before it published, beside an adapter of somebody else."""
    start = folder / "start-publish"

    def dying(tell):
        training_run.publish = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
        training(model, rows, start, resume=False)(tell)

    assert Child(dying, folder / "start.log").end() == -signal.SIGKILL
    (run,) = start.glob("runs/*/")
    theirs = start / "lora"
    theirs.mkdir()
    (theirs / "adapter_config.json").write_text("{}")
    (theirs / "adapter_model.safetensors").write_bytes(b"theirs")

    def work(place):
        def watched(watcher):
            armed(watcher, training_run, "publish")
            return stops.command(["resume", run.name, "--output", str(place)])

        return watched

    def whole(place):
        assert holding(place, b"theirs"), "the adapter that was there is lost"
        assert any(damage(path) is None for path in place.glob("runs/*/checkpoints/step-*"))

    def done(place):
        assert holding(place, b"theirs") and runs.weights(place) == runs.weights(reference)
        assert damage(place / "lora") is None

    return Case("publish", start, work, whole, done)


def publishing_merged(model, rows, folder, reference):
    """The adapter that a session merged takes the place of the one merged before."""
    start = folder / "start-merged"
    merged = start / "multi-run" / "state"
    for place, weights in ((merged, runs.weights(reference)), (start / "lora", b"merged before")):
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
        (place / "adapter_model.safetensors").write_bytes(weights)
        write_manifest(place)
    (start / "lora" / "run.json").write_text('{"run": "r", "multi-run": {}}')
    write_manifest(start / "lora")

    def work(place):
        def watched(watcher):
            armed(watcher, published, "publish_merged")

            def publish(tell):
                return exit_code(lambda: published.publish_merged(place / "multi-run" / "state", place))

            return publish

        return watched

    def whole(place):
        assert damage(place / "multi-run" / "state") is None
        assert holding(place, runs.weights(reference))

    def done(place):
        assert runs.weights(place) == runs.weights(reference) and damage(place / "lora") is None

    return Case("publish_merged", start, work, whole, done)


def exit_code(work):
    """As `backprop` would end."""

    def app(**settings):
        work()
        return 0

    return exit_code_of(app, [])


def exporting(reference, folder, format, *, overwrite, quantization=None):
    """An export of a trained adapter, to a free place or over an earlier one."""
    name = f"export --format {format}" + (" --overwrite" if overwrite else "")
    start = folder / f"start-{format}-{overwrite}"
    shutil.copytree(reference, start)
    target = "made.gguf" if format == "gguf" else "made"
    words = ["--format", format] + (["--quantization", quantization] if quantization else [])
    first = ["export", str(start), "--output", str(start / target), *words]
    child = Child(stops.command(first), folder / "export.log")
    assert child.end() == 0, child.said()
    expected = _content(start / target)
    if not overwrite:
        shutil.rmtree(start / target) if (start / target).is_dir() else (start / target).unlink()

    def work(place):
        def watched(watcher):
            watcher.armed = True
            return stops.command(["export", str(place), "--output", str(place / target), *words, "--overwrite"])

        return watched

    def whole(place):
        assert damage(place / "lora") is None
        made = place / target
        if made.exists():  # then what was there before may be half removed
            assert _content(made) == expected, f"half an export at {target}"
        elif overwrite:
            kept = [_content(path) for path in place.glob(f".{target}.*/old")]
            assert expected in kept, "the earlier export is lost"

    def done(place):
        assert _content(place / target) == expected

    return Case(name, start, work, whole, done)


def _content(path):
    """A file's bytes, or those of all files of a folder."""
    if path.is_file():
        return path.read_bytes()
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def registering(gguf, folder, server):
    """A file is given to Ollama."""
    start = folder / "start-register"
    start.mkdir()
    shutil.copyfile(gguf, start / "made.gguf")

    def work(place):
        def watched(watcher):
            watcher.armed = True
            words = ["ollama", "register", str(place / "made.gguf"), "made", "--ollama-overwrite"]
            return stops.command(words)

        return watched

    def whole(place):
        assert (place / "made.gguf").read_bytes() == gguf.read_bytes()

    def done(place):
        whole(place)
        assert "made:latest" in server.models

    return Case("ollama register", start, work, whole, done, reading=True)


def pushing(reference, folder, hub):
    """What was trained is uploaded."""

    def work(place):
        def watched(watcher):
            watcher.armed = True
            return stops.command(["push", str(place), "--repo", "me/made"])

        return watched

    def whole(place):
        assert damage(place / "lora") is None
        files = hub.repos.get("me/made", {})
        assert not files or "adapter_model.safetensors" in files, "half an upload is visible"

    def done(place):
        whole(place)
        assert hub.content("me/made", "adapter_model.safetensors") == runs.weights(reference)

    return Case("push", reference, work, whole, done, reading=True)
