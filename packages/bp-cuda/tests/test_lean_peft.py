"""PEFT is loaded without bitsandbytes, and finds it when a quantised base is opened."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from peft import import_utils

from bp_cuda.lean_peft import without_bitsandbytes

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")

ONE_PROCESS = """
import sys
from pathlib import Path
from bp_core.backends import find
from bp_core.rail import Job
from tiny_models import recipe

model, rail = Path(sys.argv[1]), find("cpu")
rail.open(Job(model, recipe=recipe(mode="lora", dtype="float32")))
assert "bitsandbytes" not in sys.modules, "lora"
rail.open(Job(model, recipe=recipe(mode="qlora", dtype="float32")))
kinds = {type(module).__name__ for module in rail.model.modules()}
assert "Linear4bit" in kinds, kinds
assert type(rail.model.base_model.model.model.layers[0].self_attn.q_proj).__module__ == "peft.tuners.lora.bnb"
"""


def test_a_plain_base_loads_no_bitsandbytes_and_a_quantised_one_still_opens(tiny):
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS, str(tiny)], env=variables, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def test_what_is_hidden_is_there_again_afterwards():
    loaded = sys.modules.pop("bitsandbytes", None)
    try:
        with without_bitsandbytes():
            assert find_spec("bitsandbytes") is None and not import_utils.is_bnb_available()
        assert find_spec("bitsandbytes") and import_utils.is_bnb_available()
    finally:
        if loaded:
            sys.modules["bitsandbytes"] = loaded
