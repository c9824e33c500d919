"""The user's own words are found again in what a template made of them."""

import pytest

from bp_core.errors import TemplateUnusable
from bp_data.tokenizer.question import asked

FAMILIES = [
    "smollm2",
    "qwen2_5",
    "qwen3",
    "llama3",
    "llama3_1",
    "llama3_2",
    "phi4_mini",
    "gemma",
    "gemma3",
    "mistral_v3",
]
QUESTION = "When do you open?\n\nOn <Sundays>, too?"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("earlier", [(), ("Hello", "Good morning.")])
def test_the_last_question_is_what_the_user_wrote(model_tokenizer, family, system, earlier):
    tokenizer = model_tokenizer(family)
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), earlier, strict=False)]
    turns.append({"role": "user", "content": QUESTION})
    try:
        prompt = tokenizer.decode(tokenizer.prompt(turns))
    except TemplateUnusable:
        pytest.skip("this template has no place for a system message")
    found = asked(tokenizer, prompt)
    assert found == QUESTION or (system and found.endswith(QUESTION) and "<|" not in found)


def test_a_prompt_that_no_template_wrote_stays_as_it_is(model_tokenizer):
    assert asked(model_tokenizer("smollm2"), "Once upon a time") == "Once upon a time"
