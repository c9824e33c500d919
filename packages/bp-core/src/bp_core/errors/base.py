"""What all errors have: a stable code, what happened, where, and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from ..redact import redact

ERRORS: dict[str, type[BackpropagateError]] = {}
PARTLY_DONE = 3
_EXIT_CODES = {"INPUT": 1, "CONFIG": 1, "DEP": 2, "RUNTIME": 2, "STATE": 2}


class BackpropagateError(Exception):
    """Base of all our errors. `message` says what happened, `where` is `file` or `file:line`, `fix` the next step."""

    code: ClassVar[str] = ""
    fix: str = ""
    exit_code: ClassVar[int] = 2
    run: str | None = None  # the id of the run in which it was raised
    kept: str | None = None  # what was finished before it, and stands: the exit code is then PARTLY_DONE
    result: Mapping[str, Any] = MappingProxyType({})  # what the command found out all the same, for --json

    def __init_subclass__(cls, *, code: str) -> None:
        super().__init_subclass__()
        assert code not in ERRORS, f"{code} is declared twice"
        assert cls.__doc__ and cls.fix, f"{code} needs a docstring and a fix"
        cls.code, cls.exit_code = code, _EXIT_CODES[code.split("_")[0]]
        ERRORS[code] = cls

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(redact(message))
        self.message = redact(message)
        self.where = redact(where) if where else where
        self.fix = fix or type(self).fix

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def as_dict(self) -> dict[str, Any]:
        told = {"code": self.code, "message": self.message, "where": self.where, "fix": self.fix}
        return told | {name: value for name in ("run", "kept") if (value := getattr(self, name))}
