"""Secrets do not reach logs, errors, run records or trackers: what looks like one becomes [redacted]."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
# A backslash and a letter may be an escaped line break before the secret.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
_NAME = (
    r"(?i:pass(?:word|wd|phrase)|secret(?:[_-]?(?:access[_-]?)?key)?|client[_-]?secret"
    r"|(?:api|access|account|private|signing|shared|storage)[_-]?key"
    r"|(?:access|auth|refresh|id|bearer|session|hf|hub)[_-]?token)"
)
_VALUE = r"(?!\[redacted\]|(?i:none|null|true|false)\b)[^\s\\\"',;&}\])]{4,}"
# Each pattern's first group, if it has one, is kept: it says what the secret was.
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
        _START + r"sk-(?:proj|ant|svcacct|admin|or)-[\w-]{16,}",  # OpenAI, Anthropic
        _START + r"sk-(?:[A-Za-z0-9]+-){0,3}\w{16,}[\w-]*",  # and others of that shape
        r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}",  # GitHub, GitLab
        _START + r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16,}",  # AWS
        r"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}",  # Google
        _START + r"xox[abeprs]-[A-Za-z0-9-]{10,}",  # Slack
        _START + r"(?:pypi-[A-Za-z0-9_-]{50,}|wandb_v1_[A-Za-z0-9_]{20,})",  # PyPI, Weights & Biases
        r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*",  # JSON web tokens
        r"((?i:\bbearer|\bauthorization: *basic)\s+)(?:[\w.~+/=-]{20,}|(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,})",
        r"(\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)",  # user:password@host
        r"(\b[a-z][a-z0-9+.-]*://)[^\s/:@'\"]{16,}(?=@)",  # token@host
        r"([?&](?i:[a-z_-]*(?:token|key|secret|password|sig|signature|credential))=)[^&\s'\"#]+",
        rf"({_NAME}[\\\"']*\s*[:=]\s*[\\\"']*){_VALUE}",
    )
)
_VARIABLES = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PAT)$")
_SHORTEST = 8  # values of variables shorter than this are too likely ordinary words


def redact(text: str) -> str:
    """`text` without secrets: tokens of known shape, passwords in URLs, and values of secret environment variables."""
    return _redact(text, _secret_values())


def redact_all(value: Any) -> Any:
    """A JSON value with every string in it, keys included, redacted."""
    return _redact_all(value, _secret_values())


def _redact_all(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _redact(value, secrets)
    if isinstance(value, Mapping):
        return {_redact(str(key), secrets): _redact_all(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_all(item, secrets) for item in value]
    return value


def _redact(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return _without_shapes(text)


@lru_cache(maxsize=256)  # the words of events are the same again and again
def _without_shapes(text: str) -> str:
    for pattern in _PATTERNS:
        text = pattern.sub(_hidden, text)
    return text


def _hidden(match: re.Match[str]) -> str:
    return (match[1] if match.re.groups else "") + REDACTED


def _secret_values() -> list[str]:
    """Values of variables whose name says that they are secret, longest first."""
    values = {v for k, v in os.environ.items() if _VARIABLES.search(k.upper()) and len(v) >= _SHORTEST}
    return sorted(values, key=len, reverse=True)
