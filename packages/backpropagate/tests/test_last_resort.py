"""A process that hangs where Python cannot act is ended by the third signal."""

import os
import signal
import subprocess
import sys
import time

import pytest

HANGING = """
import signal, sqlite3
from backpropagate.cli import last_resort
last_resort._SECONDS_WHEN_ASKED_AGAIN = 0.2
signal.signal(signal.SIGTERM, lambda number, frame: None)
last_resort.end_in_the_end()
print("hangs", flush=True)
forever = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c"
sqlite3.connect(":memory:").execute(forever)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_the_third_signal_ends_a_process_that_hangs_in_compiled_code():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HANGING], **pipes)
    assert process.stdout.readline() == "hangs\n"
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "was ended" in said
