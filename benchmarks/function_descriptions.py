"""Real rows from installed packages: a function's head as the question, what its docstring begins with as the answer.

Three libraries that write alike about different things: networkx (graphs), sympy (algebra), Python's own library.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LIBRARIES = ("networkx", "sympy", "python")
_LONGEST, _SHORTEST = 320, 40  # characters of an answer


def write(library: str, path: Path, rows: int, seed: int = 0) -> None:
    """So many different functions of a library, one conversation a line. Always the same ones for a seed."""
    chosen = random.Random(seed).sample(_described(library), rows)
    with path.open("w", encoding="utf-8") as file:
        for head, text in chosen:
            turns = [{"role": "user", "content": f"What does this function do?\n{head}"}]
            turns.append({"role": "assistant", "content": text})
            file.write(json.dumps({"messages": turns}) + "\n")


@cache
def _described(library: str) -> list[tuple[str, str]]:
    """All different functions of a library that say what they do."""
    return sorted(set(_read(library)))


def _read(library: str) -> Iterator[tuple[str, str]]:
    for path in _sources(library):
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if _SHORTEST <= len(text) <= _LONGEST:
                    yield f"def {node.name}({ast.unparse(node.args)})", text


def _sources(library: str) -> list[Path]:
    if library == "python":
        folder = Path(sysconfig.get_path("stdlib"))
        return sorted(folder.glob("*.py"))
    spec = importlib.util.find_spec(library)
    assert spec and spec.origin, f"{library} is not installed"
    return sorted(path for path in Path(spec.origin).parent.rglob("*.py") if "tests" not in path.parts)
