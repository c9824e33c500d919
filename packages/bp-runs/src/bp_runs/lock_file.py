"""run.lock: everything that decides the result of a run, so that it can be repeated and compared."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.config import TrainConfig
from bp_core.errors import NotReplayable
from bp_core.folders import digest, write_json
from bp_core.rail import Probe
from bp_core.recipe import Recipe
from bp_core.redact import redact_all
from bp_core.settings import names

LOCK_FILE = "run.lock"
_VERSION = 1
_BRING_BACK = "Bring back the run's folder from a copy, or train anew with `backprop train`."
_OTHER_BITS = "the result may differ in its last bits from that of a run that was never interrupted"


@dataclass(frozen=True)
class Lock:
    """`settings` are TrainConfig's, with every default filled in; `hashes` are those of data, template, tokenizer and
    base; `data` is an absolute path, None for rows given in Python."""

    run: str
    data: str | None
    settings: Mapping[str, Any]
    recipe: Mapping[str, Any]
    hashes: Mapping[str, str]
    packages: Mapping[str, str | None]
    hardware: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write run.lock; an existing one is kept, because a resumed run is still the same run."""
        if not (folder / LOCK_FILE).exists():
            value = {"version": _VERSION, "seed": self.settings["seed"], **dataclasses.asdict(self)}
            write_json(folder / LOCK_FILE, redact_all(value))

    @classmethod
    def read(cls, path: Path) -> Lock:
        """The lock at `path`, or in the run folder `path`. Raises NotReplayable."""
        gone = not path.exists() and path.name != LOCK_FILE
        path = path / LOCK_FILE if path.is_dir() else path
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["version"] != _VERSION:
                raise NotReplayable(f"it is of version {value['version']}, not {_VERSION}.", where=str(path))
            return cls(**{field.name: value[field.name] for field in dataclasses.fields(cls)})
        except FileNotFoundError as error:
            message = "the run's folder is gone." if gone else "the run has no run.lock."
            raise NotReplayable(message, where=str(path), fix=_BRING_BACK) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotReplayable("run.lock cannot be read.", where=str(path), fix=_BRING_BACK) from error


def pinned(config: TrainConfig, recipe: Recipe) -> dict[str, Any]:
    """The settings with every computed value written out, so that a newer version cannot compute it otherwise."""
    pinned = dataclasses.asdict(config)
    for name in names(TrainConfig):
        # In a recipe 0 and "" are what is left out; the setting for it is None.
        if getattr(recipe, name) or pinned[name] is not None:
            pinned[name] = getattr(recipe, name)
    for name in ("model", "output"):
        if Path(pinned[name]).is_dir():
            pinned[name] = str(Path(pinned[name]).resolve())
    return pinned | {"epochs": None, "lora_preset": None}


def surroundings(then: Lock, now: Lock) -> list[str]:
    """Versions and hardware that differ, in words: with others the same run may end in other last bits."""
    pairs = [(then.packages, now.packages), (then.hardware, now.hardware)]
    return [
        f"{name} was {_named(old.get(name))}, is {_named(new.get(name))}"
        for old, new in pairs
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def moved(folder: Path, now: Lock) -> list[str]:
    """What to tell of a run that goes on with other versions or on another processor than it was begun."""
    if not (folder / LOCK_FILE).is_file():
        return []
    differences = surroundings(Lock.read(folder), now)
    return [f"{one}: {_OTHER_BITS}." for one in differences]


def _named(value: Any) -> str:
    """A version, name or number; one that an older record lacks is not known."""
    return "not known" if value in (None, "") else str(value)


def tokenizer_digest(base: Path) -> str:
    """SHA-256 of the base's tokenizer, in hex."""
    path = base / "tokenizer.json"
    return digest(path) if path.is_file() else ""


def hardware(device: str, probe: Probe) -> dict[str, Any]:
    """What of the machine can change the last bits of a result."""
    return {
        "device": device,
        "processor": probe.processor,
        "instructions": probe.instructions,
        "machine": platform.machine(),
        "system": platform.system(),
        "python": sys.version.split()[0],
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
