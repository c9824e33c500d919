import subprocess
import sys
from pathlib import Path

import bp_multirun

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
heavy = {"torch", "transformers", "peft", "safetensors", "ml_dtypes"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
