"""Processors with other instructions: what is promised on one of them only, and that the whole way works on each."""

import json
import subprocess
import sys

import processors
import pytest
import torch

from backpropagate import Trainer
from backpropagate.replay import replay
from bp_core.events import Stepped, Warned

SETTINGS = dict(backend="cpu", rank=4, batch_size=4, learning_rate=1e-2, max_length=64, checkpoint_every=1)
HERE = torch.backends.cpu.get_cpu_capability().lower()
EXPORT_TESTS = ["packages/bp-export/tests", "tests/test_first_light.py", "tests/test_verify_command.py"]
# The lesser processor in one process: a plan in each format, a run to go on with, a run to do again.
ELSEWHERE = """
import json, sys
from backpropagate import Trainer
from backpropagate.replay import replay
from bp_core.events import Warned
from bp_core.backends import find

model, rows, cut, whole = sys.argv[1:]
settings = json.loads(sys.stdin.read())
told, warned = {}, []
told["probe"] = vars(find("cpu").probe())
for dtype in ("bfloat16", "float32", "auto"):
    plan = Trainer(model, dtype=dtype, output=cut, **settings).plan(rows, steps=4)
    told[dtype] = {"dtype": plan.recipe.dtype, "remarks": plan.remarks, "slowdown": plan.preflight.slowdown}

def watch(event):
    if isinstance(event, Warned):
        warned.append(event.message)

Trainer(model, dtype="float32", output=cut, **settings).train(rows, steps=4, resume=True, watch=watch)
told["resume"], told["replay"] = warned, []
replay(whole, {"output": cut + "-again"}, told["replay"].append)
print("TOLD" + json.dumps(told))
"""


class Cut(Exception):
    pass


def quiet(event):
    return None


def trainer(model, output):
    return Trainer(str(model), output=str(output), dtype="float32", **SETTINGS)


def begun(model, rows, output):
    """A run that was cut off after its second step."""

    def cut(event):
        if isinstance(event, Stepped) and event.step == 2:
            raise Cut

    with pytest.raises(Cut):
        trainer(model, output).train(rows, steps=4, watch=cut)
    return max((output / "runs").iterdir())


def lock_of(run):
    return json.loads((run / "run.lock").read_text(encoding="utf-8"))


def set_hardware(run, **values):
    lock = lock_of(run)
    lock["hardware"] |= values
    (run / "run.lock").write_text(json.dumps(lock), encoding="utf-8")


def forget_processor(run):
    lock = lock_of(run)
    lock["hardware"] = {k: v for k, v in lock["hardware"].items() if k not in ("processor", "instructions")}
    (run / "run.lock").write_text(json.dumps(lock), encoding="utf-8")


@pytest.mark.skipif("default" not in processors.SETTINGS or HERE == "default", reason="there is no lesser processor")
def test_on_a_lesser_processor_it_is_said_what_differs(tiny_llama, rows, tmp_path):
    whole = trainer(tiny_llama, tmp_path / "whole").train(rows, steps=4, watch=quiet)
    run = begun(tiny_llama, rows, tmp_path / "cut")
    assert lock_of(run)["hardware"]["instructions"] == HERE and lock_of(run)["hardware"]["processor"]
    command = [sys.executable, "-c", ELSEWHERE, *map(str, (tiny_llama, rows, tmp_path / "cut", whole.folder))]
    ended = subprocess.run(
        command, input=json.dumps(SETTINGS), env=processors.environment("default"), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.partition("TOLD")[2])

    assert told["probe"]["instructions"] == "default" and told["probe"]["dtype"] == "float32"
    assert told["auto"] == {"dtype": "float32", "remarks": told["float32"]["remarks"], "slowdown": None}
    emulated = told["bfloat16"]
    assert emulated["slowdown"] > 1.5 and any("bfloat16 by emulation" in remark for remark in emulated["remarks"])

    difference = f"instructions was {HERE}, is default"
    assert [message for message in told["resume"] if message.startswith(difference) and "last bits" in message]
    assert difference in told["replay"]
    result = [message for message in told["replay"] if "not those of run" in message]
    assert result and difference in result[0]


def test_a_run_that_moved_to_another_processor_names_both(tiny_llama, rows, tmp_path):
    run = begun(tiny_llama, rows, tmp_path)
    name = lock_of(run)["hardware"]["processor"]
    set_hardware(run, processor="Am486")
    events = []
    trainer(tiny_llama, tmp_path).train(rows, steps=4, resume=True, watch=events.append)
    told = [event.message for event in events if isinstance(event, Warned)]
    assert [message for message in told if message.startswith(f"processor was Am486, is {name}: ")]


def test_a_replay_compares_what_came_of_it(tiny_llama, rows, tmp_path):
    run = trainer(tiny_llama, tmp_path).train(rows, steps=2, watch=quiet)
    told = []
    replay(str(run.folder), {"output": str(tmp_path / "same")}, told.append)
    assert told == []
    record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert list(record["weights"]) == ["adapter_model.safetensors"]
    record["weights"] = {"adapter_model.safetensors": "0" * 64}
    (run.folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    replay(str(run.folder), {"output": str(tmp_path / "other")}, told.append)
    assert len(told) == 1 and run.id in told[0] and "Versions and hardware are the same" in told[0]
    replay(str(run.folder), {"output": str(tmp_path / "seed"), "seed": 7}, told.append)
    assert len(told) == 1, "another seed is meant to end otherwise"


def test_a_record_of_an_earlier_version_has_no_processor(tiny_llama, rows, tmp_path):
    run = trainer(tiny_llama, tmp_path).train(rows, steps=1, watch=quiet)
    forget_processor(run.folder)
    told = []
    replay(str(run.folder), {"output": str(tmp_path / "again")}, told.append)
    assert f"instructions was not known, is {HERE}" in told


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("setting", processors.SETTINGS)
def test_quickstart_is_proven(setting, tmp_path):
    words = ["quickstart", "--output", str(tmp_path / "output")]
    ended = processors.backprop(words, setting, tmp_path / "home", capture_output=True)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0, ended.stderr
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "output").glob("*.parity.json")]
    assert [report["proven"] for report in reports] == [True]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("setting", processors.SETTINGS)
def test_exports_are_right(setting):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *EXPORT_TESTS]
    ended = subprocess.run(
        command, env=processors.environment(setting), cwd=processors.ROOT, capture_output=True, text=True
    )
    print(ended.stdout[-3000:], ended.stderr[-3000:])
    assert ended.returncode == 0
