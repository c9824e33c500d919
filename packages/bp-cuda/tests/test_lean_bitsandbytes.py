"""bitsandbytes is loaded in silence, and fetches nothing."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")

KERNELS = """
from pathlib import Path

def get_kernel(*arguments, **options):
    Path(__file__).with_name("fetched").touch()
    raise OSError("the network was asked for code")
"""
OPEN = """
import sys
from pathlib import Path
from bp_core.backends import find
from bp_core.rail import Job
from tiny_models import recipe

find("cpu").open(Job(Path(sys.argv[1]), recipe=recipe(mode=sys.argv[2], dtype="float32", optimizer=sys.argv[3])))
assert "bitsandbytes" in sys.modules
"""


@pytest.mark.parametrize(("mode", "optimizer"), [("qlora", "adamw"), ("lora", "adamw-8bit")])
def test_opening_fetches_no_kernels_and_recommends_none(mode, optimizer, tiny, tmp_path):
    (tmp_path / "kernels.py").write_text(KERNELS, encoding="utf-8")
    paths = [str(tmp_path), str(Path(__file__).parent), *sys.path]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    words = [sys.executable, "-c", OPEN, str(tiny), mode, optimizer]
    ended = subprocess.run(words, env=variables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "kernels" not in ended.stderr + ended.stdout
    assert not (tmp_path / "fetched").exists()
