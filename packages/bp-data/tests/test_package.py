import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bp_data

NAMES = {"Batches", "ChatTemplate", "ChatTokenizer", "Masked", "Prepared", "Record", "Report", "Row"}
NAMES |= {"convert", "mask", "prepare", "read"}
README = Path(__file__).parents[1] / "README.md"


def test_the_public_names_are_these() -> None:
    assert set(bp_data.__all__) == NAMES
    assert len(NAMES) <= 12


@pytest.mark.parametrize("module", ["bp_data", "bp_data.check.config"])
def test_importing_it_is_light(module: str) -> None:
    heavy = "('torch', 'transformers', 'mlx', 'numpy', 'tokenizers', 'jinja2')"
    code = f"import {module}, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_using_all_of_it_loads_no_framework() -> None:
    names = "[name for name in ('torch', 'transformers', 'mlx') if name in sys.modules]"
    code = f"import bp_data, sys; [getattr(bp_data, name) for name in bp_data.__all__]; print({names})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_of_the_readme_runs(
    tmp_path: Path, smol_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(smol_folder, tmp_path / "SmolLM2-135M-Instruct")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, str(README), "exec"), {})
    shown = [line[2:] for line in example.splitlines() if line.startswith("# ")]
    assert capsys.readouterr().out.splitlines() == shown
