"""Secrets do not reach logs, errors, run records or trackers: what looks like one becomes [redacted]."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .secrets import SURROUNDED, TOKENS

REDACTED = "[redacted]"
_PATTERNS = (*(shape.pattern for shape in TOKENS), *SURROUNDED)
_VARIABLES = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PAT)$")
_SHORTEST = 8  # values of variables shorter than this are too likely ordinary words


def redact(text: str) -> str:
    """`text` without secrets: tokens of known shape, passwords in URLs, and values of secret environment variables."""
    return _redact(text, _secret_values())


def redact_all(value: Any) -> Any:
    """A JSON value with every string in it, keys included, redacted."""
    return _redact_all(value, _secret_values())


def _redact_all(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return _redact(value, secrets)
    if isinstance(value, Mapping):
        return {_redact(str(key), secrets): _redact_all(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_all(item, secrets) for item in value]
    return value


@lru_cache(maxsize=256)  # the words of events are the same again and again
def _redact(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    for pattern in _PATTERNS:
        text = pattern.sub(_hidden, text)
    return text


def _hidden(match: re.Match[str]) -> str:
    return (match[1] if match.re.groups else "") + REDACTED


def _secret_values() -> tuple[str, ...]:
    """Values of variables whose name says that they are secret, longest first."""
    values = {v for k, v in os.environ.items() if _VARIABLES.search(k.upper()) and len(v) >= _SHORTEST}
    return tuple(sorted(values, key=len, reverse=True))
