"""How secrets look: those with a shape of their own, and those that only their surroundings give away."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SecretShape:
    """How one kind of secret looks. Texts, as they are usually written, have one of the `needles` where it is.

    The pattern's first group, if it has one, is not secret: it says what follows.
    """

    name: str
    pattern: re.Pattern[str]
    needles: tuple[str, ...]


def looks(name: str, pattern: str, *needles: str) -> SecretShape:
    return SecretShape(name, re.compile(pattern), needles)


# A backslash and a letter may be an escaped line break before the secret.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
_KEY_LINE = r"(?:[A-Z\d]+ )*PRIVATE KEY(?: BLOCK)?-----"
_NAME = (
    r"(?i:pass(?:word|wd|phrase)|secret(?:[_-]?(?:access[_-]?)?key)?|client[_-]?secret"
    r"|(?:api|access|account|private|signing|shared|storage)[_-]?key"
    r"|(?:access|auth|refresh|id|bearer|session|hf|hub)[_-]?token)"
)
_VALUE = r"(?!\[redacted\]|(?i:none|null|true|false)\b)[^\s\\\"',;&}\])]{4,}"
_SCHEME = r"[a-zA-Z][\w+.-]{0,30}://"
# What stands before a web token's first dot. It ends where another token could begin, so a long text is read once.
_TOKEN_HEAD = r"(?:[A-Za-df-z0-9_-]++|e(?!yJ))++"

TOKENS = (
    looks("a private key", rf"-----BEGIN {_KEY_LINE}[\s\S]*?(?:-----END {_KEY_LINE}|\Z)", "-----BEGIN"),
    looks("a Hugging Face token", r"hf_[A-Za-z0-9]{30,}", "hf_"),
    looks(
        "an API key (sk-…)",  # OpenAI, Anthropic, and others of that shape
        _START + r"sk-(?:(?:proj|ant|svcacct|admin|or)-[\w-]{16,}|(?:[A-Za-z0-9]+-){0,3}\w{16,}[\w-]*)",
        "sk-",
    ),
    looks("a GitHub token", r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
          "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    looks("a GitLab token", r"glpat-[A-Za-z0-9_-]{20,}", "glpat-"),
    looks("an AWS access key", _START + r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])",
          "AKIA", "ASIA", "ABIA", "ACCA"),
    looks("a Google API key", r"AIza[A-Za-z0-9_-]{35}", "AIza"),
    looks("a Google OAuth token", r"ya29\.[A-Za-z0-9_-]{20,}", "ya29"),
    looks("a Slack token", _START + r"xox[abeoprs]-[A-Za-z0-9-]{10,}", "xox"),
    looks("a PyPI token", _START + r"pypi-[A-Za-z0-9_-]{50,}", "pypi-"),
    looks("a Weights & Biases key", _START + r"wandb_v1_[A-Za-z0-9_]{20,}", "wandb_v1_"),
    looks("a JSON web token", rf"eyJ{_TOKEN_HEAD}\.eyJ[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]*", "eyJ"),
    looks("a bearer token", r"((?i:\bbearer)\s+)[\w.~+/=-]{20,}", "earer "),
    looks("a password in a URL", rf"({_SCHEME}[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)", "://"),
)  # fmt: skip
SURROUNDED = tuple(
    re.compile(pattern)
    for pattern in (
        r"((?i:\bbearer|\bauthorization: *basic)\s+)(?:[\w.~+/=-]{20,}|(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,})",
        rf"({_SCHEME})[^\s/:@'\"]{{16,}}(?=@)",  # token@host
        r"([?&](?i:[a-z_-]*(?:token|key|secret|password|sig|signature|credential))=)[^&\s'\"#]+",
        rf"({_NAME}[\\\"']*\s*[:=]\s*[\\\"']*){_VALUE}",
    )
)
