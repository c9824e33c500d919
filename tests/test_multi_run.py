"""`backprop multi-run` and `Trainer.multi_run` on a tiny real model."""

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.multi_run.stage_data import sources
from bp_core.config import TrainConfig
from bp_core.errors import BadValue, Interrupted, NothingToResume
from bp_core.events import Stepped
from bp_core.folders import damage, digest
from bp_multirun import read_adapter, shares

OPTIONS = ("--backend", "cpu", "--rank", "4", "--batch-size", "4", "--max-length", "64", "--dtype", "float32")
OPTIONS += ("--report-to", "none", "--learning-rate", "1e-2")
SETTINGS = dict(
    backend="cpu", rank=4, batch_size=4, max_length=64, dtype="float32", report_to="none", learning_rate=1e-2
)
WORDS = {"jan": "The sum of {} and one is {}.", "feb": "Twice {} is the number {}.", "mar": "From {} follows {}."}


@pytest.fixture
def months(tmp_path):
    """Three small data files."""
    for name, text in WORDS.items():
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"{name} {n}?"},
                    {"role": "assistant", "content": text.format(n, n + 1)},
                ]
            }
            for n in range(12)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.fixture
def backprop(capsys, monkeypatch, months):
    monkeypatch.chdir(months)

    def run(*words):
        code = exit_code_of(app, [str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def session(backprop, tiny_llama):
    def run(*words, steps=2):
        return backprop("multi-run", "--model", tiny_llama, "--steps", steps, "--json", *OPTIONS, *words)

    return run


def data(*names):
    return [word for name in names for word in ("--data", f"{name}.jsonl")]


def quiet(event):
    return None


def runs_of(output):
    return sorted(path.name for path in output.glob("multi-run/stage-*/runs/*"))


def test_a_month_later_the_same_command_with_one_more_file_goes_on(session, backprop, months, tiny_llama):
    code, out, _ = session(*data("jan"))
    assert code == 0
    first, before = json.loads(out), runs_of(months / "output")
    (months / "output" / "keep.txt").write_text("mine")
    code, out, _ = session(*data("jan", "feb"))
    assert code == 0
    found = json.loads(out)
    assert [stage["name"] for stage in found["stages"]] == ["jan.jsonl", "feb.jsonl"]
    assert [stage["share"] for stage in found["stages"]] == pytest.approx(shares(2, "inverse-sqrt"))
    assert runs_of(months / "output")[:1] == before and len(runs_of(months / "output")) == 2, "nothing trained twice"
    assert found["losses"][0][:1] == first["losses"][0] and found["losses"][1][0] is None
    assert all(stage["merged_loss"] < stage["base_loss"] for stage in found["stages"])
    output = months / "output"
    assert sorted(path.name for path in output.iterdir()) == ["keep.txt", "lora", "multi-run"], "nothing else remains"
    assert (output / "multi-run" / "report.html").is_file() and (output / "multi-run" / "forgetting.svg").is_file()
    check_the_result(output, tiny_llama)
    check_that_it_is_used(backprop, found)


def check_the_result(output, base):
    """`lora` is what was merged, and PEFT computes with it what the factors say."""
    alone = [read_adapter(output / f"multi-run/stage-000{n}/lora").factors for n in (1, 2)]
    merged = read_adapter(output / "lora").factors
    for name, pair in merged.items():
        b = sum(weight * one[name].b for weight, one in zip(shares(2, "inverse-sqrt"), alone, strict=True))
        assert np.array_equal(pair.a, alone[-1][name].a) and np.allclose(pair.b, b, atol=1e-6)
    assert damage(output / "lora") is None
    plain, adapted = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32) for _ in range(2))
    adapted = PeftModel.from_pretrained(adapted, output / "lora")
    tokens = torch.tensor([[1, 5, 9, 14, 200]])
    with torch.no_grad():
        before = plain(tokens).logits
        for name, pair in merged.items():
            plain.get_submodule(name).weight += 2.0 * torch.from_numpy(pair.b @ pair.a)  # alpha / rank = 8 / 4
        after, peft = plain(tokens).logits, adapted(tokens).logits
    assert torch.allclose(after, peft, atol=1e-4) and not torch.allclose(before, peft, atol=1e-2)


def check_that_it_is_used(backprop, found):
    """Evaluation takes the rows held out of all stages, and the merged adapter."""
    code, out, _ = backprop("eval", "output", "--answers", "0", "--backend", "cpu", "--dtype", "float32", "--json")
    measured = json.loads(out)
    assert code == 0 and measured["source"] == "held out of 2 stages" and measured["rows"] == 2
    last = [line[-1] for line in found["losses"]]
    assert min(last) <= measured["measures"]["loss"]["estimate"] <= max(last)


@pytest.mark.slow
def test_an_adapter_of_another_run_is_moved_and_an_export_is_proven(session, backprop, months, tiny_llama):
    Trainer(str(tiny_llama), output=str(months / "output"), **SETTINGS).train(
        months / "jan.jsonl", steps=1, watch=quiet
    )
    mine = digest(months / "output/lora/adapter_model.safetensors")
    code, _, _ = session(*data("jan", "feb"), steps=1)
    assert code == 0
    (run,) = (months / "output/runs").iterdir()
    assert digest(run / "lora/adapter_model.safetensors") == mine, "moved to its own run"
    code, out, _ = backprop("export", "output", "--quantization", "q8_0", "--json")
    assert code == 0 and json.loads(out)["parity"]["proven"]


def test_a_data_set_is_cut_into_parts_that_share_no_row(months):
    found, notes = sources([months / "jan.jsonl"], 3, TrainConfig(samples=5))
    assert [source.count for source in found] == [5, 5, 2] and len({source.stage.digest for source in found}) == 3
    rows = [row.value["messages"][0]["content"] for source in found for row in source.rows()]
    assert sorted(rows) == sorted(f"jan {n}?" for n in range(12))
    assert "merging is not expected to help" in notes[0]
    assert notes[1:] == ["jan.jsonl has 12 rows, not 3 × 5: 3 stages, the last with 2 rows."]
    again, _ = sources([months / "jan.jsonl"], 4, TrainConfig(samples=5))
    assert [source.stage for source in again[:3]] == [source.stage for source in found], "more parts keep the first"
    _, notes = sources([months / "jan.jsonl", months / "feb.jsonl"], None, TrainConfig(samples=20))
    assert notes == [f"{name}.jsonl has 12 of the 20 rows asked for." for name in ("jan", "feb")]


@pytest.mark.slow
def test_parts_of_one_data_set_and_fewer_rows_than_asked(session, months):
    code, out, err = session(*data("jan"), "--runs", 3, "--samples", 5, "--held-out", "0.4", steps=1)
    assert code == 0
    found = json.loads(out)
    assert [stage["name"] for stage in found["stages"]] == [f"jan.jsonl, part {n}" for n in (1, 2, 3)]
    assert len(found["notes"]) == 2
    assert "merging is not expected to help" in found["notes"][0]
    assert found["notes"][1] == "jan.jsonl has 12 rows, not 3 × 5: 3 stages, the last with 2 rows."
    assert all(note in err for note in found["notes"])
    lines = [path.read_text() for path in months.glob("output/multi-run/data/*/*.jsonl")]
    rows = [line for text in lines for line in text.splitlines()]
    assert sorted(rows) == sorted(set((months / "jan.jsonl").read_text().splitlines())), "each row in one part"
    code, out, _ = session(*data("jan"), "--runs", 3, "--samples", 5, "--held-out", "0.4", steps=1)
    assert json.loads(out) == found, "done already"


IMPOSSIBLE = {
    "mode full does not go": ("--mode", "full"),
    "dora does not go": ("--dora",),
    "init pissa does not go": ("--init", "pissa"),
    "eval_data does not go": ("--eval-data", "jan.jsonl"),
    "init_a is a setting of merge slao": ("--merge", "ties", "--init-a", "keep"),
    "weight is set, but schedule is not constant": ("--weight", "0.3"),
    "density is a setting of merge ties and dare": ("--density", "0.3"),
    "runs cuts one data set, and 2 are given": ("--runs", "3"),
    "standard input can be read only once": ("--data", "-"),
    "replay is 11": ("--replay", "11"),
    "Did you mean 'slao'": ("--merge", "slo"),
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_what_cannot_be_merged_is_refused_before_anything_is_written(said, backprop, months, tiny_llama):
    words = IMPOSSIBLE[said]
    code, _, err = backprop("multi-run", "--model", tiny_llama, *data("jan", "feb"), *words)
    assert code == 1 and said in err, err
    assert not (months / "output").exists()


def test_all_that_does_not_go_is_told_at_once(months, tiny_llama):
    trainer = Trainer(str(tiny_llama), output=str(months / "output"), dora=True, eval_data="x.jsonl", backend="cpu")
    with pytest.raises(BadValue, match=r"dora .* eval_data"):
        trainer.multi_run([months / "jan.jsonl"])


def test_a_fault_in_a_later_file_is_told_by_its_line_before_anything_is_trained(session, months):
    with (months / "feb.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user"}]}\n')
    code, _, err = session(*data("jan", "feb"))
    assert code == 1 and "feb.jsonl:13" in err, err
    assert not (months / "output").exists()


def test_other_data_or_settings_than_before_are_refused_by_name(session, months):
    assert session(*data("jan"), steps=1)[0] == 0
    code, _, err = session(*data("feb"), steps=1)
    assert code == 2 and "stage 1 was trained on jan.jsonl, and feb.jsonl differs from it" in err
    code, _, err = session(*data("jan", "feb"), "--alpha", "4", "--schedule", "inverse", steps=1)
    assert code == 2 and "alpha was 8.0, is 4.0; schedule was 'inverse-sqrt', is 'inverse'" in err
    assert len(runs_of(months / "output")) == 1


@pytest.mark.slow
def test_resume_needs_nothing_else_and_takes_nothing_else(session, backprop, months, tiny_llama):
    class Cut(Exception):
        pass

    def cut(event):
        if isinstance(event, Stepped) and event.step == 1 and "stage-0002" in str(running()):
            raise Cut

    def running():
        return max((months / "output").glob("multi-run/stage-*/runs/*"), default="")

    files = [months / "jan.jsonl", months / "feb.jsonl"]
    trainer = Trainer(str(tiny_llama), output=str(months / "output"), checkpoint_every=1, **SETTINGS)
    with pytest.raises(Cut):
        trainer.multi_run(files, steps_per_run=2, watch=cut)
    whole = Trainer(str(tiny_llama), output=str(months / "whole"), checkpoint_every=1, **SETTINGS)
    whole.multi_run(files, steps_per_run=2, watch=quiet)
    code, _, err = backprop("multi-run", "--resume", "output", "--rank", "4", "--data", "jan.jsonl", "--seed", "1")
    assert code == 1 and "but also set: seed, data" in err, err
    code, _, err = backprop("multi-run", "--resume", running().name, "--json")
    assert code == 0, err
    weights = [(months / name / "lora/adapter_model.safetensors").read_bytes() for name in ("output", "whole")]
    assert weights[0] == weights[1]
    assert backprop("multi-run", "--resume", "whole/lora")[0] == 0
    code, _, err = backprop("multi-run", "--resume", ".")
    assert code == NothingToResume.exit_code and "there is no session" in err


def test_a_stage_that_was_begun_on_other_rows_or_settings_is_told(session, months, tiny_llama):
    class Cut(Exception):
        pass

    def cut(event):
        raise Cut

    trainer = Trainer(str(tiny_llama), output=str(months / "output"), **SETTINGS)
    with pytest.raises(Cut):
        trainer.multi_run([months / "jan.jsonl"], steps_per_run=1, watch=cut)
    code, _, err = session(*data("feb"), steps=1)
    assert code == 2 and "it was jan.jsonl, and feb.jsonl differs" in err and "or remove output" in err
    code, _, err = session(*data("jan"), "--seed", 7, "--samples", 9, "--held-out", "0.5", steps=1)
    assert code == 2 and "rows was 12, is 9; held_out was None, is 0.5; seed was 42, is 7" in err, err
    code, _, err = session(*data("jan"), "--weight-decay", "0.1", steps=1)
    assert code == 2 and "stage 1 was begun otherwise: weight_decay was 0.0, is 0.1" in err and "stage-0001" in err, err


@pytest.mark.slow
def test_a_stage_that_worsens_the_others_is_refused_by_the_gate(session, months):
    code, out, err = session(*data("jan", "feb"), "--gate", "0", "--rate-decay", "1", steps=4)
    found = json.loads(out)
    assert code == 3 and "RUNTIME_GATE_FAILED" in err and "feb.jsonl would raise the loss" in err, err
    assert [stage["accepted"] for stage in found["stages"]] == [True, False]
    kept = (months / "output/lora/adapter_model.safetensors").read_bytes()
    assert kept == (months / "output/multi-run/stage-0001/lora/adapter_model.safetensors").read_bytes()
    code, out, _ = session(*data("jan", "feb"), "--gate", "9", steps=4)
    assert code == 0 and [stage["accepted"] for stage in json.loads(out)["stages"]] == [True, True]
    assert len(runs_of(months / "output")) == 2


@pytest.mark.slow
def test_rows_of_earlier_stages_are_learned_again(session, months):
    code, _, _ = session(*data("jan", "feb", "mar"), "--replay", "0.4", "--rate-decay", "0.5", steps=1)
    assert code == 0
    place = months / "output/multi-run/data/0003"
    own, mixed = ((place / name).read_text().splitlines() for name in ("train.jsonl", "with-replay-0.4.jsonl"))
    again = mixed[len(own) :]
    assert mixed[: len(own)] == own and len(again) == round(0.4 * len(own))
    assert [json.loads(row)["messages"][0]["content"].split()[0] for row in again] == ["jan", "jan", "feb", "feb"]
    records = [json.loads(path.read_text()) for path in sorted(months.glob("output/multi-run/stage-*/runs/*/run.json"))]
    assert [record["recipe"]["learning_rate"] for record in records] == [1e-2, 5e-3, 2.5e-3]
    assert len({record["recipe"]["seed"] for record in records}) == 3


@pytest.mark.slow
def test_pairs_and_rows_from_python(months, tiny_llama):
    pairs = [
        [
            {"prompt": f"{name} {n}?", "chosen": f"{n} it is, sir.", "rejected": f"Never {name} {n} again."}
            for n in range(10)
        ]
        for name in ("one", "two")
    ]
    trainer = Trainer(str(tiny_llama), method="orpo", output=str(months / "out"), **SETTINGS)
    done = trainer.multi_run(pairs, steps_per_run=1, merge="sequential", watch=quiet)
    assert [stage["name"] for stage in done.as_dict()["stages"]] == ["rows 1", "rows 2"]
    assert "better answer likelier" in (done.folder / "report.md").read_text()
    assert all(entry.merged["1"].right for entry in done.record.entries)


def test_ctrl_c_says_how_to_go_on(months, tiny_llama):
    def interrupt(event):
        raise KeyboardInterrupt

    trainer = Trainer(str(tiny_llama), output=str(months / "out"), **SETTINGS)
    with pytest.raises(Interrupted) as caught:
        trainer.multi_run([months / "jan.jsonl"], steps_per_run=1, watch=interrupt)
    assert "multi-run --resume" in caught.value.fix


def test_a_dry_run_writes_nothing(session, backprop, months):
    code, out, _ = session(*data("jan", "feb"), "--dry-run")
    assert code == 0 and [stage["rows"] for stage in json.loads(out)["stages"]] == [12, 12]
    code, out, _ = session("--data", "jan.jsonl", "--runs", "3", "--dry-run")
    told = json.loads(out)
    assert [stage["rows"] for stage in told["stages"]] == [4, 4, 4] and "alike" in told["notes"][0]
    assert told["plans"][0]["data"]["examples"] == 4, "the plan is that of a part"
    code, _, err = session(*data("jan"), "--dora", "--dry-run")
    assert code == 1 and "dora does not go with multi-run" in err
    assert not (months / "output").exists()


KILLS = 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(months, tiny_llama):
    """kill -9 of the whole process at moments spread over a session: while it trains, merges and measures."""
    words = [sys.executable, "-m", "backpropagate", "multi-run", "--model", str(tiny_llama), "--steps", "4"]
    words += ["--checkpoint-every", "1", *OPTIONS, *data("jan", "feb")]

    def start(output):
        return subprocess.Popen([*words, "--output", output], cwd=months, stdout=subprocess.DEVNULL)

    def weights(output):
        return (months / output / "lora/adapter_model.safetensors").read_bytes()

    began = time.monotonic()
    assert start("whole").wait() == 0
    whole = time.monotonic() - began
    killed = 0
    for number in range(KILLS):
        process = start(f"killed-{number}")
        try:
            process.wait(timeout=whole * (number + 1) / (KILLS + 1))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        assert start(f"killed-{number}").wait() == 0
        assert weights(f"killed-{number}") == weights("whole"), f"killed at {number + 1} of {KILLS + 1}"
    assert killed >= KILLS - 1


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlx") is None, reason="there is no MLX for this machine")
def test_stages_on_mlx_merge_as_on_torch(months, tiny_llama):
    """Other random starts, so only what must hold for both: learned, merged by the rule, and read by the other rail."""
    files = [months / "jan.jsonl", months / "feb.jsonl"]
    trainer = Trainer(str(tiny_llama), output=str(months / "mlx"), **SETTINGS | {"backend": "mlx"})
    record = trainer.multi_run(files, steps_per_run=4, watch=quiet).record
    last = record.entries[-1]
    assert all(last.merged[name].loss < record.entries[int(name) - 1].base[name].loss for name in ("1", "2"))
    reader = Trainer(str(tiny_llama), output=str(months / "mlx"), **SETTINGS)
    there = reader.evaluate(months / "mlx/multi-run/data/0002/held-out.jsonl", answers=0, notify=quiet)
    assert there.measures["loss"].estimate == pytest.approx(last.merged["2"].loss, rel=1e-3)
