"""What a version of Ollama does by itself. Its source: api/types.go and server/routes.go at each version."""

from __future__ import annotations

import re

Version = tuple[int, ...]

OLDEST: Version = (0, 5, 5)  # /api/create takes uploaded files
RUNS_JINJA: Version = (0, 30, 0)  # every GGUF runs in llama-server, which renders the template in the file
_NO_PENALTY: Version = (0, 32, 10)  # repetition is no longer penalised where a model does not ask for it
_DEVELOPMENT = (0, 0, 0)  # what a server built from source says; we take it for the newest
_NEWEST: Version = (1 << 16,)
CONTEXT = "4096 tokens, or more where it finds much memory on the card"


def parse_version(text: str) -> Version | None:
    """The version in an answer of /api/version, such as (0, 34, 1); None if there is none."""
    numbers = tuple(map(int, re.findall(r"\d+", text.split("-")[0])))
    return (_NEWEST if numbers == _DEVELOPMENT else numbers) or None


def shown(version: Version) -> str:
    """A version for people."""
    return "built from source" if version == _NEWEST else ".".join(map(str, version))


def repeat_penalty(version: Version) -> float:
    """How much repetition is penalised where a model does not say (1: not at all)."""
    return 1.0 if version >= _NO_PENALTY else 1.1
