"""Command lines to tell the user."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from bp_core.config import TrainConfig
from bp_core.settings import settings


def command(verb: str, rest: Path | str) -> str:
    """A command line as the user must type it here: through uv if that is how this one was started."""
    what = shlex.quote(near(rest)) if isinstance(rest, Path) else rest
    return f"{'uv run ' if 'UV' in os.environ else ''}backprop {verb} {what}"


def options_of(config: Any, **changes: Any) -> str:
    """The options of a command line that give a settings object, with `changes`: those that are not the default."""
    words = []
    for setting in settings(type(config)):
        value = changes.get(setting.name, getattr(config, setting.name))
        option = setting.option
        if value == setting.default:
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option.removeprefix('--')}")
        else:
            words += [option, shlex.quote(str(value))]
    return " ".join(words)


def near(path: Path) -> str:
    """A path as short as it can be typed here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def resume_command(run_id: str, output: Path) -> str:
    """What goes on with a run."""
    elsewhere = output != Path(TrainConfig.output).resolve()
    return command("resume", run_id + (f" --output {shlex.quote(near(output))}" if elsewhere else ""))


def multi_run_command(output: Path) -> str:
    """What goes on with a session of many stages."""
    return command("multi-run", f"--resume {shlex.quote(near(output))}")
