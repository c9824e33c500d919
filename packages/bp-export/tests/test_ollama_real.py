"""The real Ollama that OLLAMA_HOST names: `pytest -m ollama`. What it does with families, templates, tools, thoughts.

Models are called backpropagate-test… and are removed again; nothing else there is touched. How to run it:
docs/ollama.md.
"""

import dataclasses
import json
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import ollama_server
import pytest
import tiny_families

from bp_core.errors import OllamaRegistrationFailed, OllamaTooOld, TemplateUnusable
from bp_export import gguf_facts
from bp_export.chat_template import ChatTemplate, first_difference
from bp_export.config import ExportConfig
from bp_export.dates import other_dates
from bp_export.gguf import vocabulary
from bp_export.gguf.convert import Converter
from bp_export.ollama import Ollama, register
from bp_export.ollama.go_template import go_template
from bp_export.ollama.go_tools import tool_conversations
from bp_export.ollama.marks import prompt_or_none
from bp_export.ollama.versions import RUNS_JINJA, shown
from bp_export.ollama_names import is_name
from bp_export.tool_talk import TOOL_TALKS, TOOLS, writes_tools
from bp_export.weights.merge import open_base

pytestmark = [pytest.mark.ollama, pytest.mark.timeout(1200)]

NAME = "backpropagate-test"
CONFIG = ExportConfig(ollama_name=NAME, ollama_overwrite=True)
TEMPLATES = sorted((Path(__file__).parents[2] / "bp-data" / "tests" / "templates").glob("*.jinja"))
TURNS = [{"role": "user", "content": "Hi"}]
RENDERED = ("render", "render tools", "render calls")
CALLED = TOOL_TALKS["two calls and their results"][0]
# A tool as rows have it: more than servers keep, in an order of its own.
RICH = {
    "type": "function",
    "function": {
        "name": "book",
        "strict": True,
        "parameters": {
            "additionalProperties": False,
            "properties": {
                "when": {"default": "now", "type": "string", "description": "Any day."},
                "seats": {"type": ["integer", "null"], "minimum": 1, "enum": [1, 2]},
                "tags": {"items": {"type": "string", "default": "x", "additionalProperties": False}, "type": "array"},
                "place": {"anyOf": [{"type": "string", "title": "A"}, {"type": "null"}]},
                "who": {"properties": {"z": {"type": "string"}, "a": {"type": "string"}}, "type": "object"},
            },
            "required": ["when"],
            "type": "object",
            "$defs": {"b": {"type": "string", "default": 1}},
        },
    },
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("bp_export.ollama.checks._LIMIT", 8)
    with Ollama() as server:
        yield server
        for model in server.models():
            if str(model["name"]).startswith(NAME):
                server.remove(str(model["name"]))


@pytest.fixture
def made(tiny_llama, tmp_path):
    """Makes a file of a random model with a chat template."""

    def make(template):
        converter = Converter(open_base(tiny_llama), tiny_llama)
        words = vocabulary.read(tiny_llama, converter.vocabulary_size)
        converter.write(tmp_path / "m.gguf", dataclasses.replace(words, template=template), "m")
        return tmp_path / "m.gguf"

    return make


def loaded(server):
    """Those of our models that are in memory; the user's own do not matter."""
    return [model["name"] for model in server.loaded() if str(model["name"]).startswith(NAME)]


def knows_jinja(server):
    return server.version() >= RUNS_JINJA


@pytest.mark.parametrize("name", list(tiny_families.FAMILIES))
def test_every_family_loads_and_reads_its_prompts(server, name, tmp_path):
    base = tiny_families.save(name, tmp_path / name)
    converter = Converter(open_base(base), base)
    converter.write(tmp_path / "m.gguf", vocabulary.read(base, converter.vocabulary_size), name)
    try:
        seen = register(tmp_path / "m.gguf", CONFIG).seen
    except OllamaRegistrationFailed as error:
        if not knows_jinja(server) and "architecture" in error.message:
            pytest.skip(f"{shown(server.version())} does not know it: {error.message}")
        raise
    assert seen.rendered is not False
    assert not loaded(server)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_every_template_is_written_as_trained(server, made, file):
    path = made(file.read_text(encoding="utf-8"))
    try:
        done = register(path, CONFIG)
    except OllamaTooOld as error:
        assert not knows_jinja(server)
        pytest.skip(error.message)
    chat = ChatTemplate.of(gguf_facts(path))
    assert done.seen.rendered
    expected = (knows_jinja(server) or ".Tools" in go_template(gguf_facts(path))) if writes_tools(chat) else None
    assert done.seen.tools == expected, done.seen.notes
    assert done.seen.thinking == (True if chat.thinks else None), done.seen.notes
    assert not loaded(server) and not any("unchecked" in str(model["name"]) for model in server.models())


def test_a_rich_tool_reaches_the_template_as_the_stub_says(server, made, tmp_path):
    """The stub's form of a tool is the real server's."""
    if not knows_jinja(server):
        pytest.skip("before 0.30 a Go template writes tools")
    file = made("{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{{ messages[0].content }}")
    register(file, CONFIG)
    request = {"model": NAME, "messages": TURNS, "tools": [RICH], "_debug_render_only": True}
    real = server.chat(request)["_debug_info"]["rendered_template"]
    stub = ollama_server.go_structs.tools_as_kept([RICH])
    (tool,) = stub
    tool["function"] = {"name": "book", "description": "", "parameters": tool["function"]["parameters"]}
    assert real == json.dumps(tool, ensure_ascii=False) + "Hi"


def test_the_stub_answers_in_the_shapes_of_the_real_server(server, made, tmp_path, monkeypatch):
    file = made((TEMPLATES[0].parent / "qwen3.jinja").read_text(encoding="utf-8"))
    version = "0.34.1" if knows_jinja(server) else "0.29.0"
    (tmp_path / "blobs").mkdir()
    with ollama_server.OllamaServer(version, tmp_path / "blobs") as stub:
        shapes, texts = [], []
        for url in (server.url, stub.url):
            monkeypatch.setenv("OLLAMA_HOST", url)
            register(file, CONFIG)
            found = dict(answers(url))
            shapes.append({name: shape_of(answer) for name, answer in found.items()})
            texts.append(
                {name: answer["body"].get("_debug_info", {}).get("rendered_template") for name, answer in found.items()}
            )
    real, ours = shapes
    assert texts[0] == texts[1]
    for name, shape in ours.items():
        assert shape <= real[name], f"{name}: the real server has no {sorted(shape - real[name])}"


def answers(url):
    """The same requests, and what comes back."""
    options = {"num_predict": 4, "temperature": 0}
    talk = {"model": NAME, "messages": TURNS, "stream": False, "options": options}
    requests = {
        "version": ("GET", "/api/version", None),
        "tags": ("GET", "/api/tags", None),
        "show": ("POST", "/api/show", {"model": NAME}),
        "show nothing": ("POST", "/api/show", {"model": f"{NAME}-none"}),
        "render": ("POST", "/api/chat", talk | {"_debug_render_only": True}),
        "chat": ("POST", "/api/chat", talk),
        "no thoughts": ("POST", "/api/chat", talk | {"think": False}),
        "loaded": ("GET", "/api/ps", None),
        "tools": ("POST", "/api/chat", talk | {"tools": TOOLS}),
        "render tools": ("POST", "/api/chat", talk | {"tools": TOOLS, "_debug_render_only": True}),
        "render calls": ("POST", "/api/chat", talk | {"messages": CALLED, "tools": TOOLS, "_debug_render_only": True}),
        "unload": ("POST", "/api/chat", {"model": NAME, "messages": [], "keep_alive": 0, "stream": False}),
    }
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
        for name, (method, path, body) in requests.items():
            response = client.request(method, path, json=body)
            yield name, {"status": response.status_code, "body": response.json()}


def shape_of(value, path=""):
    """The paths and kinds of all values in an answer. What a text may be empty or missing is left out."""
    if isinstance(value, dict):
        return {part for key, item in value.items() for part in shape_of(item, f"{path}.{key}")}
    if isinstance(value, list):
        return {part for item in value for part in shape_of(item, f"{path}[]")} or {f"{path}[]"}
    if path == ".status":
        return {f"{path}={value}"}
    if path.endswith((".content", ".thinking")):
        return set()  # what a random model says
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return {f"{path}: {kind}"}


def test_thoughts_are_told_from_answers_and_left_out(server, made):
    file = made((TEMPLATES[0].parent / "qwen3.jinja").read_text(encoding="utf-8"))
    register(file, CONFIG)
    assert "thinking" in server.show(NAME)["capabilities"]
    silent = ChatTemplate.of(gguf_facts(file), enable_thinking=False)
    request = {"model": NAME, "messages": TURNS, "think": False, "_debug_render_only": True}
    assert server.chat(request)["_debug_info"]["rendered_template"] == silent.prompt(TURNS)
    assert not server.reply(NAME, TURNS, limit=8, think=False).thought


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_calls_and_results_are_written_as_trained(server, made, file):
    """Every conversation with tools that the template takes, letter for letter."""
    path = made(file.read_text(encoding="utf-8"))
    chat = ChatTemplate.of(gguf_facts(path))
    talks = [*TOOL_TALKS.values(), *tool_conversations()]
    wanted = [(turns, tools, prompt_or_none(chat, turns, tools)) for turns, tools in talks]
    if not tools_can_be_written(server, path) or "strftime_now" in gguf_facts(path).template:
        pytest.skip("it has no tools, or none that this version can be told of; or it writes the date")
    register(path, CONFIG)
    checked = 0
    for turns, tools, prompt in wanted:
        if prompt is None:
            continue
        request = {"model": NAME, "messages": turns, "_debug_render_only": True, "options": {"num_ctx": 512}}
        request |= {"tools": tools} if tools else {}
        rendered = server.chat(request | {"truncate": False})["_debug_info"]["rendered_template"]
        same = rendered == prompt or other_dates(prompt, rendered)
        assert same, first_difference(prompt, rendered)
        checked += 1
    assert checked > 30


def tools_can_be_written(server, path):
    """Whether the template has tools, calls and results, and the server's kind of template, too."""
    if not writes_tools(ChatTemplate.of(gguf_facts(path))):
        return False
    try:
        return ".Tools" in go_template(gguf_facts(path))
    except TemplateUnusable:
        return knows_jinja(server)


def test_an_order_that_a_go_template_cannot_keep_is_said(server, made):
    notes = register(made((TEMPLATES[0].parent / "qwen2_5.jinja").read_text(encoding="utf-8")), CONFIG).seen.notes
    assert any("in the order of their names" in note for note in notes) != knows_jinja(server)


NAMES = ("m", "a.b-c_d", "_abc", "1", "me/m:t", "host:1234/me/m:t", "x" * 80, "m:" + "t" * 80)
NO_NAMES = ("bäckerei", "x" * 81, "-a", "a b", "a:b:c", "me.too/m", ".a", "a/b/c/d")


@pytest.mark.parametrize("name", [*NAMES, *NO_NAMES])
def test_names_are_judged_as_the_server_judges_them(server, name):
    with pytest.raises(OllamaRegistrationFailed) as caught:
        server.create({"model": name})  # of nothing, so nothing is made
    assert ("invalid model name" not in caught.value.message) == is_name(name)


KILLS_ITSELF = """
import os, signal, sys
from pathlib import Path
from bp_export.config import ExportConfig
from bp_export.ollama import register

def notify(progress):
    if progress.stage.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

register(Path(sys.argv[1]), ExportConfig(ollama_name=sys.argv[2], ollama_overwrite=True), notify=notify)
"""


@pytest.mark.parametrize("stage", ["upload to Ollama", "Ollama: ", "ask Ollama once"])
def test_what_is_killed_at_any_stage_is_removed_by_the_next_registration(server, made, stage):
    remark = f"{{# {secrets.token_hex(8)} #}}"  # so that the server has not been given these bytes before
    file = made((TEMPLATES[0].parent / "smollm2.jinja").read_text(encoding="utf-8") + remark)
    command = [sys.executable, "-c", KILLS_ITSELF, str(file), NAME, stage]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    time.sleep(1)
    assert not server.has(NAME)
    register(file, dataclasses.replace(CONFIG, ollama_name=f"{NAME}-next"))
    assert not loaded(server)
    names = [str(model["name"]) for model in server.models()]
    assert [name for name in names if name.startswith(NAME)] == [f"{NAME}-next:latest"]
