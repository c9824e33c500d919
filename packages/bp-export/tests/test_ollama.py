"""Registering with Ollama: a server that behaves as three versions of it, and the real one where there is one."""

import dataclasses
import hashlib
import os
import shutil
import socket

import numpy as np
import ollama_server
import pytest
from gguf import GGUFWriter

from bp_core.contract import Contract
from bp_core.errors import (
    AdapterUnusable,
    BadValue,
    OllamaMismatch,
    OllamaModelMissing,
    OllamaNameTaken,
    OllamaRegistrationFailed,
    OllamaTooOld,
    OllamaUnreachable,
)
from bp_export import export, gguf_facts
from bp_export.config import ExportConfig
from bp_export.gguf.reader import GgufFile
from bp_export.ollama import Ollama, address, default_name, read_modelfile, register, settings_for, write_modelfile
from bp_export.ollama.blob import Blob, digests, guard
from bp_export.ollama.modelfile import Origin
from bp_export.weights.merge import open_base

NAME = "backpropagate-test"
CONFIG = ExportConfig(ollama_name=NAME)


@pytest.fixture(params=[*ollama_server.VERSIONS, pytest.param("real", marks=pytest.mark.ollama)])
def ollama(request, tmp_path, monkeypatch):
    """Each version in turn, where OLLAMA_HOST points; the real one is the user's."""
    if request.param == "real":
        monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
        yield None
        with Ollama() as server:
            if server.has(NAME):
                server.remove(NAME)
        return
    yield from running(request.param, tmp_path, monkeypatch)


@pytest.fixture
def newest(tmp_path, monkeypatch):
    yield from running(ollama_server.VERSIONS[-1], tmp_path, monkeypatch)


def running(version, folder, monkeypatch):
    (folder / "blobs").mkdir()
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(folder / "home"))
    with ollama_server.OllamaServer(version, folder / "blobs") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


@pytest.fixture
def tiny(written, monkeypatch):
    """A random model as a file. Its answers never end, so they are not waited for long."""
    monkeypatch.setattr("bp_export.ollama.checks._LIMIT", 16)
    return written


@pytest.fixture(scope="session")
def written(shared, tiny_llama, helpers, worker_id):
    folder = shared / f"ollama-{worker_id}"
    folder.mkdir(exist_ok=True)
    return helpers.write_gguf(open_base(tiny_llama), tiny_llama, folder / "tiny.gguf")


def paths(server):
    return [path.partition("/sha256")[0] for _, path, *_ in server.talk]


def test_a_model_is_uploaded_created_checked_and_only_then_named(ollama, gguf_source):
    done = register(gguf_source, CONFIG)
    assert (done.name, done.seen.rendered, done.seen.ended) == (NAME, True, True)
    assert done.uploaded or ollama is None, "a real server may have these bytes already"
    assert done.seen.answer and not done.seen.notes
    with Ollama() as server:
        assert server.has(NAME) and not any("unchecked" in model["name"] for model in server.models())
    if ollama is None:
        return
    out = ["/api/tags", "/api/chat", "/api/ps"]  # out of memory
    checks = ["/api/show", *["/api/chat"] * 4, *out, "/api/copy", *out, "/api/delete", *["/api/tags"] * 2]
    assert paths(ollama) == ["/api/version", "/api/tags", "/api/blobs", "/api/blobs", "/api/create", *checks]
    (request,) = (body for _, path, _, body, _ in ollama.talk if path == "/api/create")
    assert request["parameters"] == {"num_ctx": 8192, "repeat_penalty": 1.0, "stop": ["<|im_end|>"]}
    assert ("template" in request) == (done.template == "go") == (ollama.version == "0.29.0")
    assert request["license"] == "apache-2.0" and request["model"] == f"{NAME}:latest-unchecked"
    plain = done.digest == f"sha256:{hashlib.sha256(gguf_source.read_bytes()).hexdigest()}"
    assert plain == (ollama.version == "0.29.0"), "from 0.30 on the template is guarded"


def test_without_the_remark_ollama_takes_another_template_and_that_is_seen(newest, gguf_source, monkeypatch):
    monkeypatch.setattr("bp_export.ollama.blob.guard", lambda template: template)
    with pytest.raises(OllamaMismatch, match=r"trained on '<.im_start.>system"):
        register(gguf_source, CONFIG)
    assert not newest.models


def test_a_blob_is_sent_once_and_a_name_is_not_taken_silently(newest, tiny):
    assert register(tiny, CONFIG).uploaded
    with pytest.raises(OllamaNameTaken, match=NAME):
        register(tiny, CONFIG)
    done = register(tiny, dataclasses.replace(CONFIG, ollama_overwrite=True, system="Be brief.", num_ctx=128))
    assert not done.uploaded and done.seen.rendered
    with Ollama() as server:
        shown = server.show(NAME)
        assert shown["system"] == "Be brief." and "128" in shown["parameters"]
        server.remove(NAME)
        with pytest.raises(OllamaModelMissing, match="not found"):
            server.remove(NAME)


def test_a_version_that_cannot_show_its_prompt_is_taken_at_its_answer(tiny, tmp_path, monkeypatch):
    for _ in running("0.9.0", tmp_path, monkeypatch):
        seen = register(tiny, CONFIG).seen
    assert seen.rendered is None and "cannot show its prompts" in seen.notes[0]


def test_progress_is_told_in_bytes(newest, tiny):
    seen = []
    register(tiny, CONFIG, notify=seen.append)
    for stage in ("compute the digest", "upload to Ollama"):
        steps = [(step.done, step.total) for step in seen if step.stage == stage]
        assert len(steps) > 4 and steps == sorted(steps) and steps[-1][0] == steps[-1][1] > tiny.stat().st_size
    assert {"Ollama: parsing GGUF", "Ollama: success", "ask Ollama once"} <= {step.stage for step in seen}


def test_an_answer_that_ends_neither_here_nor_there_is_told(newest, tiny):
    seen = register(tiny, CONFIG).seen
    assert not seen.ended and "it does not in llama.cpp either" in seen.notes[0]


def test_an_answer_that_ends_in_the_file_only_is_refused(newest, tiny, monkeypatch):
    monkeypatch.setattr("bp_export.ollama.checks.Checks._ends_in_llama_cpp", lambda checks: (True, ""))
    with pytest.raises(OllamaMismatch, match="does not stop"):
        register(tiny, CONFIG)
    assert not newest.models


@pytest.mark.parametrize(
    ("path", "fault", "error", "message"),
    [
        ("/api/create", [{"status": "parsing GGUF"}, {"error": "no room"}], OllamaRegistrationFailed, "no room"),
        ("/api/create", [{"status": "parsing GGUF"}], OllamaRegistrationFailed, "after 'parsing GGUF'"),
        ("/api/create", "break off", OllamaUnreachable, "connection to Ollama broke"),
        ("/api/create", "hang", OllamaUnreachable, "within 2 s"),
        ("/api/show", {"parameters": "", "template": ""}, OllamaMismatch, "im_end"),
        ("/api/version", {"version": "0.5.1"}, OllamaTooOld, "cannot import GGUF files"),
        ("/api/version", {"hello": "I am another server"}, OllamaRegistrationFailed, "not Ollama"),
    ],
)
def test_what_goes_wrong_is_noticed_and_leaves_nothing(newest, tiny, monkeypatch, path, fault, error, message):
    if fault == "hang":
        monkeypatch.setattr("bp_export.ollama.client._ANSWER_SECONDS", 2)
    newest.faults[path] = fault
    with pytest.raises(error, match=message) as caught:
        register(tiny, CONFIG)
    assert not newest.models
    again = error in (OllamaUnreachable, OllamaTooOld)
    assert caught.value.fix.endswith(f"backprop ollama register {tiny} {NAME}") == again


def test_where_nothing_listens_the_next_command_is_told(tiny, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(OllamaUnreachable, match="Ollama does not answer") as caught:
            register(tiny, CONFIG)
    assert "ollama serve" in caught.value.fix
    for host in ("http://not an address:x", "ftp://127.0.0.1"):
        monkeypatch.setenv("OLLAMA_HOST", host)
        with pytest.raises(OllamaUnreachable):
            register(tiny, CONFIG)


def test_the_digest_of_an_export_is_remembered_so_that_its_bytes_are_read_once_more(newest, tiny):
    assert digests(tiny) == hashlib.sha256(tiny.read_bytes()).hexdigest()
    stages = []
    done = register(tiny, CONFIG, notify=lambda step: stages.append(step.stage))
    assert done.uploaded and "upload to Ollama" in stages and "compute the digest" not in stages
    assert newest.blob(done.digest).is_file(), "the server has checked the digest"
    os.utime(tiny, (1, 1))
    stages.clear()
    register(tiny, dataclasses.replace(CONFIG, ollama_overwrite=True), notify=lambda step: stages.append(step.stage))
    assert "compute the digest" in stages, "a file that was touched is read again"


def test_a_blob_that_is_not_what_its_name_says_is_refused(newest, tiny):
    blob = Blob(GgufFile(tiny), guarded=False)
    blob.__dict__["digest"] = f"sha256:{'0' * 64}"
    with Ollama() as server, pytest.raises(OllamaRegistrationFailed, match=r"digest mismatch.*HTTP 400"):
        server.upload(blob)


def test_old_versions_get_only_templates_that_go_can_write(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("bp_export.ollama.blob.guard", lambda template: "{{ strftime_now('%d %b %Y') }}" + template)
    dated, file = Blob(GgufFile(tiny), guarded=True), tmp_path / "dated.gguf"
    file.write_bytes(b"".join(dated.chunks("")))
    for _ in running("0.29.0", tmp_path, monkeypatch):
        with pytest.raises(OllamaTooOld, match=r"cannot be written exactly in Go.*0\.29\.0") as caught:
            register(file, CONFIG)
        assert "backprop ollama register" in caught.value.fix


@pytest.mark.parametrize("version", ollama_server.VERSIONS)
def test_the_server_refuses_what_its_version_refuses(version, tiny, tmp_path, monkeypatch):
    def refused(**request):
        try:
            client.create({"model": "x", "files": {"m.gguf": blob.digest}, **request})
        except OllamaRegistrationFailed as error:
            return str(error)

    for _ in running(version, tmp_path, monkeypatch):
        blob = Blob(GgufFile(tiny), guarded=False)
        with Ollama() as client:
            client.upload(blob)
            assert refused() is None and "HTTP 400" in refused(model="no name!")
            now = [refused(adapters={"a.gguf": blob.digest}), refused(quantize="q4_K_M")]
    if version == "0.34.1":
        assert "LoRA adapters are no longer supported" in now[0] and "quantize GGUF models with llama.cpp" in now[1]
    else:
        assert now == [None, None]


def test_what_cannot_become_a_model_is_refused_before_anything_is_sent(newest, tiny, tmp_path):
    with pytest.raises(BadValue, match="is not a valid model name"):
        register(tiny, ExportConfig(ollama_name="my model"))
    with pytest.raises(BadValue, match="a Modelfile cannot contain"):
        register(tiny, dataclasses.replace(CONFIG, system='Say """.'))
    adapter = tmp_path / "lora.gguf"
    writer = GGUFWriter(adapter, "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((8, 64), np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    with pytest.raises(AdapterUnusable, match=r"0\.34\.1"):
        register(adapter, CONFIG)
    assert set(paths(newest)) <= {"/api/version"}


def test_the_remark_changes_the_template_only(tiny, tmp_path):
    before, guarded = GgufFile(tiny), tmp_path / "guarded.gguf"
    blob = Blob(before, guarded=True)
    guarded.write_bytes(b"".join(blob.chunks("")))
    after = GgufFile(guarded)
    field = "tokenizer.chat_template"
    assert after.fields == before.fields | {field: guard(before.fields[field])}
    assert blob.size == guarded.stat().st_size and after.header[1] % after.alignment == 0
    assert all(bytes(after.raw(name)) == bytes(before.raw(name)) for name in before.tensors)


def test_a_model_of_plain_text_gets_the_bare_prompt(newest, tiny, tiny_llama, helpers, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "plain")
    words = folder / "tokenizer_config.json"
    words.write_text(words.read_text(encoding="utf-8").replace('"chat_template"', '"no_template"'), encoding="utf-8")
    plain = Contract("", "none", (2,), ())
    file = helpers.write_gguf(open_base(folder), folder, tmp_path / "plain.gguf", contract=plain)
    assert not gguf_facts(file).template
    done = register(file, CONFIG)
    assert (done.template, done.seen.rendered) == ("none", None)
    assert newest.models[f"{NAME}:latest"]["go"] == "{{ .Prompt }}"
    with pytest.raises(BadValue, match="no place for a system message"):
        register(file, dataclasses.replace(CONFIG, ollama_overwrite=True, system="Be brief."))


def test_an_export_hands_over_with_its_contract_and_settings(newest, tiny, tiny_llama, tmp_path):
    (tmp_path / "base").symlink_to(tiny_llama)
    config = ExportConfig(quantization="f16", output=str(tmp_path / "m.gguf"), ollama_name=NAME, system="Be brief.")
    written = []
    done = export(None, tmp_path / "base", config, written=written.append)
    assert done.ollama.seen.rendered and done.ollama.name == NAME
    assert written[0].path == done.path and written[0].ollama is None
    assert read_modelfile(done.modelfile).system == newest.models[f"{NAME}:latest"]["system"] == "Be brief."
    newest.faults["/api/version"] = {"version": "0.5.1"}
    before = done.path.stat().st_mtime_ns
    with pytest.raises(OllamaTooOld):
        export(None, tmp_path / "base", dataclasses.replace(config, overwrite=True))
    assert done.path.stat().st_mtime_ns == before, "refused before any work"


def test_the_modelfile_says_what_registering_would_and_the_users_own_stays(tiny, tmp_path):
    gguf, model = GgufFile(tiny), tmp_path / "m.gguf"
    setup = dataclasses.replace(settings_for(gguf, Origin()), system='Say "yes".\nOr no.', licence="MIT\nas it is")
    place = write_modelfile(gguf, setup, model)
    text = place.read_text(encoding="utf-8")
    assert place.name == "m.Modelfile" and "\nFROM ./m.gguf\n" in text and 'PARAMETER stop "<|im_end|>"' in text
    assert read_modelfile(place) == setup
    changed = dataclasses.replace(setup, system="")
    assert write_modelfile(gguf, changed, model) == place and read_modelfile(place) == changed
    place.write_text(text.replace("PARAMETER num_ctx 512", "PARAMETER num_ctx 99"), encoding="utf-8")
    assert write_modelfile(gguf, setup, model).name == "m.new.Modelfile"
    assert read_modelfile(place).parameters["num_ctx"] == 99


def test_the_modelfile_beside_a_file_says_how_it_is_registered(newest, tiny, tmp_path):
    file = tmp_path / "m.gguf"
    file.symlink_to(tiny)
    text = 'FROM x\nPARAMETER temperature 0.25\nPARAMETER stop "Q:"\nPARAMETER stop "A:"\n'
    (tmp_path / "m.Modelfile").write_text(text, encoding="utf-8")
    register(file, CONFIG)
    assert newest.models[f"{NAME}:latest"]["parameters"] == {"temperature": 0.25, "stop": ["Q:", "A:"]}


def test_the_contract_and_the_base_say_how_a_model_runs(tiny, tmp_path):
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "max_length": 9}')
    (tmp_path / "LICENSE").write_text("Do as you like.")
    setup = settings_for(GgufFile(tiny), Origin(Contract("", "none", (2,), ("<|im_end|>", "###")), tmp_path))
    sampling = {"num_ctx": 512, "repeat_penalty": 1.0, "temperature": 0.6, "top_k": 20}
    assert setup.parameters == {**sampling, "stop": ["<|im_end|>", "###"]}
    assert setup.licence == "Do as you like."


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        (":9000", "http://127.0.0.1:9000"),
        ("[::]:9000", "http://127.0.0.1:9000"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("box.local", "http://box.local:11434"),
        (' "box.local:1234" ', "http://box.local:1234"),
        ("box.local:99999", "http://box.local:11434"),
        ("http://box.local", "http://box.local:80"),
        ("https://box.local", "https://box.local:443"),
        ("https://box.local:8443/ollama/", "https://box.local:8443/ollama"),
    ],
)
def test_where_ollama_is_in_every_shape_that_it_accepts(host, url):
    assert address(host) == url


def test_a_modelfile_is_read_as_ollama_reads_it(tmp_path):
    place = tmp_path / "m.Modelfile"
    lines = [
        "FROM ./m.gguf",
        '# SYSTEM "not this"',
        'TEMPLATE """{{ .System }}',
        "System messages: none",
        'PARAMETER stop ignored"""',
        'SYSTEM "You are',
        'Mario."',
        "PARAMETER stop <|im_end|>   ",
        'parameter stop "a b "',
        'PARAMETER stop """say "x" """',
        "PARAMETER use_mmap true",
        "PARAMETER num_ctx 77",
        "PARAMETER temperature 0.5",
        'LICENSE """MIT',
        "SYSTEM none",
        '"""',
    ]
    place.write_text("\r\n".join(lines), encoding="utf-8")
    found = read_modelfile(place)
    assert found.system == "You are\nMario." and found.licence == "MIT\nSYSTEM none\n"
    stops = ["<|im_end|>", "a b ", 'say "x" ']
    assert found.parameters == {"stop": stops, "use_mmap": True, "num_ctx": 77, "temperature": 0.5}


WRONG = {
    "TEMPLATE": ('FROM x\nTEMPLATE "{{ .Prompt }} mine"\n', 2),
    "MESSAGE": ("FROM x\nPARAMETER seed 1\nMESSAGE user Hi\n", 3),
    "ADAPTER": ("ADAPTER ./a.gguf\n", 1),
    "SYSTM": ("FROM x\nSYSTM Be kind.\n", 2),
    "a quote is not closed": ('FROM x\nSYSTEM """Be kind.\n', 2),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_modelfile_asks_for_in_vain_is_refused_by_line(what, newest, tiny, tmp_path):
    file = tmp_path / "m.gguf"
    file.symlink_to(tiny)
    text, line = WRONG[what]
    (tmp_path / "m.Modelfile").write_text(text, encoding="utf-8")
    with pytest.raises(BadValue, match=what) as caught:
        register(file, CONFIG)
    assert caught.value.where == f"{tmp_path / 'm.Modelfile'}:{line}" and not newest.models


NAMES = {"_abc": True, "a": True, "me/My.Model-1:q4_k": True, "h.example:11434/me/m:t": True, "x" * 80: True, "1": True}
NAMES |= {"bäckerei": False, "x" * 81: False, "-a": False, "a b": False, "a:b:c": False, "me.too/m": False, "": False}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_judged_before_any_work(name, newest, tiny):
    if NAMES[name]:
        assert ExportConfig(ollama_name=name).ollama
        return
    with pytest.raises(BadValue, match="is not a valid model name"):
        ExportConfig(ollama_name=name)


def test_the_names_that_are_made_are_names(newest, tiny, tmp_path):
    assert len(default_name(tmp_path / f"{'y' * 200}.gguf")) == 80
    assert default_name(tmp_path / "bäckerei.gguf") == "b-ckerei"
    name = f"m:{'t' * 80}"
    assert register(tiny, dataclasses.replace(CONFIG, ollama_name=name)).name == name
    with pytest.raises(BadValue, match="num_ctx is 999999, but the model is made for up to 512"):
        register(tiny, dataclasses.replace(CONFIG, ollama_name="other", num_ctx=999999))
