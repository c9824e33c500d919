"""Makes an environment with the lowest versions that our packages say they work with: lowest.py FOLDER [PYTHON]

The tests run there with FOLDER/bin/python -m pytest. A lock with `--resolution lowest-direct` does not show this: where
extras exclude each other uv may settle for the newest torch. Here nothing is locked.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("dev", "model")  # as for `uv sync`
OLDEST = "3.11"


def main(folder: str, python: str = OLDEST) -> None:
    place = Path(folder).resolve()
    subprocess.run(["uv", "venv", "--no-project", "--python", python, str(place)], check=True)
    words = ["uv", "pip", "install", "--python", str(place), "--resolution", "lowest-direct"]
    for group in GROUPS:
        words += ["--group", group]
    for project in sorted([*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("apps/*/pyproject.toml")]):
        words += ["--editable", str(project.parent)]
    subprocess.run(words, cwd=ROOT, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
