"""A release is held back when a measured number got worse, or was not measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def gate(folder):
    words = [sys.executable, str(ROOT / "benchmarks" / "gate.py"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def results(tmp_path):
    """A copy of the results, to be made worse."""
    return Path(shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "results"))


def worsen(path, change):
    result = json.loads(path.read_text(encoding="utf-8"))
    change(result)
    path.write_text(json.dumps(result), encoding="utf-8")


def test_what_was_measured_is_good_enough_for_a_release():
    code, told = gate(ROOT / "benchmarks" / "results")
    assert code == 0, told


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("parity.json", lambda result: result["rows"][0].update(difference=1.0), "numbers unlike a peer's is 1"),
        ("data.json", lambda result: result["rate"].update(backpropagate=1.0), "must be at least 2"),
        (
            "proof_damages.json",
            lambda result: result["rows"][1].update(refused=False),
            "damaged files that were proven",
        ),
        ("memory_grid.json", lambda result: result["summary"].update(false=1), "steps said to fit that do not"),
        ("families.json", lambda result: result["llama31"].update(equal=0), "unlike llama.cpp's converter"),
        ("export.json", lambda result: result.pop("cpu_seconds"), "does not tell"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_worse_result_holds_a_release_back(results, name, change, says):
    worsen(results / name, change)
    code, told = gate(results)
    assert code == 1 and says in told and name in told


def test_a_result_that_is_missing_holds_a_release_back(results):
    (results / "merge.json").unlink()
    code, told = gate(results)
    assert code == 1 and "merge.json is missing" in told
