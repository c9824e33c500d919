"""What happens to people every day: the wrong file, too few rows, a word of another trainer, a stop and a go."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

from backpropagate import Trainer
from backpropagate.models import locate
from bp_core.errors import BadValue, HubUnreachable, ModelGated, ModelNotFound, NotReplayable, ResumeMismatch
from bp_core.events import Evaluated, Stepped, Warned


class Cut(Exception):
    pass


def cut_at(step):
    def watch(event):
        if isinstance(event, Stepped) and event.step == step:
            raise Cut

    return watch


def quiet(event):
    return None


@pytest.fixture
def settings(tiny_llama, tmp_path):
    return dict(model=tiny_llama, output=tmp_path / "out", backend="null", report_to="none", checkpoint_every=1)


def begun(settings, rows, **more):
    with pytest.raises(Cut):
        Trainer(**settings, batch_size=2).train(rows, watch=cut_at(3), **more)
    (run,) = (settings["output"] / "runs").iterdir()
    return run.name


def options(settings):
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


# Resume


def test_resume_takes_the_settings_of_the_run_where_none_are_given(settings, rows):
    id = begun(settings, rows, steps=6)
    run = Trainer(output=settings["output"]).train(rows, resume=True, watch=quiet)
    assert run.id == id and len(run.losses) == 6 and run.recipe.batch_size == 2


def test_on_the_command_line_too(settings, rows, backprop):
    id = begun(settings, rows, steps=6)
    code, out, err = backprop("train", "--data", rows, "--output", settings["output"], "--resume", "--json")
    assert code == 0, err
    assert json.loads(out)["id"] == id and len(json.loads(out)["losses"]) == 6


def test_resume_alone_knows_the_data(settings, rows, backprop):
    begun(settings, rows, steps=6)
    code, out, err = backprop("train", "--output", settings["output"], "--resume", "--json")
    assert code == 0 and len(json.loads(out)["losses"]) == 6, err
    code, _, err = backprop("train", "--output", settings["output"])
    assert code == 1 and "no data is given (--data)" in err and "--data my_data.jsonl" in err


def test_a_setting_that_is_given_and_differs_is_refused_by_name(settings, rows):
    id = begun(settings, rows, steps=6)
    with pytest.raises(ResumeMismatch, match="batch_size was 2, is 4") as caught:
        Trainer(output=settings["output"], batch_size=4).train(rows, resume=True, watch=quiet)
    assert f"backprop resume {id}" in caught.value.fix


def test_multi_run_resume_alone_goes_on(settings, rows, tmp_path, backprop, monkeypatch):
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("Question", "Riddle"))
    stages = ["--data", rows, "--data", other]
    shared = options({**settings, "backend": "cpu", "steps": 1, "held_out": 0.3, "rank": 4})
    code, _, err = backprop("multi-run", *stages, *shared)
    assert code == 0, err
    code, out, err = backprop("multi-run", "--output", settings["output"], "--resume")
    assert code == 0 and "multi-run" in out, err
    code, _, err = backprop("multi-run", "--output", settings["output"], "--resume", *stages)
    assert code == 0, err
    code, _, err = backprop("multi-run", "--output", settings["output"], "--resume", "--data", other)
    assert code == 1 and "data" in err


def test_start_is_an_option(settings, rows, backprop, tmp_path):
    code, _, err = backprop("train", "--data", rows, *options(settings), "--start", tmp_path / "nothing-here")
    assert code == 1 and "INPUT_TARGET_NOT_FOUND" in err


def test_a_run_whose_folder_is_gone_is_called_so(settings, rows, backprop):
    run = Trainer(**settings).train(rows, steps=2, watch=quiet)
    shutil.rmtree(run.folder)
    code, _, err = backprop("replay", run.id)
    assert code == 1 and NotReplayable.code in err and "folder is gone" in err and "save the rows" not in err.lower()


# What must be known before


def remarks(settings, rows, **more):
    return " ".join(Trainer(**settings, **more).plan(rows, notify=quiet).remarks)


def test_an_evaluation_on_training_rows_is_told(settings, rows, tmp_path):
    assert "all rows of eval_data (12) are trained on" in remarks(settings, rows, eval_data=rows)
    half = tmp_path / "half.jsonl"
    half.write_text(
        "".join(rows.read_text().splitlines(keepends=True)[:3]) + json.dumps({"prompt": "a?", "completion": "b"})
    )
    assert "of 4 rows of eval_data 3 are trained on" in remarks(settings, rows, eval_data=half)


def test_eval_on_training_rows_is_told(settings, rows, backprop):
    Trainer(**settings | {"backend": "cpu"}).train(rows, steps=1, watch=quiet)
    code, out, err = backprop("eval", settings["output"], "--data", rows, "--backend", "cpu", "--answers", 0, "--json")
    assert code == 0, err
    assert "it was trained on all of these rows (12)" in json.loads(out)["notes"][0]


def test_a_few_rows_are_not_called_better_or_worse(settings, rows, backprop):
    Trainer(**settings | {"backend": "cpu"}, held_out=0.1).train(rows, steps=1, watch=quiet)
    code, out, err = backprop("eval", settings["output"], "--backend", "cpu", "--answers", 0, "--against", "base")
    assert code == 0 and "too few rows" in out.replace("\n", " "), out + err


def test_a_batch_larger_than_the_data_is_clamped_and_told(settings, rows):
    plan = Trainer(**settings, batch_size=64).plan(rows, notify=quiet)
    assert plan.recipe.batch_size == 12 and "all 12 examples; 64 were set" in plan.recipe.why["batch_size"]
    assert "batch_size is 64, but there are 12 rows" in " ".join(plan.remarks)
    assert "steps teach little" in " ".join(plan.remarks)


def test_rows_longer_than_the_model_are_told(settings, rows):
    assert "max_length is 100000, but the model was made for 512 tokens" in remarks(settings, rows, max_length=100_000)
    assert "made for" not in remarks(settings, rows, max_length=512)


def test_a_model_without_a_chat_template_is_told(settings, rows, tiny_llama, tmp_path):
    assert "no chat template" not in remarks(settings, rows)
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llama, bare)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    for file in bare.glob("chat_template*"):
        file.unlink()
    assert "no chat template: conversations are written in ChatML" in remarks(settings | {"model": bare}, rows)


def test_a_learning_rate_far_above_the_usual_is_told(settings, rows):
    assert "times the usual" in remarks(settings, rows, learning_rate=10.0)


def test_rows_without_traces_are_called_so(settings, rows, backprop):
    code, _, err = backprop("train", "--data", rows, *options(settings), "--reasoning-trace", "--dry-run")
    assert code == 1 and "none of the 12 rows has a reasoning trace" in err and "max_length" not in err


def test_a_result_worse_than_the_base_is_told(settings, rows):
    seen = []
    good = Trainer(**settings | {"backend": "cpu"}, learning_rate=1e-2, rank=4).train(rows, steps=12, watch=quiet)
    trainer = Trainer(**settings | {"backend": "cpu"}, learning_rate=10.0, rank=4, held_out=0.3)
    run = trainer.train(rows, steps=3, watch=seen.append, start=good.adapter)
    (first, *_) = [event for event in seen if isinstance(event, Evaluated)]
    assert first.step == 0 and run.base_loss == pytest.approx(first.loss)
    assert any("worse than the model before training" in e.message for e in seen if isinstance(e, Warned))
    page = (run.folder / "report.html").read_text()
    assert "The result is worse than the model before training" in page


def test_a_training_loss_that_rises_is_told_without_evaluation(settings, rows):
    seen = []
    settings |= {"backend": "cpu", "rank": 4}
    good = Trainer(**settings, learning_rate=1e-2).train(rows, steps=12, watch=quiet)
    Trainer(**settings, learning_rate=10.0, warmup_ratio=0.0).train(
        rows, steps=3, watch=seen.append, start=good.adapter
    )
    assert any("the training loss rose" in event.message for event in seen if isinstance(event, Warned))


# The Python door


def test_no_data_is_a_plain_error():
    with pytest.raises(BadValue, match="no data is given"):
        Trainer().train(None)


def test_variables_mean_the_same_in_python(settings, rows, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_TRAIN_RANK", "4")
    plan = Trainer(**settings).plan(rows, notify=quiet)
    assert plan.recipe.rank == 4 and plan.recipe.why["rank"] == "from BACKPROPAGATE_TRAIN_RANK"
    assert Trainer(**settings, rank=8).config.rank == 8
    monkeypatch.setenv("BACKPROPAGATE_TRAIN_STEPS", "many")
    with pytest.raises(BadValue, match="BACKPROPAGATE_TRAIN_STEPS"):
        Trainer()


def test_planning_with_somebody_watching_prints_nothing(settings, rows, capsys):
    Trainer(**settings).plan(rows, notify=quiet)
    assert capsys.readouterr() == ("", "")


# The command line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train", "--lr", "1"), "use `--learning-rate`"),
        (("train", "--lora-alpha", "1"), "use `--alpha`"),
        (("export", "x", "--quant", "1"), "Did you mean --quantization?"),
    ],
)
def test_options_of_other_trainers_lead_to_ours(backprop, words, told):
    code, _, err = backprop(*words)
    assert code == 1 and told in err and f"`backprop {words[0]} --help`" in err


@pytest.mark.parametrize("command", ["export", "eval", "diff-runs", "data check"])
def test_a_usage_error_points_to_the_help_of_its_command(backprop, command):
    code, _, err = backprop(*command.split(), "--nonsense")
    assert code == 1 and f"`backprop {command} --help`" in err


@pytest.mark.parametrize("value", ["many", "0"])
def test_a_bad_variable_is_blamed_and_not_the_option(backprop, monkeypatch, rows, value):
    monkeypatch.setenv("BACKPROPAGATE_TRAIN_STEPS", value)
    code, _, err = backprop("train", "--data", rows)
    assert code == 1 and "environment variable BACKPROPAGATE_TRAIN_STEPS is" in err and "'--steps'" not in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_full_disk_behind_stdout_is_told(home):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "backpropagate", "errors"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and "STATE_DISK_FULL" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii"])
def test_output_can_be_written_in_any_encoding(settings, rows, encoding):
    words = ["train", "--data", str(rows), *options(settings), "--steps", "2"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-m", "backpropagate", *words], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode(encoding, "replace")
    loss = next(line for line in done.stdout.decode(encoding).splitlines() if line.startswith("loss"))
    assert ("->" in loss or "\N{RIGHTWARDS ARROW}" in loss) and b"Traceback" not in done.stderr


def test_paths_and_commands_are_never_cut(settings, rows, tmp_path, backprop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output = tmp_path / ("a-long-name-of-a-folder-" * 5) / "out"
    code, out, err = backprop("train", "--data", rows, *options(settings | {"output": output}), "--steps", "2")
    assert code == 0, err
    assert str(output / "lora") in out and f"export {output / 'lora'}" in out
    (run,) = (output / "runs").iterdir()
    assert str(run / "report.html") in out


def test_a_difference_is_shown_whole(settings, rows, backprop, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    names = [tmp_path / f"{'very-' * 20}long-{end}.jsonl" for end in ("one", "two")]
    runs = []
    for name in names:
        shutil.copyfile(rows, name)
        runs.append(Trainer(**settings).train(name, steps=1, watch=quiet).id)
    _, out, _ = backprop("diff-runs", *runs)
    assert all(str(name) in out for name in names)


# Models


class Hub(BaseHTTPRequestHandler):
    """A hub that has only a gated repository."""

    def do_GET(self):
        gated = "gated" in self.path
        body = b'{"error": "no"}'
        self.send_response({True: 403, False: 401}[gated and "Authorization" in self.headers])
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("token", [None, "hf_" + "t" * 34])
def test_a_gated_model_is_called_so(hub, monkeypatch, token):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelGated) as caught:
        locate.locate("somebody/gated-model", quiet)
    assert "somebody/gated-model" in caught.value.fix and "hf auth login" in caught.value.fix


def test_a_mistyped_folder_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "model").mkdir(parents=True)
    with pytest.raises(ModelNotFound, match=r"there is no folder data/modle here \(did you mean data/model\?\)"):
        locate.locate("data/modle", quiet)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_the_embedded_model_is_there_by_its_hub_id_offline(offline, smollm2):
    assert locate.locate("HuggingFaceTB/SmolLM2-135M-Instruct", quiet) == smollm2


def test_a_preset_is_estimated_by_its_hub_id_offline(offline, backprop):
    code, out, err = backprop("estimate-vram", "Qwen/Qwen2.5-7B-Instruct", "--memory", "24")
    assert code == 0 and "Retrying" not in err and "7B" in out, err


def test_a_model_too_large_for_mode_full_is_refused_before_it_is_fetched(offline, rows, backprop, tmp_path):
    words = ("train", "--data", rows, "--model", "Qwen/Qwen2.5-7B-Instruct", "--mode", "full", "--output", tmp_path)
    code, _, err = backprop(*words)
    assert code == 2 and "RUNTIME_FULL_FT_MODEL_TOO_LARGE" in err


def test_what_is_neither_here_nor_to_be_had_says_both(offline):
    with pytest.raises(HubUnreachable, match="there is no folder no/where here"):
        locate.locate("no/where", quiet)


def test_a_tokenizer_that_does_not_belong_is_called_so(settings, rows, tiny_llama, tmp_path, backprop):
    small = tmp_path / "small"
    shutil.copytree(tiny_llama, small)
    config = json.loads((small / "config.json").read_text()) | {"vocab_size": 1000}
    (small / "config.json").write_text(json.dumps(config))
    code, _, err = backprop("train", "--data", rows, *options(settings | {"model": small}), "--dry-run")
    assert code == 1 and "INPUT_MODEL_UNUSABLE" in err and "embeddings for 1000 only" in err
