"""Nothing leaves the machine unless it was asked for: whole ways through the house, with every connection watched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(1200)  # each starts Python and torch anew, and machines may be busy

ROOT = Path(__file__).parent.parent
# Python tells an audit hook of every connection and every name that is looked up, whoever asks. It runs in every
# process that is started below, because sitecustomize is imported by each.
GUARD = """
import os
import sys

WATCHED = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")


def watch(event, arguments):
    if event not in WATCHED:
        return
    target = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
    host = target[0] if isinstance(target, tuple) else target
    if host is None or str(host) in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "") or str(host).startswith("/"):
        return
    with open(os.environ["GUARD_LOG"], "a") as log:
        log.write(f"{event} {target} {sys.argv}\\n")


sys.addaudithook(watch)
"""


@pytest.fixture
def guarded(tmp_path):
    """Run a Python script with the guard; what it tried to reach."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    log = tmp_path / "reached.txt"

    def run(code):
        left_out = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "BACKPROPAGATE_TRAIN_REPORT_TO")
        variables = {name: value for name, value in os.environ.items() if name not in left_out}
        variables |= {"PYTHONPATH": str(tmp_path / "guard"), "GUARD_LOG": str(log)}
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return log.read_text(encoding="utf-8") if log.exists() else ""

    run.log = log
    return run


def test_the_guard_sees_a_connection_also_in_a_process_that_is_started(guarded):
    reach = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    assert "192.0.2.1" in guarded(reach)
    assert guarded(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {reach!r}])").count("192.0.2.1") == 2


def test_training_exporting_and_asking_reach_nothing(guarded, tiny_llama, rows):
    seen = guarded(f"""
from backpropagate import Trainer
trainer = Trainer({str(tiny_llama)!r}, mode="qlora", held_out=0.2, eval_every=1)
trainer.train({str(rows)!r}, steps=2)
trainer.export("gguf", quantization="q8_0")
trainer.generate("Who are you?", limit=4)
trainer.evaluate({str(rows)!r})
""")
    assert seen == ""


def test_the_command_line_reaches_nothing(guarded, tiny_llama, rows):
    train = ["train", "--data", str(rows), "--model", str(tiny_llama), "--steps", "1"]
    commands = [["info"], ["data", "check", str(rows)], train, ["list-runs"], ["show-run", "output"]]
    code = "from backpropagate.cli.app import app\nfrom backpropagate.cli.exit_codes import exit_code_of\n"
    assert guarded(code + f"print([exit_code_of(app, words) for words in {commands!r}])") == ""


def test_requests_to_the_hub_do_not_describe_the_machine(guarded):
    describe = """
from huggingface_hub.utils import build_hf_headers
assert ("torch/" in build_hf_headers()["user-agent"]) == DESCRIBED, build_hf_headers()
"""
    guarded(
        describe.replace("DESCRIBED", "True")
    )  # what huggingface_hub does by itself, which also asks the hub for a list
    (guarded.log).unlink(missing_ok=True)
    trainer = "from backpropagate import Trainer\nTrainer('smollm2-135m')\n"
    assert guarded("import huggingface_hub\n" + trainer + describe.replace("DESCRIBED", "False")) == ""
