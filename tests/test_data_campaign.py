"""The campaign of mutated rows and files: a few of each; all of it with -m slow."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "data_campaign.py"


@pytest.mark.parametrize("words", [["--small"], pytest.param([], marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_mutated_rows_and_files_are_read_refused_or_counted(words):
    done = subprocess.run([sys.executable, str(CAMPAIGN), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("no traceback, no hang") == 2
