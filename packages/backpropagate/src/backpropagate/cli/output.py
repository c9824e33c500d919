"""What is printed on stdout for scripts, and what keeps a terminal safe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What would steer the terminal is shown instead: ␛ for an escape.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: "␡"}


def visible(text: str) -> str:
    """Text of unknown origin, safe to print on a terminal."""
    return text.translate(_VISIBLE)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, for scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
