import re
import subprocess
import sys
from pathlib import Path

import bp_eval

README = Path(__file__).parents[1] / "README.md"


def test_public_names():
    assert bp_eval.__all__ == [
        *("EvalConfig", "Evaluation", "Gate", "Interval", "Question", "Ratio"),
        *("difference", "gates_in", "interval", "judge", "losses"),
    ]
    assert all(getattr(bp_eval, name) for name in bp_eval.__all__)


def test_settings_need_no_numpy_and_the_rest_no_torch():
    code = """
import sys
from bp_eval.config import EvalConfig
EvalConfig(gate="loss<2")
assert "numpy" not in sys.modules
import bp_eval
assert all(getattr(bp_eval, name) for name in bp_eval.__all__)
heavy = {"torch", "transformers", "tokenizers", "rich", "typer", "lm_eval"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_readme_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(example.splitlines()) <= 10
    exec(compile(example, "README.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("f1>=0.9 does not hold") and second.startswith("f1_change>0 holds")
