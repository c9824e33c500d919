"""The suite for a graphics card, in its dry form: all of it but the numbers runs on the processor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def suite(*words):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dry", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_part_runs_and_nothing_is_written(tmp_path):
    pytest.importorskip("bitsandbytes")
    output = tmp_path / "gpu.json"
    found = suite("--output", str(output))
    assert not output.exists() and found["machine"]["cards"] == []
    assert len(found["memory"]) == 12 and all(row["peak"] for row in found["memory"])
    assert found["small_card"]["3b full"]["trained"] and found["small_card"]["7b"][0]["trained"]
    assert len(found["speed"]) == 6
    assert all(row["ours"] and row["transformers + peft"] for row in found["speed"])
    assert [row["float8"] for row in found["float8"]] == [None, None]
    assert "failed" not in found["tests"]
