import re
import subprocess
import sys
from pathlib import Path

import bp_plan

README = Path(__file__).parents[1] / "README.md"


def test_public_names():
    assert bp_plan.__all__ == [
        *("PRESETS", "Architecture", "DeviceInfo", "Estimate", "MachineSettings", "Plan", "Preflight", "RowSizes"),
        *("StepPlan", "estimate", "for_machine", "full_rows", "resolve"),
    ]
    assert all(getattr(bp_plan, name) for name in bp_plan.__all__)


def test_all_of_it_needs_the_standard_library_only():
    code = """
import sys
import bp_plan
assert all(getattr(bp_plan, name) for name in bp_plan.__all__)
heavy = {"torch", "transformers", "numpy", "rich", "typer", "psutil"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_readme_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(example.splitlines()) <= 10
    exec(compile(example, "README.md", "exec"), {})
    shown = [line.split("  # ")[1] for line in example.splitlines() if "  # " in line]
    assert capsys.readouterr().out.splitlines() == shown
