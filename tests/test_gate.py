"""A release is held back when a measured number got worse, or was not measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def gate(folder, *more):
    words = [sys.executable, str(ROOT / "benchmarks" / "gate.py"), str(folder), *map(str, more)]
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


CARD = {
    "machine": {"cards": ["a card"]},
    "tests": {"passed": 8},
    "memory": [{"error": 0.02}, {"peak": None, "estimated": 1}],
    "small_card": {"7b": [{"trained": True}, {"trained": False}], "3b full": {"trained": True}},
    "speed": [{"ours": 300.0, "transformers + peft": 200.0}, {"ours": 100.0, "transformers + peft": None}],
    "float8": [],
}


def test_without_a_card_its_numbers_are_told_as_not_measured(results):
    code, told = gate(results)
    assert code == 0 and "not measured on a card: 4 requirements" in told


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("tests", {"passed": 7, "failed": "…"}, "failures on a card is 1"),
        ("memory", [{"error": -0.3}], "the worst memory estimate on a card is 0.3"),
        ("small_card", {"7b": [{"trained": False}], "3b full": {"trained": True}}, "promises for 16 GB not kept is 1"),
        ("speed", [{"ours": 90.0, "transformers + peft": 100.0}], "is 0.9, and must be at least 1"),
        ("speed", {"failed": "not done within 10 seconds"}, "does not tell"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_card_is_judged_where_one_was_measured(results, part, value, says):
    (results / "gpu.json").write_text(json.dumps(CARD))
    assert gate(results)[0] == 0
    (results / "gpu.json").write_text(json.dumps(CARD | {part: value}))
    code, told = gate(results)
    assert code == 1 and says in told


def test_what_got_worse_since_the_last_release_holds_it_back(results, tmp_path):
    before = Path(shutil.copytree(results, tmp_path / "before"))
    (before / "gpu.json").write_text(json.dumps(CARD))
    slower = [{"ours": 220.0, "transformers + peft": 200.0}]
    (results / "gpu.json").write_text(json.dumps(CARD | {"speed": slower}))
    assert gate(results)[0] == 0
    code, told = gate(results, "--before", before)
    assert code == 1 and "was 1.5 in the last release, and is 1.1" in told
    assert gate(results, "--before", results)[0] == 0
