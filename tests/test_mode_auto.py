"""Mode auto from end to end: decided once a run, written down as what it became, refused before a download."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backpropagate import Trainer
from backpropagate.models import locate
from backpropagate.multi_run.session import _in_the_mode_begun
from backpropagate.training.planning import device_info
from backpropagate.training.prepare import TrainingSetup, prepared_job, run_settings
from backpropagate.training.run import TrainingRequest
from bp_core.config import TrainConfig
from bp_core.errors import DoesNotFit, PackageMissing
from bp_core.null_rail import NullRail
from bp_core.rail import Probe
from bp_plan.defaults import for_machine
from bp_plan.memory import GIB
from bp_plan.presets import PRESETS
from bp_runs import run_folder
from bp_runs.lock_file import Lock
from bp_runs.run_folder import RunFolder

CARD = Probe(True, "card", total=16 * GIB, free=15 * GIB, dtype="bfloat16")


def quiet(event):
    return None


@pytest.fixture
def begun(tmp_path):
    """The folder of a run that mode auto made a qlora run."""
    path = tmp_path / "runs" / "20260101-000000-abcd"
    path.mkdir(parents=True)
    run = RunFolder(path)
    run.write(
        id=run.id, status="failed", data="rows.jsonl", base="", settings={"mode": "auto", "rank": 8},
        recipe={"mode": "qlora", "steps": 4},
    )  # fmt: skip
    return run


@pytest.mark.parametrize("given", [{}, {"mode": "auto"}], ids=str)
def test_a_resumed_run_keeps_the_mode_it_was_trained_with(begun, given):
    assert run_folder.settings_of(begun)[0]["mode"] == "qlora"
    settings = run_settings(begun, given, "output")
    assert settings.mode == "qlora" and settings.rank == 8
    assert run_settings(begun, {"mode": "lora"}, "output").mode == "lora"  # is then refused, as a change


def test_a_session_goes_on_in_its_mode(tmp_path):
    folder = tmp_path / "multi-run"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"settings": {"mode": "qlora"}}))
    config = TrainConfig(output=str(tmp_path))
    assert _in_the_mode_begun(config).mode == "qlora"
    assert _in_the_mode_begun(replace(config, mode="lora")).mode == "lora"
    assert _in_the_mode_begun(TrainConfig(output=str(tmp_path / "other"))).mode == "auto"


def test_record_and_lock_say_what_auto_became(tiny_llama, rows, tmp_path):
    trainer = Trainer(str(tiny_llama), output=str(tmp_path / "out"), backend="cpu", dtype="float32", rank=4)
    run = trainer.train(rows, steps=1, watch=quiet)
    trainer.close()
    lock = Lock.read(run.folder)
    assert run.recipe.mode == "lora" and lock.settings["mode"] == "lora" == lock.recipe["mode"]
    assert run.recipe.why["mode"] == "auto: lora, on backend cpu the default"
    assert json.loads((run.adapter / "run.json").read_text())["mode"] == "lora"


class WithoutPackages(NullRail):
    """A rail on a machine without bitsandbytes."""

    def check(self, settings):
        if settings.mode == "qlora":
            raise PackageMissing("mode qlora needs bitsandbytes.")


def test_what_is_not_installed_is_not_taken():
    lacking = device_info(TrainConfig(), "cuda", WithoutPackages(), CARD)
    assert lacking.lacks == {"qlora": "needs bitsandbytes"}
    assert device_info(TrainConfig(), "cuda", NullRail(), CARD).lacks == {}
    assert device_info(TrainConfig(init="pissa"), "cuda", WithoutPackages(), CARD).lacks == {}


@pytest.fixture
def hub(tiny_llama, tmp_path, monkeypatch):
    """A hub whose models have their config.json and tokenizer here, but no weights; the downloads it was asked for."""
    asked = []

    def download(hub_id, notify, weights=True):
        asked.append((hub_id, weights))
        folder = tmp_path / f"models--{hub_id.replace('/', '--')}" / "snapshots" / "abc"
        folder.mkdir(parents=True, exist_ok=True)
        preset = locate.of_hub_id(hub_id)
        (folder / "config.json").write_text(json.dumps(dict(preset.config)))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(Path(tiny_llama) / name, folder / name)
        return folder

    monkeypatch.setattr(locate, "_download", download)
    return asked


def on_card(model, rows, gib, resume=False):
    probe = replace(CARD, total=gib * GIB, free=gib * GIB)
    config = TrainConfig(model=model)
    machine = for_machine(config, device_info(config, "cuda", NullRail(), probe))
    return TrainingSetup(TrainingRequest(rows, config, resume), NullRail(), probe, machine)


def test_what_cannot_fit_is_refused_before_its_weights_are_fetched(hub, rows):
    setup = on_card("qwen2.5-32b", rows, 14)
    with pytest.raises(DoesNotFit, match=r"14\.0 GiB are free") as caught:
        prepared_job(setup, quiet)
    assert "--model qwen2.5-14b" in caught.value.fix
    assert hub == [(PRESETS["qwen2.5-32b"].hub_id, False)]
    plan = prepared_job(setup, quiet, weights=False).plan
    assert any("training would be refused" in remark for remark in plan.remarks) and plan.preflight.fits is False


def test_what_fits_is_fetched_once_it_is_planned(hub, rows, monkeypatch):
    setup = on_card("qwen2.5-14b", rows, 16)
    seen = []
    monkeypatch.setattr("backpropagate.training.prepare.refuse_misfits", lambda *given, **named: seen.append(given))
    plan = prepared_job(setup, quiet).plan
    assert plan.recipe.mode == "qlora" and [weights for _, weights in hub] == [False, True] and len(seen) == 1
    assert "4 bits need" in plan.recipe.why["mode"]
