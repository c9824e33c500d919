"""The tools that training adds to a base's template, in the Go template that an Ollama before 0.30 gets."""

import json
from pathlib import Path

import pytest

from bp_core.errors import TemplateUnusable
from bp_data.tokenizer.tools_template import with_tools
from bp_export import GgufFacts
from bp_export.chat_template import ChatTemplate
from bp_export.ollama.go_template import go_template
from bp_export.tool_talk import writes_tools

TEMPLATES = Path(__file__).parents[1] / "packages" / "bp-data" / "tests" / "templates"
TOKENS = json.loads((TEMPLATES / "tokens.json").read_text(encoding="utf-8"))


def facts(name, template):
    bos, eos, _ = TOKENS[name]
    return GgufFacts(name, "llama", 1, 512, template, 0, bos, 1, eos, False, {}, 512)


@pytest.mark.parametrize("name", ["smollm2", "llama3", "phi4_mini", "gemma", "gemma3"])
def test_a_base_without_tools_has_those_of_hermes_in_go(name):
    """`go_template` itself compares each conversation with the Jinja, and leaves tools out where one differs."""
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    found = facts(name, with_tools(template, "hermes", has_system=takes_system(facts(name, template))))
    assert writes_tools(ChatTemplate.of(found))
    made = go_template(found)
    assert ".Tools" in made and "{{ if .ToolCalls }}<tool_call>" in made.replace("}}\n<tool_call>", "}}<tool_call>")


def takes_system(found):
    try:
        ChatTemplate.of(found).prompt([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])
    except TemplateUnusable:
        return False
    return True
