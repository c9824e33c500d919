"""From an exception to what the user reads and the exit code. The only place that catches everything."""

from __future__ import annotations

import difflib
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typer.exceptions import TyperException

from bp_core.errors import PARTLY_DONE, BackpropagateError, BadValue, Interrupted, NotProven
from bp_core.process_group import launch_env
from bp_core.redact import redact
from bp_core.units import short


def exit_code_of(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run the command line; print an error as message, place and fix, never as a traceback."""
    try:
        code: int = app(args=list(arguments) or ["--help"], prog_name="backprop", standalone_mode=False) or 0
        return _stopped() if code == Interrupted.exit_code else code
    except KeyboardInterrupt:  # in the moment before typer would turn it into that exit code, or after
        return _stopped()
    except TyperException as usage:
        _say(BadValue(_with_nearest(usage.format_message())))
        return BadValue.exit_code
    except BackpropagateError as error:
        if launch_env().rank == 0 or not isinstance(error, Interrupted):  # which all of them are: one says so
            _say(error)
        return PARTLY_DONE if error.kept else error.exit_code
    except Exception as error:  # noqa: BLE001 - the border to the user
        _say_bug(error)
        return 2


def _with_nearest(message: str) -> str:
    """A message about an unknown word, with the known one that was probably meant, and without pydantic's own words."""
    message = message.replace(": Value error, ", ": ")
    before, found, known = message.partition(" is not one of ")
    wrong = before.rsplit("'", 2)[1] if found and before.endswith("'") else ""
    near = difflib.get_close_matches(wrong, re.findall(r"'([^']*)'", known), 1)
    return f"{message} Did you mean {near[0]!r}?" if near else message


def _stopped() -> int:
    """Ctrl-C where there was nothing to save."""
    print("\nStopped.", file=sys.stderr)
    return Interrupted.exit_code


def _say(error: BackpropagateError) -> None:
    run = f"\n  run: {error.run}" if error.run else ""
    kept = f"\n  done before: {error.kept}" if error.kept else ""
    checks = _failed_checks(error.checks) if isinstance(error, NotProven) else ""
    print(f"\nerror {error.code}\n  {error}\n{checks}  fix: {error.fix}{kept}{run}", file=sys.stderr)


def _failed_checks(checks: Sequence[Mapping[str, Any]]) -> str:
    """The checks of a proof that failed, a line each: what was measured, what is allowed, how far it is off."""
    lines = []
    for check in checks:
        times = f" ({check['times']:.3g} × the limit)" if "times" in check else ""
        note = f"; {check['note']}" if check["note"] else ""
        measured, allowed = short(check["measured"]), short(check["allowed"])
        lines.append(f"    ✗ {check['name']}: {measured}, allowed {allowed}{times}{note}\n")
    return "".join(lines)


def _say_bug(error: Exception) -> None:
    """An error of ours: the traceback goes to a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="backprop-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(redact("".join(traceback.format_exception(error))))
    print(
        f"\nThis is a mistake in Backpropagate: {type(error).__name__}: {redact(str(error))}\n"
        f"  fix: report it with {file.name} and the output of `backprop info`.",
        file=sys.stderr,
    )
