"""From an exception to what the user reads and the exit code. The only place that catches everything."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from types import MappingProxyType
from typing import Any

from typer.exceptions import TyperException

from bp_core.environment import variable
from bp_core.errors import (
    PARTLY_DONE,
    BackpropagateError,
    BadValue,
    DiskFull,
    Interrupted,
    NotProven,
)
from bp_core.folders import DISK_FULL, of_system
from bp_core.other_names import OTHER_NAMES
from bp_core.process_group import launch_env
from bp_core.redact import redact
from bp_core.units import short

from .version_1 import replaced_command, replaced_option

_BROKEN_PIPE = 141  # as a shell says of a process that this signal ended


def exit_code_of(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run the command line; tell an error as message, place and fix, never as a traceback.

    With --json it is told as JSON on stdout, too.
    """
    as_json = "--json" in arguments
    try:
        code: int = app(args=list(arguments), prog_name="backprop", standalone_mode=False) or 0
        sys.stdout.flush()
        return _stopped(as_json) if code == Interrupted.exit_code else code
    except KeyboardInterrupt:  # in the moment before typer would turn it into that exit code, or after
        return _stopped(as_json)
    except TyperException as usage:
        _say(_usage_error(usage, arguments), as_json)
        return BadValue.exit_code
    except BackpropagateError as error:
        if launch_env().rank == 0 or not isinstance(error, Interrupted):  # which all of them are: one says so
            _say(_of_command(error, arguments), as_json)
        return PARTLY_DONE if error.kept else error.exit_code
    except BrokenPipeError:  # who reads the output has enough of it, as `head` has
        _close_stdout()
        return _BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the border to the user
        if isinstance(error, OSError) and error.filename is None and error.errno in DISK_FULL:
            _close_stdout()
            fix = "Send the output to a file on another disk; what the command did before it printed is done."
            _say(DiskFull("the result could not be written: no room.", where="standard output", fix=fix), False)
            return DiskFull.exit_code
        told = of_system(error)
        if told is None:
            _say_bug(error, as_json)
            return 2
        _say(told, as_json)
        return told.exit_code


def _close_stdout() -> None:
    """Let what is still buffered go nowhere, so that it does not fail once more at the end of the process."""
    with suppress(OSError, ValueError):  # it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_error(usage: Any, arguments: Sequence[str]) -> BadValue:
    """What is wrong with a command line, or with a variable that stands for a part of it."""
    context, parameter = getattr(usage, "ctx", None), getattr(usage, "param", None)
    path = context.command_path if context else "backprop"
    fix = f"`{path} --help` shows what there is."
    name = variable(path.removeprefix("backprop "), parameter.name) if parameter else ""
    given = parameter and any(word.partition("=")[0] in parameter.opts for word in arguments)
    if name and os.environ.get(name) and not given:
        fix = f"Set the environment variable {name} to another value, or remove it."
        return BadValue(f"the environment variable {name} is {os.environ[name]!r}: {usage.message}", fix=fix)
    message = _with_nearest(usage.format_message())
    if former := _of_version_1(path.removeprefix("backprop").strip(), message):
        return BadValue(former, fix=f"{fix} docs/migration.md lists what version 1 called otherwise.")
    unknown = re.search(r"No such option: --([\w-]+)", message)
    if unknown and context:
        names = [parameter.name for parameter in context.command.params]
        other = OTHER_NAMES.get(unknown[1].replace("-", "_"))
        if other and other in names:
            message = f"No such option: --{unknown[1]}. Did you mean --{other.replace('_', '-')}?"
    return BadValue(message, fix=fix)


def _of_version_1(command: str, message: str) -> str | None:
    """What to do in the place of a command or option of version 1; None where the unknown word is not one."""
    option = re.search(r"No such option: (--[\w-]+)", message)
    if option and (instead := replaced_option(command, option[1])):
        return f"{option[1]} is of version 1: {instead}."
    word = re.search(r"No such command '([\w-]+)'", message)
    words = f"{command} {word[1]}".strip() if word else ""
    instead = replaced_command(words)
    return f"{words} is of version 1: {instead}." if instead else None


def _of_command(error: BackpropagateError, arguments: Sequence[str]) -> BackpropagateError:
    """A wrong value told with the help of the command that was given, and with the variable that it came from."""
    words = list(takewhile(lambda word: not word.startswith("-"), arguments))
    path = " ".join(words[: 2 if words[:1] in (["data"], ["ollama"]) else 1])
    if not isinstance(error, BadValue) or error.fix != BadValue.fix or not path:
        return error
    names = re.findall(r"(?:^|; )(\w+) is ", error.message)
    possible = [variable(path, setting) for setting in names]
    variables = [name for name in possible if os.environ.get(name)]
    said = f" ({', '.join(variables)} is set in the environment.)" if variables else ""
    told = BadValue(error.message + said, where=error.where, fix=f"`backprop {path} --help` lists every setting.")
    told.run, told.kept, told.result = error.run, error.kept, error.result
    return told


def _with_nearest(message: str) -> str:
    """A message about an unknown word, with the known one that was probably meant, and without pydantic's own words."""
    message = message.replace(": Value error, ", ": ")
    before, found, known = message.partition(" is not one of ")
    wrong = before.rsplit("'", 2)[1] if found and before.endswith("'") else ""
    near = difflib.get_close_matches(wrong, re.findall(r"'([^']*)'", known), 1)
    return f"{message} Did you mean {near[0]!r}?" if near else message


def _stopped(as_json: bool) -> int:
    """Ctrl-C where there was nothing to save."""
    print("\nStopped.", file=sys.stderr)
    if as_json:
        _print(Interrupted("stopped.", fix="Nothing was begun; give the command again.").as_dict())
    return Interrupted.exit_code


def _say(error: BackpropagateError, as_json: bool) -> None:
    run = f"\n  run: {error.run}" if error.run else ""
    kept = f"\n  done before: {error.kept}" if error.kept else ""
    checks = _failed_checks(error.checks) if isinstance(error, NotProven) else ""
    print(f"\nerror {error.code}\n  {error}\n{checks}  fix: {error.fix}{kept}{run}", file=sys.stderr)
    if as_json:
        _print(error.as_dict(), error.result)


def _print(error: Mapping[str, Any], result: Mapping[str, Any] = MappingProxyType({})) -> None:
    """An error as JSON, with what the command found out all the same. Of several processes one prints."""
    if launch_env().rank == 0:
        print(json.dumps({**result, "error": error}, indent=2, ensure_ascii=False, default=str))


def _failed_checks(checks: Sequence[Mapping[str, Any]]) -> str:
    """The checks of a proof that failed, a line each: what was measured, what is allowed, how far it is off."""
    lines = []
    for check in checks:
        times = f" ({check['times']:.3g} × the limit)" if "times" in check else ""
        note = f"; {check['note']}" if check["note"] else ""
        measured, allowed = short(check["measured"]), short(check["allowed"])
        lines.append(f"    ✗ {check['name']}: {measured}, allowed {allowed}{times}{note}\n")
    return "".join(lines)


def _say_bug(error: Exception, as_json: bool) -> None:
    """An error of ours: the traceback goes to a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="backprop-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(redact("".join(traceback.format_exception(error))))
    message = f"This is a mistake in Backpropagate: {type(error).__name__}: {redact(str(error))}"
    fix = f"report it with {file.name} and the output of `backprop info`."
    print(f"\n{message}\n  fix: {fix}", file=sys.stderr)
    if as_json:
        _print({"code": "BUG", "message": message, "where": file.name, "fix": fix})
