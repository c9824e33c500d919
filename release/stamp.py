"""Writes into every package what all packages share: version, licence, authors, links, and `==` between siblings.

The data of the quickstart are in examples/ for readers, and in the wheel for those who install. A package index shows a
README without the repository around it, so links to our pages are made whole there.

The workspace's own pyproject.toml is the place where what is shared is changed. With --check nothing is written, and it
fails when a package differs.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE_IN_WHEEL = ROOT / "packages" / "backpropagate" / "src" / "backpropagate" / "quickstart.jsonl"
BEGIN = "# What follows is written by release/stamp.py from the pyproject.toml of the workspace."
END = "# End of what release/stamp.py writes."
# A page of ours in a package's README: from the repository's folders, or as it was stamped before.
_PAGE = re.compile(r"\]\((?:\.\./\.\./|https://[^)\s]+?/blob/main/)")
_SIBLING = re.compile(r'(?<!name = )"(bp-[a-z]+|backpropagate(?!\[))(\[[a-z0-9,-]+\])?(?:==[^";,]+)?(?=[";])')


def shared() -> Mapping[str, Any]:
    """The `[project]` table of the workspace."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def stamped(text: str, project: Mapping[str, Any]) -> str:
    """A package's pyproject.toml, with the shared lines written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    pinned = _SIBLING.sub(lambda found: f'"{found[1]}{found[2] or ""}=={project["version"]}', before)
    pinned_after = _SIBLING.sub(lambda found: f'"{found[1]}{found[2] or ""}=={project["version"]}', after)
    return "\n".join([f"{pinned}{BEGIN}", *_lines(project), f"{END}{pinned_after}"])


def _lines(project: Mapping[str, Any]) -> Iterator[str]:
    for name in ("version", "license", "license-files", "requires-python"):
        yield f"{name} = {json.dumps(project[name])}"
    yield f"authors = [{', '.join(_inline(author) for author in project['authors'])}]"
    yield "classifiers = ["
    yield from (f"    {json.dumps(classifier)}," for classifier in project["classifiers"])
    yield "]"
    yield f"urls = {_inline(project['urls'])}"


def _inline(table: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in table.items())
    return f"{{ {pairs} }}"


def files() -> dict[Path, str]:
    """Each file that is stamped, and its text."""
    project = shared()
    page = f"]({project['urls']['Repository']}/blob/main/"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    texts: dict[Path, str] = {}
    for config in sorted([*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("apps/*/pyproject.toml")]):
        texts[config] = stamped(config.read_text(encoding="utf-8"), project)
        texts[config.with_name("LICENSE")] = licence
        readme = config.with_name("README.md")
        texts[readme] = _PAGE.sub(page, readme.read_text(encoding="utf-8"))
    texts[EXAMPLE_IN_WHEEL] = (ROOT / "examples" / "quickstart.jsonl").read_text(encoding="utf-8")
    citation = ROOT / "CITATION.cff"
    if citation.exists():
        lines = citation.read_text(encoding="utf-8")
        texts[citation] = re.sub(r"(?m)^version: .*$", f"version: {project['version']}", lines)
    return texts


def main(check: bool) -> int:
    stale = []
    for path, text in files().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run `uv run python release/stamp.py && uv lock`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
