"""A few of each fault of the campaign. All of them: `uv run python tests/campaign.py`."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "campaign.py"
SLOW = ("processes", "memory", "disk", "damage", "stops", "publishing")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")
@pytest.mark.parametrize(
    "part",
    [
        "kills",
        *(
            pytest.param(p, marks=pytest.mark.slow)
            for p in ("processes", "memory", "disk", "damage", "stops", "publishing")
        ),
    ],
)
def test_faults_are_survived(part, home, smollm2):
    survived("--only", part)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlx") is None, reason="there is no MLX for this machine")
def test_kills_are_survived_on_mlx(home, smollm2):
    assert "the same bytes" in survived("--only", "kills", "--backend", "mlx")


def survived(*words):
    words = [sys.executable, str(CAMPAIGN), "--small", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
