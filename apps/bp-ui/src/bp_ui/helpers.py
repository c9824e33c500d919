"""Processes that answer for the server what would need torch or a tokenizer: started when asked, ended when idle."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_IDLE_SECONDS = 600.0
_SECONDS_TO_END = 5.0


class HelperError(Exception):
    """An error that a helper tells, as JSON."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(told.get("message", ""))
        self.told = dict(told)


@dataclass
class Helper:
    """One process of `kind`. It is asked one question at a time."""

    kind: str
    cwd: Path
    log: Path
    used: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _process: subprocess.Popen[str] | None = None

    def ask(self, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The answers, as they come. Closed before its end, the helper is told to stop. Raises HelperError."""
        with self._lock:
            process = self._running()
            assert process.stdin and process.stdout
            try:
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
                yield from self._answers(process)
            except GeneratorExit:
                self._silence(process)
                raise
            except (OSError, ValueError) as error:
                self.end()
                raise HelperError(_broken(self.log)) from error
            finally:
                self.used = time.monotonic()

    def end(self) -> None:
        """End the process; what it computes is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_SECONDS_TO_END)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()
        self._process = None

    def is_idle(self) -> bool:
        return self._process is not None and not self._lock.locked() and time.monotonic() - self.used > _IDLE_SECONDS

    def _answers(self, process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
        assert process.stdout
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if answer.get("done"):
                if "error" in answer:
                    raise HelperError(answer["error"])
                return
            yield answer
        self.end()
        raise HelperError(_broken(self.log))

    def _silence(self, process: subprocess.Popen[str]) -> None:
        """Let it stop at the next piece, and take what it still says."""
        assert process.stdin and process.stdout
        try:
            process.stdin.write("{}\n")
            process.stdin.flush()
        except OSError:
            self.end()
            return
        ended = any(json.loads(line).get("done") for line in process.stdout)
        # It had ended before the line came: then that was a question, which is refused.
        if not ended:
            self.end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self.log.parent.mkdir(parents=True, exist_ok=True)
            words = [sys.executable, "-P", "-m", "bp_ui.helper", self.kind]
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    words, cwd=self.cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
                )
        return self._process


@dataclass
class Helpers:
    """The helpers of a page, by name."""

    cwd: Path
    place: Path  # for their logs
    _helpers: dict[str, Helper] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, kind: str, name: str = "") -> Helper:
        with self._lock:
            for helper in self._helpers.values():
                if helper.is_idle():
                    helper.end()
            key = f"{kind}-{name}" if name else kind
            if key not in self._helpers:
                self._helpers[key] = Helper(kind, self.cwd, self.place / f"helper-{key}.log")
            return self._helpers[key]

    def ask(self, kind: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """The one answer to a question. Raises HelperError."""
        answers = list(self.get(kind).ask(question))
        return answers[0]

    def end(self) -> None:
        for helper in self._helpers.values():
            helper.end()


def _broken(log: Path) -> dict[str, Any]:
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] if log.is_file() else []
    message = f"the process that was asked has ended{': ' + tail[0] if tail else ''}."
    return {"code": "BUG", "message": message, "where": str(log), "fix": "Try again; if it repeats, report it."}
