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
from bp_core.recipe import Recipe
from bp_core.redact import redact_all
from bp_core.settings import settings

LOCK_FILE = "run.lock"
_VERSION = 1
_PATHS = ("model", "output", "eval_data")  # settings that may be a path, kept such that the working folder is no matter


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

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    def write(self, folder: Path) -> None:
        """Write run.lock; an existing one is kept, because a resumed run is still the same run."""
        if not (folder / LOCK_FILE).exists():
            value = {"version": _VERSION, "seed": self.seed, **dataclasses.asdict(self)}
            write_json(folder / LOCK_FILE, redact_all(value))

    @classmethod
    def read(cls, path: Path) -> Lock:
        """The lock at `path`, or in the run folder `path`. Raises NotReplayable."""
        path = path / LOCK_FILE if path.is_dir() else path
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["version"] != _VERSION:
                raise NotReplayable(f"it is of version {value['version']}, not {_VERSION}.", where=str(path))
            return cls(**{field.name: value[field.name] for field in dataclasses.fields(cls)})
        except FileNotFoundError as error:
            raise NotReplayable("the run has no run.lock.", where=str(path)) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotReplayable("run.lock cannot be read.", where=str(path)) from error


def pinned(config: TrainConfig, recipe: Recipe) -> dict[str, Any]:
    """The settings with every computed value filled in, so that a newer version cannot compute other ones."""
    names = {setting.name for setting in settings(TrainConfig)}
    resolved = {name: value for name, value in dataclasses.asdict(recipe).items() if name in names}
    # In a recipe 0 and "" are what is left out; the setting for it is None.
    computed = {name: value for name, value in resolved.items() if value or getattr(config, name) is not None}
    places = {
        name: str(Path(computed[name]).resolve()) for name in ("model", "output") if Path(computed[name]).is_dir()
    }
    return {**dataclasses.asdict(config), **computed, **places, "epochs": None, "lora_preset": None}


def tokenizer_digest(base: Path) -> str:
    """SHA-256 of the base's tokenizer, in hex."""
    path = base / "tokenizer.json"
    return digest(path) if path.is_file() else ""


def hardware(device: str) -> dict[str, Any]:
    """What can change the last bits of a result: the machine, its system and Python."""
    return {
        "device": device,
        "machine": platform.machine(),
        "system": platform.system(),
        "python": sys.version.split()[0],
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
