"""A few of each fault of the campaign. All of them: `uv run python tests/campaign.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "campaign.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")
@pytest.mark.parametrize(
    "part",
    ["kills", *(pytest.param(p, marks=pytest.mark.slow) for p in ("processes", "memory", "disk", "damage", "stops"))],
)
def test_faults_are_survived(part, home, smollm2):
    words = [sys.executable, str(CAMPAIGN), "--small", "--only", part]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
