"""Pushing what a run left: the files, the card, and that nothing private is among them."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from push_hub import READER, TOKEN, connected

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.hub.files import parcel
from bp_export.config import PushConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]
GGUF = "tiny-llama-f16.gguf"


@pytest.fixture(scope="module")
def output(tiny_llama, tmp_path_factory):
    """A run with its adapter, a proven GGUF and a merged folder."""
    folder = tmp_path_factory.mktemp("private-place")
    rows = folder / "customers.jsonl"
    secret = f"hf_{'s' * 34}"
    lines = [json.dumps({"prompt": f"Question {n}?", "completion": f"It is {n * 7}. {secret}"}) for n in range(2)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    trainer = Trainer(
        str(tiny_llama), output=str(folder / "out"), backend="cpu", report_to="none", rank=4, max_length=64
    )
    trainer.train(rows, steps=3, watch=lambda event: None)
    trainer.export(quantization="f16", notify=lambda progress: None)
    trainer.export("merged", notify=lambda progress: None)
    trainer.close()
    return folder / "out"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected(monkeypatch, tmp_path) as server:
        yield server


def push(*words):
    return exit_code_of(app, ["push", *map(str, words)])


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def text_of(hub, repo, name="README.md"):
    return hub.content(repo, name).decode()


def test_an_adapter_with_its_card(hub, output, capsys, tmp_path, monkeypatch, tiny_llama):
    assert push(output, "--repo", "me/bakery", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["url"] == f"{hub.url}/me/bakery" and set(told["files"]) == set(hub.repos["me/bakery"])
    assert set(told["files"]) == {
        "README.md", "loss.svg", "adapter_config.json", "adapter_model.safetensors", "contract.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    card = text_of(hub, "me/bakery")
    assert front_matter(card) == {
        "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["backpropagate", "lora", "sft"],
    }  # fmt: skip  # a base that the hub does not have is not named there
    (lock,) = output.glob("runs/*/run.lock")
    for fact in (
        json.loads(lock.read_text())["hashes"]["data"],
        "prompt (2 rows)",
        "| rank | 4 |",
        "Question",
        "steps | 3",
    ):
        assert fact in card.replace("\\", "")
    assert "![Loss by step](loss.svg)" in card and text_of(hub, "me/bakery", "loss.svg").startswith("<svg")
    assert_the_card_runs(hub, "me/bakery", card, tmp_path, monkeypatch, tiny_llama, capsys)


def assert_the_card_runs(hub, repo, card, folder, monkeypatch, base, capsys):
    """Download, and do what the card says."""
    for name in hub.repos[repo]:
        (folder / repo / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / repo / name).write_bytes(hub.content(repo, name))
    (folder / base.name).symlink_to(base)  # which the card cannot know
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.M | re.S)
    capsys.readouterr()
    exec(code.replace("max_new_tokens=200", "max_new_tokens=4"), {})
    assert capsys.readouterr().out


def test_nothing_private_leaves(hub, output):
    (output / "lora" / "notes.txt").write_text("mine")
    assert push(output, "--repo", "me/bakery", "--gguf") == 0
    assert push(output / "tiny-llama-merged", "--repo", "me/bakery") == 0
    (output / "lora" / "notes.txt").unlink()
    (run,) = output.glob("runs/*")
    for name in hub.repos["me/bakery"]:
        content = hub.content("me/bakery", name)
        for private in (
            str(output),
            str(Path.home()) + "/",
            "private-place",
            "customers.jsonl",
            "hf_sss",
            run.name,
            TOKEN,
        ):
            assert private.encode() not in content, (name, private)
        for row in range(2):
            assert f"It is {row * 7}. hf".encode() not in content, name
    assert not {"notes.txt", "run.json", "manifest.json", "events.jsonl", "samples.json"} & set(hub.repos["me/bakery"])


def test_samples_can_be_left_out(output, capsys):
    assert push(output, "--repo", "me/bakery", "--no-samples", "--dry-run") == 0
    assert "Question" not in capsys.readouterr().out


def test_a_gguf_with_its_proof(hub, output):
    assert push(output / GGUF, "--repo", "me/bakery") == 0
    assert set(hub.repos["me/bakery"]) == {"README.md", "loss.svg", GGUF, GGUF.replace(".gguf", ".parity.json")}
    card = text_of(hub, "me/bakery")
    assert front_matter(card)["library_name"] == "gguf" and "gguf" in front_matter(card)["tags"]
    assert f"ollama run hf.co/me/bakery:{GGUF}" in card and f"llama-cli -hf me/bakery -hff {GGUF}" in card
    parity = json.loads((output / GGUF.replace(".gguf", ".parity.json")).read_text())
    assert parity["sha256"] in card and all(
        f"| {check['name']} |" in card.replace("\\", "") for check in parity["checks"]
    )


def test_a_proof_of_another_file_is_not_shown(output, tmp_path, capsys):
    (tmp_path / GGUF).write_bytes((output / GGUF).read_bytes() + bytes(32))
    proof = GGUF.replace(".gguf", ".parity.json")
    (tmp_path / proof).write_bytes((output / proof).read_bytes())
    assert push(tmp_path / GGUF, "--repo", "me/bakery", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert proof not in told["files"] and "There is no proof of this file" in told["card"]


def test_an_adapter_and_its_gguf_together(hub, output):
    assert push(output, "--repo", "me/bakery", "--gguf") == 0
    assert {"adapter_model.safetensors", GGUF} <= set(hub.repos["me/bakery"])
    assert "AutoPeftModelForCausalLM" in text_of(hub, "me/bakery") and "ollama run" in text_of(hub, "me/bakery")


def test_the_base_gives_its_name_and_its_licence(output, tmp_path, capsys):
    for base, licence in {
        "HuggingFaceTB/SmolLM2-135M-Instruct": {"license": "apache-2.0"},
        "meta-llama/Llama-3.2-1B-Instruct": {"license": "llama3.2"},
        "Qwen/Qwen2.5-3B-Instruct": {"license": "other", "license_name": "qwen-research"},
        "somebody/unheard-of": {},
    }.items():
        assert push(output, "--repo", "me/bakery", "--base", base, "--dry-run", "--json") == 0
        found = front_matter(json.loads(capsys.readouterr().out)["card"])
        assert found["base_model"] == base and found["base_model_relation"] == "adapter"
        assert {name: value for name, value in found.items() if name.startswith("license")} == licence


def test_the_page_of_the_base_has_the_first_word_on_its_licence(output, tiny_llama, capsys):
    page = tiny_llama / "README.md"
    page.write_text("---\nlicense: other\nlicense_name: ours\nlicense_link: https://example.org\n---\n")
    try:
        assert push(output, "--repo", "me/bakery", "--dry-run", "--json") == 0
    finally:
        page.unlink()
    found = front_matter(json.loads(capsys.readouterr().out)["card"])
    assert (found["license"], found["license_name"], found["license_link"]) == ("other", "ours", "https://example.org")


def test_a_dry_run_needs_no_token_and_sends_nothing(hub, output, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert push(output, "--repo", "me/bakery", "--dry-run", "--private") == 0
    shown = capsys.readouterr().out
    assert "adapter_model.safetensors" in shown and "# bakery" in shown and "private" in shown
    assert hub.repos == {}
    assert push(output, "--repo", "me/bakery") == 1
    assert "INPUT_HUB_TOKEN_MISSING" in capsys.readouterr().err


def test_a_second_push_replaces_its_files_and_no_others(hub, output):
    assert push(output, "--repo", "me/bakery") == 0
    hub.repos["me/bakery"]["photo.png"] = b"theirs"
    sent = list(hub.sent)
    assert push(output, "--repo", "me/bakery", "--no-samples") == 0
    assert hub.commits[1] == ["README.md"] and hub.sent == sent
    assert "photo.png" in hub.repos["me/bakery"] and "Question" not in text_of(hub, "me/bakery")


def test_a_refused_token_is_not_shown(hub, output, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", READER)
    assert push(output, "--repo", "me/bakery") == 1
    said = capsys.readouterr()
    assert "INPUT_HUB_TOKEN_REFUSED" in said.err and READER not in said.err + said.out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--repo", "bakery"], "has no owner"),
        (["--repo", "me/bakery", "--gguff"], "--gguf"),
        (["--repo", "me/bakery", "--token", "x"], "gone: set HF_TOKEN"),
    ],
)
def test_what_was_mistyped(output, capsys, words, code):
    assert push(output, *words) == 1
    assert code in capsys.readouterr().err


def test_what_cannot_be_pushed(output, tmp_path, capsys):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_config.json").write_text("{}")
    (tmp_path / "cut.gguf").write_bytes((output / GGUF).read_bytes()[:-1000])
    found = {}
    for name in ("nothing", "x.txt", "half", "cut.gguf", "."):
        assert push(tmp_path / name, "--repo", "me/bakery", "--dry-run") == 1
        found[name] = re.search(r"error (\S+)", capsys.readouterr().err)[1]
    assert found == {
        "nothing": "INPUT_TARGET_NOT_FOUND",
        "x.txt": "CONFIG_VALUE_INVALID",
        "half": "INPUT_ADAPTER_UNUSABLE",
        "cut.gguf": "INPUT_GGUF_UNUSABLE",
        ".": "INPUT_ADAPTER_UNUSABLE",
    }


def test_a_file_knows_its_run_also_in_a_folder_of_its_own(output, tiny_llama):
    (run,) = output.glob("runs/*")
    for place in (output / GGUF, output / "tiny-llama-merged", output / "lora", run):
        found = parcel(place, PushConfig())
        assert found.source.run.id == run.name and found.base.folder == tiny_llama.resolve()


def test_the_python_door(hub, output, tiny_llama):
    done = Trainer(str(tiny_llama), output=str(output)).push("club/bakery", private=True)
    assert done.url == f"{hub.url}/club/bakery" and hub.private == {"club/bakery"}


def test_the_sharing_page(hub, output, tiny_llama, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parent.parent / "docs" / "sharing.md").read_text(encoding="utf-8").replace("YOUR-NAME", "me")
    bash, python = (re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S) for kind in ("bash", "python"))
    (tmp_path / "output").symlink_to(output)
    monkeypatch.chdir(tmp_path)
    for line in bash[0].replace("smollm2-135m-q4_k_m.gguf", GGUF).splitlines():
        assert exit_code_of(app, shlex.split(line, comments=True)[1:]) == 0, capsys.readouterr().err
    exec(python[0].replace('"smollm2-135m"', repr(str(tiny_llama))), {})
    assert capsys.readouterr().out.endswith(f"{hub.url}/me/bakery\n")
    assert hub.private == {"me/bakery"} and set(hub.repos) == {"me/bakery", "me/bakery-gguf"}
    assert len(bash) == len(python) == 1


def test_killed_in_the_middle_and_done_again(hub, output, capsys):
    """The tokenizer has arrived, half of the weights has: nothing shows; the second time only the weights are sent."""
    halfway, arrived = threading.Event(), threading.Event()
    weights = output / "lora" / "adapter_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()

    def hold(oid):
        return oid == digest and not halfway.set()

    hub.hold, hub.arrived = hold, arrived.set
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "-m", "backpropagate", "push", str(output), "--repo", "me/bakery"]
    first = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
    assert halfway.wait(60) and arrived.wait(60)
    first.kill()
    first.communicate()
    tokenizer = hashlib.sha256((output / "lora" / "tokenizer.json").read_bytes()).hexdigest()
    assert hub.repos == {"me/bakery": {}} and hub.sent == [tokenizer]
    hub.hold = None
    assert push(output, "--repo", "me/bakery") == 0
    assert hub.content("me/bakery", weights.name) == weights.read_bytes()
    assert hub.sent == [tokenizer, digest]
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
