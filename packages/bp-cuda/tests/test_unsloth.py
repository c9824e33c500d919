"""Unsloth: refused where it cannot run. What it computes is compared in a process of its own: it changes transformers.

Without a card Unsloth falls back to transformers and peft: that shows that we call it as it wants to be called.
"""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from tiny_models import save_tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, PackageMissing
from bp_cuda import requirements

COMPARE = """
import sys
from pathlib import Path
import torch
from tiny_models import batch, recipe
from bp_core.errors import BackendUnavailable
from bp_core.rail import Job
from bp_cuda import requirements, rail as rails

requirements._impossible = lambda *given: iter(())  # so that it may fall back to the CPU
folder, kind = Path(sys.argv[1]), rails.CudaRail if sys.argv[2] == "cuda" else rails.CpuRail
dtype = "bfloat16" if sys.argv[2] == "cuda" else "float32"

def trained(unsloth):
    rail = kind()
    rail.open(Job(folder, recipe=recipe(unsloth=unsloth, dtype=dtype), dtype=dtype))
    for index, parameter in enumerate(rail.parameters.values()):
        torch.manual_seed(index)
        parameter.data.normal_(std=0.05)
    loss = rail.accumulate(batch(), 0.1)
    (folder / str(unsloth)).mkdir()
    rail.write_adapter(folder / str(unsloth))
    return loss, {name: p.grad.flatten().cpu() for name, p in rail.parameters.items()}

plain, theirs = trained(False), trained(True)
assert plain[1].keys() == theirs[1].keys(), (list(plain[1])[:2], list(theirs[1])[:2])
one, two = (torch.cat([found[1][name] for name in plain[1]]) for found in (plain, theirs))
print("loss", plain[0], theirs[0], "cosine", torch.nn.functional.cosine_similarity(one, two, dim=0).item())
import importlib.util
assert importlib.util.find_spec("xformers") is None
try:
    trained(False)
except BackendUnavailable as error:
    print(error.code)
"""


def test_it_needs_a_card_and_the_package(monkeypatch):
    with pytest.raises(BadValue, match="unsloth has kernels for NVIDIA cards only"):
        requirements.check(TrainConfig(unsloth=True), "cpu")
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match="unsloth needs unsloth") as caught:
        requirements.check(TrainConfig(unsloth=True), "cuda", (8, 6))
    assert "backpropagate[standard]" in caught.value.fix


@pytest.mark.parametrize(
    "more", [dict(attention="eager"), dict(liger=True), dict(fp8=True), dict(dora=True), dict(init="pissa"),
             dict(mode="full"), dict(mode="lora-8bit")],
)  # fmt: skip
def test_what_it_does_its_own_way_cannot_be_set(more):
    with pytest.raises(BadValue, match="unsloth"):
        TrainConfig(unsloth=True, **more)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("unsloth") is None, reason="needs unsloth, in an environment of its own")
def test_on_the_cpu_it_falls_back_to_the_same_numbers(tmp_path):
    loss, other, cosine = compared("cpu", tmp_path)
    assert other == pytest.approx(loss, rel=1e-5) and cosine > 0.9999


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("unsloth") is None, reason="needs unsloth, in an environment of its own")
def test_a_card_learns_nearly_the_same_by_it(tmp_path):
    assert torch.cuda.is_available()
    loss, other, cosine = compared("cuda", tmp_path)
    assert other == pytest.approx(loss, rel=2e-2) and cosine > 0.98


def compared(device, folder):
    save_tiny(folder)
    words = Tokenizer(WordLevel({f"w{n}": n for n in range(300)}, unk_token="w3"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2", pad_token="w0").save_pretrained(folder)
    words = [sys.executable, "-c", COMPARE, str(folder), device]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers = done.stdout.split()
    assert numbers[-1] == "DEP_BACKEND_UNAVAILABLE"
    return float(numbers[1]), float(numbers[2]), float(numbers[4])
