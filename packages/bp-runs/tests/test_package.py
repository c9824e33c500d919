import re
import subprocess
import sys
from pathlib import Path

import bp_runs

README = Path(__file__).parents[1] / "README.md"


def test_public_names():
    assert bp_runs.__all__ == [
        *("Claim", "Entry", "EventLog", "Ledger", "Lock", "Owner", "Recording", "RunFolder", "Summary", "read_events")
    ]
    assert all(getattr(bp_runs, name) for name in bp_runs.__all__)


def test_all_of_it_needs_neither_torch_nor_numpy():
    code = """
import sys
import bp_runs
assert not {"psutil", "sqlite3"} & set(sys.modules), "import bp_runs should load nothing"
assert all(getattr(bp_runs, name) for name in bp_runs.__all__)
import bp_runs.history, bp_runs.trackers, bp_runs.versions
heavy = {"torch", "transformers", "numpy", "rich", "typer", "tensorboard", "wandb", "mlflow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "['two rows were empty']\n"
