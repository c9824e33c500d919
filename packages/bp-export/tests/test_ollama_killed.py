"""A real Ollama that is killed at each stage of a registration: `pytest -m ollama`.

BACKPROPAGATE_TEST_OLLAMA names its program, which runs with a port and a folder of models of its own.
"""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from bp_core.errors import OllamaUnreachable
from bp_export.config import ExportConfig
from bp_export.gguf import vocabulary
from bp_export.gguf.convert import Converter
from bp_export.gguf.reader import GgufFile
from bp_export.ollama import Ollama, register
from bp_export.ollama.blob import Blob
from bp_export.weights.merge import open_base

PROGRAM = os.environ.get("BACKPROPAGATE_TEST_OLLAMA")
pytestmark = [
    pytest.mark.ollama,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PROGRAM, reason="BACKPROPAGATE_TEST_OLLAMA names no program of Ollama"),
]
TEMPLATE = Path(__file__).parents[2] / "bp-data" / "tests" / "templates" / "qwen3.jinja"
KEPT, NAME = "kept:latest", "mine"
CONFIG = ExportConfig(ollama_name=NAME)
# What is killed before a request is sent, and what once a step has begun.
REQUESTS = {
    "connect": ("GET", "/api/version"),
    "digest asked": ("HEAD", "/api/blobs/"),
    "show": ("POST", "/api/show"),
    "check": ("POST", "/api/chat"),
    "copy": ("POST", "/api/copy"),
}
STEPS = {"upload": "upload to Ollama", "create": "Ollama: ", "answer": "ask Ollama once"}


class Server:
    """An Ollama of our own, which can be killed and started again."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / "serve.log"
        told = {"OLLAMA_HOST": self.host, "OLLAMA_MODELS": str(folder / "models"), "HOME": str(folder)}
        self.environment = {**os.environ, **told}

    def start(self):
        with self.log.open("ab") as log:
            command = [PROGRAM, "serve"]
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                return httpx.get(f"http://{self.host}/api/version", trust_env=False).raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-2000:])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        """It, and the processes that it started and that outlive it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where the server of this file keeps its models, one of which is the user's."""
    return tmp_path_factory.mktemp("ollama")


@pytest.fixture
def server(models, made, monkeypatch, tmp_path):
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("bp_export.ollama.checks._LIMIT", 8)
    server = Server(models)
    monkeypatch.setenv("OLLAMA_HOST", server.host)
    server.start()
    try:
        with Ollama() as client:
            if not client.has(KEPT):
                blob = Blob(GgufFile(made("kept")), guarded=False)
                client.upload(blob)
                client.create({"model": KEPT, "files": {"m.gguf": blob.digest}})
        yield server
    finally:
        server.end()


@pytest.fixture
def made(tiny_llama, tmp_path):
    """Makes a file of its own for a stage: bytes that the server does not have yet."""

    def make(stage):
        converter = Converter(open_base(tiny_llama), tiny_llama)
        words = vocabulary.read(tiny_llama, converter.vocabulary_size)
        template = TEMPLATE.read_text(encoding="utf-8") + "{# " + stage + " #}"
        converter.write(tmp_path / "m.gguf", dataclasses.replace(words, template=template), "m")
        return tmp_path / "m.gguf"

    return make


@pytest.fixture
def killed_before(server, monkeypatch):
    """Kills the server before a request is sent."""
    answer = Ollama._answer

    def patch(method, start):
        @contextmanager
        def patched(self, asked, path, **request):
            if asked == method and path.startswith(start) and server.process.poll() is None:
                server.kill()
            with answer(self, asked, path, **request) as response:
                yield response

        monkeypatch.setattr(Ollama, "_answer", patched)
        return lambda: monkeypatch.setattr(Ollama, "_answer", answer)

    return patch


def kills(server, stage):
    """A `notify` that kills the server when a step begins."""

    def notify(progress):
        if progress.stage.startswith(stage) and server.process.poll() is None:
            server.kill()

    return notify


def names():
    with Ollama() as client:
        return {str(model["name"]) for model in client.models()}


def assert_whole_and_registered(server, file):
    """After the server is started again nothing is lost, and the command of the error works."""
    server.start()
    assert KEPT in names() and f"{NAME}:latest" not in names()
    done = register(file, CONFIG)
    assert done.seen.rendered
    assert names() == {KEPT, f"{NAME}:latest"}, "no draft is left"
    with Ollama() as client:
        assert not client.loaded()
        client.remove(NAME)


@pytest.mark.parametrize("stage", [*REQUESTS, *STEPS])
def test_a_server_that_dies_at_any_stage_loses_nothing(server, made, killed_before, stage):
    file = made(stage)
    shutil.copyfile(file, file.with_suffix(".copy"))
    restore, notify = (lambda: None), None
    if stage in REQUESTS:
        restore = killed_before(*REQUESTS[stage])
    else:
        notify = kills(server, STEPS[stage])
    with pytest.raises(OllamaUnreachable) as caught:
        register(file, CONFIG, notify=notify)
    assert server.process.poll() == -signal.SIGKILL
    restore()
    assert caught.value.fix.endswith(f"Then: backprop ollama register {file} {NAME}")
    if stage in ("create", "show", "check", "answer", "copy"):
        assert f"backprop ollama rm {NAME}:latest-unchecked" in caught.value.fix
    assert file.read_bytes() == file.with_suffix(".copy").read_bytes()
    assert_whole_and_registered(server, file)


def test_a_server_that_dies_before_the_draft_is_removed_has_the_model_and_says_what_is_left(
    server, made, killed_before
):
    file = made("remove")
    restore = killed_before("DELETE", "/api/delete")
    done = register(file, CONFIG)
    restore()
    assert done.seen.rendered
    assert f"backprop ollama rm {NAME}:latest-unchecked" in done.seen.notes[-1]
    server.start()
    assert names() == {KEPT, f"{NAME}:latest", f"{NAME}:latest-unchecked"}
    again = register(file, dataclasses.replace(CONFIG, ollama_overwrite=True))
    assert again.removed == (f"{NAME}:latest-unchecked",)
    assert names() == {KEPT, f"{NAME}:latest"}
    with Ollama() as client:
        client.remove(NAME)
