"""What a registration sees of dates, tools, thoughts and long prompts, and what it leaves in a server's memory."""

import dataclasses
from pathlib import Path

import ollama_server
import pytest

from bp_core.errors import BadValue, OllamaMismatch, OllamaUnreachable
from bp_export.chat_template import ChatTemplate
from bp_export.config import ExportConfig
from bp_export.dates import other_dates
from bp_export.gguf import vocabulary
from bp_export.gguf.convert import Converter
from bp_export.gguf.metadata import gguf_facts
from bp_export.gguf.reader import GgufFile
from bp_export.ollama import Ollama, register
from bp_export.ollama.blob import Blob
from bp_export.replies import Reply
from bp_export.weights.merge import open_base

TEMPLATES = Path(__file__).parents[2] / "bp-data" / "tests" / "templates"
JINJA, GO = "0.34.1", "0.29.0"
CONFIG = ExportConfig(ollama_name="mine")


@pytest.fixture
def server(request, tmp_path, monkeypatch):
    """An Ollama of the version that the test names, by default the newest."""
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("bp_export.ollama.checks._LIMIT", 8)
    (tmp_path / "blobs").mkdir()
    with ollama_server.OllamaServer(getattr(request, "param", JINJA), tmp_path / "blobs") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


@pytest.fixture
def made(tiny_llama, tmp_path):
    """Makes a file of a random model with a chat template."""

    def make(template):
        text = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8") if "{" not in template else template
        converter = Converter(open_base(tiny_llama), tiny_llama)
        words = vocabulary.read(tiny_llama, converter.vocabulary_size)
        converter.write(tmp_path / "m.gguf", dataclasses.replace(words, template=text), "m")
        return tmp_path / "m.gguf"

    return make


def uploaded(file):
    """The digest of a file that the server has, without a model that is made of it."""
    blob = Blob(GgufFile(file), guarded=False)
    with Ollama() as client:
        client.upload(blob)
    return blob.digest


def test_a_prompt_that_differs_in_its_date_alone_is_right_and_both_dates_are_said(server, made):
    seen = register(made("llama3_1"), CONFIG).seen
    assert seen.rendered
    (note,) = (note for note in seen.notes if "date" in note)
    assert "26 Jul 2024 in the file's own template, " in note and note.count("20") >= 2


@pytest.mark.parametrize(
    ("ours", "theirs", "dates"),
    [
        ("Today Date: 26 Jul 2024\n", "Today Date: 28 Nov 2026\n", ("26 Jul 2024", "28 Nov 2026")),
        ("It is July 26, 2024.", "It is November 28, 2026.", ("July 26, 2024", "November 28, 2026")),
        ("Current date: 2024-07-26", "Current date: 2026-11-28", ("2024-07-26", "2026-11-28")),
        ("on Friday, 26 July 2024 now", "on Saturday, 28 November 2026 now", None),
        ("26 Jul 2024, hi", "28 Nov 2026, ho", None),
        ("Date: 26 Jul 2024", "Date: ", None),
        ("same 26 Jul 2024", "same 26 Jul 2024", None),
    ],
)
def test_only_a_date_may_differ(ours, theirs, dates):
    found = other_dates(ours, theirs)
    if "Friday" in ours:
        dates = ("Friday, 26 July 2024", "Saturday, 28 November 2026")
    assert found == dates


def test_a_template_that_writes_another_text_beside_the_date_is_refused(server, made, monkeypatch):
    file = made("llama3_1")
    monkeypatch.setattr("bp_export.ollama.blob.guard", lambda template: template.replace("Cutting", "Cut"))
    with pytest.raises(OllamaMismatch, match="Cutting Knowledge"):
        register(file, CONFIG)


@pytest.mark.parametrize("server", [JINJA, GO], indirect=True)
@pytest.mark.parametrize("template", ["qwen2_5", "mistral_v3", "llama3_1"])
def test_tools_arrive_as_the_template_writes_them(server, made, template):
    seen = register(made(template), CONFIG).seen
    assert (seen.rendered, seen.tools, seen.thinking) == (True, True, None), seen.notes
    asked = [body for _, path, _, body, _ in server.talk if path == "/api/chat" and body.get("tools")]
    assert len(asked) == (3 if template == "llama3_1" else 4), "a tool, a call, two calls, another order"
    assert any("in the order of their names" in note for note in seen.notes) == (server.version == GO)


@pytest.mark.parametrize("server", [GO], indirect=True)
def test_where_a_go_template_has_no_tools_it_is_said(server, made):
    done = register(made("qwen"), CONFIG)
    assert (done.template, done.seen.rendered, done.seen.tools) == ("go", True, False)
    assert any("tools do not work in this Ollama" in note for note in done.seen.notes)


def test_a_template_that_writes_a_tool_otherwise_there_is_said(server, made, monkeypatch):
    monkeypatch.setattr("go_structs._PROPERTY", ("description", "type"))
    seen = register(made("qwen2_5"), CONFIG).seen
    assert seen.rendered and seen.tools is False
    assert any("with tools Ollama writes another prompt" in note for note in seen.notes)


@pytest.mark.parametrize("server", [JINJA, GO], indirect=True)
def test_thoughts_are_known_and_can_be_left_out(server, made):
    file = made("qwen3")
    seen = register(file, CONFIG).seen
    assert seen.rendered and seen.thinking
    assert not any("thought" in note for note in seen.notes)
    silent = ChatTemplate.of(gguf_facts(file), enable_thinking=False)
    turns = [{"role": "user", "content": "Hi"}]
    with Ollama() as client:
        request = {"model": "mine", "messages": turns, "think": False, "_debug_render_only": True}
        assert client.chat(request)["_debug_info"]["rendered_template"] == silent.prompt(turns)


def test_an_answer_that_the_server_cannot_read_is_no_reason_to_refuse(server, made):
    server.reads = False
    seen = register(made("qwen3"), CONFIG).seen
    assert (seen.rendered, seen.thinking, seen.ended) == (True, True, None)
    why = "this Ollama could not take apart what the model wrote; the newest may."
    assert seen.notes[-2:] == (
        f"no answer was seen, because {why}",
        f"it was not seen whether thoughts can be switched off, because {why}",
    )
    with Ollama() as client:
        assert client.reply("mine", [{"role": "user", "content": "Hi"}], limit=4) == Reply("", read=False)


def test_a_model_without_thoughts_has_none(server, made):
    assert register(made("smollm2"), CONFIG).seen.thinking is None


def test_nothing_stays_in_memory_or_under_the_drafts_name(server, made):
    file = made("smollm2")
    register(file, CONFIG)
    assert not server.loaded and list(server.models) == ["mine:latest"]
    server.faults["/api/copy"] = {"error": "no room"}
    with pytest.raises(Exception, match="no room"):
        register(file, dataclasses.replace(CONFIG, ollama_name="other"))
    assert not server.loaded and list(server.models) == ["mine:latest"]


def test_an_earlier_model_under_the_drafts_name_is_not_waited_for(server, made):
    earlier = uploaded(made("smollm2"))
    server.loaded[earlier] = "mine:latest-unchecked"  # as where a registration was killed
    register(made("qwen3"), CONFIG)
    assert list(server.loaded) == [earlier]
    assert [path for _, path, *_ in server.talk].count("/api/ps") <= 2


def test_a_draft_that_a_dead_server_keeps_is_named_and_removed_by_the_next_registration(server, made):
    file = made("smollm2")
    server.faults |= {"/api/copy": "break off", "/api/delete": "break off"}
    with pytest.raises(OllamaUnreachable, match="connection to Ollama broke") as caught:
        register(file, CONFIG)
    assert "backprop ollama rm mine:latest-unchecked" in caught.value.fix
    assert caught.value.fix.endswith(f"Then: backprop ollama register {file} mine")
    assert list(server.models) == ["mine:latest-unchecked"]
    server.models["theirs:latest-unchecked"] = server.models["mine:latest-unchecked"]
    server.faults.clear()
    done = register(file, dataclasses.replace(CONFIG, ollama_name="other"))
    assert done.removed == ("mine:latest-unchecked",)
    assert set(server.models) == {"other:latest", "theirs:latest-unchecked"}, "a name of the user's own stays"


def test_a_system_message_longer_than_the_models_context_is_not_seen_to_end(server, made):
    file = made("smollm2")
    system = "Be kind to all who ask. " * 150  # some 900 tokens for a context of 512
    seen = register(file, dataclasses.replace(CONFIG, system=system)).seen
    assert seen.rendered and seen.ended is not True
    assert any("not seen" in note or "no answer was seen" in note for note in seen.notes)


@pytest.mark.parametrize(("server", "penalty"), [(JINJA, "1, which changes nothing"), (GO, "1.1")], indirect=["server"])
def test_what_the_users_modelfile_leaves_to_the_server_is_said(server, made, penalty):
    file = made("smollm2")
    file.with_suffix(".Modelfile").write_text('FROM ./m.gguf\nPARAMETER stop "<|im_end|>"\n', encoding="utf-8")
    notes = " ".join(register(file, CONFIG).seen.notes)
    assert "no num_ctx: Ollama's own context counts, 4096" in notes
    assert f"no repeat_penalty: Ollama's own counts, {penalty}" in notes


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("PARAMETER num_ctx 999999", "num_ctx is 999999, but the model is made for up to 512"),
        ("REQUIRES 0.20", "REQUIRES cannot be registered"),
        ("MESSAGE user hello", "MESSAGE cannot be registered"),
    ],
)
def test_what_a_modelfile_asks_in_vain_is_refused(server, made, line, error):
    file = made("smollm2")
    file.with_suffix(".Modelfile").write_text(f"FROM ./m.gguf\n{line}\n", encoding="utf-8")
    with pytest.raises(BadValue, match=error):
        register(file, CONFIG)


def test_values_reach_the_server_as_what_they_are(server, made):
    file = made("smollm2")
    lines = ["use_mmap true", "stop <|im_end|>   ", "temperature .5", "seed 7", "stop 1_000"]
    text = "FROM ./m.gguf\n" + "".join(f"PARAMETER {line}\n" for line in lines)
    file.with_suffix(".Modelfile").write_text(text, encoding="utf-8")
    register(file, CONFIG)
    kept = server.models["mine:latest"]["parameters"]
    assert kept == {"use_mmap": True, "stop": ["<|im_end|>", "1_000"], "temperature": 0.5, "seed": 7}


@pytest.mark.parametrize("server", ["0.0.0"], indirect=True)
def test_a_server_built_from_source_is_called_so(server, made, monkeypatch):
    monkeypatch.setattr(server, "numbers", (0, 34, 1))
    assert register(made("smollm2"), CONFIG).version == "built from source"
