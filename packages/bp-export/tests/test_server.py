"""A GGUF over HTTP: real requests to llama.cpp's own server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tiny_families
from gguf import GGUFWriter

from bp_core.errors import AddressUnusable, FileMissing, LlamaCppFailed, OpenToOthers
from bp_export.config import ServeConfig
from bp_export.gguf import vocabulary
from bp_export.gguf.convert import Converter
from bp_export.llama_cpp.server import LlamaServer, _request, is_local
from bp_export.weights.merge import open_base

ASKED = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def served(gguf_source):
    with LlamaServer(
        gguf_source, ServeConfig(port=0, name="little", num_ctx=256, api_key="a-key"), gpu=False
    ) as server:
        yield server


def ask(server, path, body=None, key="a-key", origin="http://elsewhere.example"):
    headers = {"Origin": origin, "Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    data = json.dumps(body).encode() if body else None
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers), timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_it_speaks_as_openai_does(served):
    assert served.url.startswith("http://127.0.0.1:")
    assert json.loads(ask(served, "/health")[2]) == {"status": "ok"}
    assert json.loads(ask(served, "/v1/models")[2])["data"][0]["id"] == "little"
    answer = json.loads(ask(served, "/v1/chat/completions", ASKED)[2])
    text = answer["choices"][0]["message"]["content"]
    assert text and answer["model"] == "little"
    assert answer["usage"]["prompt_tokens"] == 32, "the file's own template, with its default system message"
    lines = ask(served, "/v1/chat/completions", ASKED | {"stream": True})[2].split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(pieces) == text and len(pieces) > 4 and "data: [DONE]" in lines


def test_without_the_key_there_is_no_answer_and_no_other_site_may_read_one(served):
    assert ask(served, "/v1/chat/completions", ASKED, key="another")[0] == 401
    assert ask(served, "/v1/models")[1]["Access-Control-Allow-Origin"] in (None, "")
    arguments = subprocess.run(
        ["ps", "-o", "args=", "-p", str(served.pid)], capture_output=True, text=True, check=False
    )
    assert "a-key" not in arguments.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.local"])
def test_other_addresses_are_refused_unless_meant(host, gguf_source):
    with pytest.raises(OpenToOthers, match="anyone who can reach"):
        LlamaServer(gguf_source, ServeConfig(host=host))
    assert not is_local(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]"])
def test_this_machines_own_addresses_need_no_consent(host):
    assert is_local(host)


def test_what_cannot_be_served_is_told(gguf_source, tmp_path):
    with pytest.raises(FileMissing):
        LlamaServer(tmp_path / "none.gguf")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AddressUnusable, match="cannot listen"):
            LlamaServer(gguf_source, ServeConfig(port=taken.getsockname()[1]), gpu=False)


def test_a_file_that_llama_cpp_refuses(tmp_path):
    path = tmp_path / "strange.gguf"
    writer = GGUFWriter(path, "strange")
    writer.add_token_list(["a"])
    writer.add_context_length(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(LlamaCppFailed, match=r"did not start.*strange"):
        LlamaServer(path, ServeConfig(port=0), gpu=False)


def test_an_adapter_changes_the_model_while_it_runs(served, gguf_source, tmp_path):
    path = tmp_path / "lora.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        shape = (2, 576) if name == "a" else (576, 2)
        writer.add_tensor(f"blk.0.attn_output.weight.lora_{name}", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = ServeConfig(port=0, num_ctx=256, lora=str(path))
    with LlamaServer(gguf_source, config, gpu=False) as server:
        (adapter,) = json.loads(ask(server, "/lora-adapters")[2])
        assert adapter["path"] == str(path) and adapter["scale"] == 1.0
        assert answer_of(server) != answer_of(served)
    with pytest.raises(FileMissing, match=r"none\.gguf"):
        LlamaServer(gguf_source, ServeConfig(lora=str(tmp_path / "none.gguf")))


def answer_of(server):
    return json.loads(ask(server, "/v1/chat/completions", ASKED)[2])["choices"][0]["message"]["content"]


def test_it_ends_with_whoever_started_it(gguf_source):
    code = (
        "import sys, time; from pathlib import Path; from bp_export.config import ServeConfig\n"
        "from bp_export.llama_cpp.server import LlamaServer\n"
        "server = LlamaServer(Path(sys.argv[1]), ServeConfig(port=0, num_ctx=64), gpu=False)\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(gguf_source)], stdout=subprocess.PIPE, text=True)
    pid = int(starter.stdout.readline())
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the server lives on")


def test_the_context_is_exact_unless_more_is_asked_for(made_phi):
    asked = [json.loads(_request(made_phi, "phi", ServeConfig(num_ctx=n), gpu=False))["context"] for n in (None, 400)]
    assert asked == [256, 400]


@pytest.fixture
def made_phi(tmp_path):
    folder = tiny_families.save("phi4-mini", tmp_path / "phi")
    converter = Converter(open_base(folder), folder, "f16")
    converter.write(tmp_path / "phi.gguf", vocabulary.read(folder, converter.vocabulary_size), "phi")
    return tmp_path / "phi.gguf"
