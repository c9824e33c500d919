import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import bp_multirun
from bp_multirun import read_adapter

README = Path(__file__).parents[1] / "README.md"


def test_public_names():
    assert {"Adapter", "Pair", "State", "coefficient", "deploy", "fold", "merge"} <= set(bp_multirun.__all__)
    assert {"read_adapter", "rows", "shares", "start", "write_adapter"} <= set(bp_multirun.__all__)
    assert all(getattr(bp_multirun, name) for name in bp_multirun.__all__)


def test_importing_is_light_and_merging_needs_no_torch():
    code = """
import sys
import bp_multirun
assert "numpy" not in sys.modules, "import bp_multirun should load nothing"
all(getattr(bp_multirun, name) for name in bp_multirun.__all__)
import bp_multirun.session
heavy = {"torch", "transformers", "peft", "safetensors", "ml_dtypes"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_examples_run(tmp_path, monkeypatch, capsys):
    adapters, example, session = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(adapters, "README.md", "exec"), {})
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "[0.12, 0.3, 0.58]\n"
    last, merged = (read_adapter(Path(name)).factors["layers.0.q_proj"] for name in ("medicine", "merged"))
    np.testing.assert_array_equal(merged.a, last.a)
    assert not np.array_equal(merged.b, last.b)
    exec(compile(session, "README.md", "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[:3]] == ["1", "2", "3"]
    assert told[3] == f"(1, 2, 3) {Path('session/stage-0003/merged')}"
    np.testing.assert_array_equal(
        read_adapter(Path("session/stage-0003/merged")).factors["layers.0.q_proj"].b, merged.b
    )
