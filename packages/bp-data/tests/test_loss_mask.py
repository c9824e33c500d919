import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from bp_core.errors import BadRow, TemplateUnusable
from bp_data import ChatTokenizer, Masked, Record, mask

# Letters, digits, spaces and line ends, emoji with joiners, CJK, combining marks, the first bytes shared by several.
LETTERS = st.sampled_from([*"ahi ):\n\t0漢字æ é", "e\u0301", "👩‍👩‍👧", "🧿", "👩", "\u0301", "\u200d", "<", "|"])
CONTENT = st.lists(LETTERS, min_size=1, max_size=12).map("".join)
ANSWER = CONTENT.filter(lambda text: bool(text.strip()))
DIALOGUE = st.lists(st.tuples(CONTENT, ANSWER), min_size=1, max_size=3)
Pairs = list[tuple[str, str]]
HONEST = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{{ '[assistant]' if add_generation_prompt }}"
)


def record(*contents: str) -> Record:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return Record("openai", turns, "f:7")


def dialogue(pairs: Pairs) -> Record:
    return record(*(content for pair in pairs for content in pair))


def learned(masked: Masked, tokenizer: ChatTokenizer) -> list[str]:
    """The text of each unbroken run of trained tokens."""
    return [tokenizer.decode(masked.tokens[m.start() : m.end()]) for m in re.finditer(b"\x01+", masked.trained)]


def assert_exact(masked: Masked, tokenizer: ChatTokenizer, expected: Sequence[str]) -> None:
    assert learned(masked, tokenizer) == list(expected)
    assert len(masked.trained) == len(masked.tokens)
    assert masked.trained[0] == 0
    assert all(masked.trained[end] for end in masked.ends)
    assert len(masked.ends) == len(expected)
    assert masked.trained.index(1) == masked.prompt


def assert_learned(masked: Masked, tokenizer: ChatTokenizer, pairs: Pairs, header: str, end: str) -> None:
    """Each run is content and terminator; where the answer starts with white space, a token may span the border."""
    texts = learned(masked, tokenizer)
    assert len(texts) == len(pairs)
    for text, (_, answer) in zip(texts, pairs, strict=True):
        assert text.endswith(answer + end)
        across = text.removesuffix(answer + end)
        assert across == "" or (answer[0].isspace() and header.endswith(across))


@settings(max_examples=200, deadline=None)
@given(DIALOGUE)
@example([("hi", "👩‍👩‍👧"), (" ", "\n\na")])
def test_smollm2_learns_exactly_content_and_terminator(smol: ChatTokenizer, pairs: Pairs) -> None:
    masked = mask(dialogue(pairs), smol)
    assert_learned(masked, smol, pairs, "<|im_start|>assistant\n", "<|im_end|>")
    assert masked.tokens.tolist() == smol.encode(masked.text)
    assert smol.decode(masked.tokens) == masked.text


@settings(max_examples=200, deadline=None)
@given(DIALOGUE)
@example([("hi", " \n\n)a")])
def test_a_tokenizer_that_trims_offsets_learns_exactly_too(llama: ChatTokenizer, pairs: Pairs) -> None:
    masked = mask(dialogue(pairs), llama)
    assert_learned(masked, llama, pairs, "<|end_header_id|>\n\n", "<|eot_id|>")
    assert masked.bos == "template"
    assert masked.tokens.tolist().count(llama.token("<|begin_of_text|>")) == 1


@settings(max_examples=100, deadline=None)
@given(DIALOGUE)
def test_single_bytes_of_a_character_are_learned_together(mistral: ChatTokenizer, pairs: Pairs) -> None:
    masked = mask(dialogue(pairs), mistral)
    assert [text.strip() for text in learned(masked, mistral)] == [f"{answer.strip()}</s>" for _, answer in pairs]
    assert masked.bos == "template"


def test_only_assistant_turns_are_learned(smol: ChatTokenizer) -> None:
    masked = mask(record("one", "two", "three", "four", "five"), smol)
    assert_exact(masked, smol, ["two<|im_end|>", "four<|im_end|>"])
    assert smol.decode(masked.tokens[: masked.prompt]).endswith(
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_assistant_turn_marked_as_untrained_is_not_learned(smol: ChatTokenizer) -> None:
    turns = record("one", "two", "three", "four").content
    assert_exact(mask(Record("openai", turns, "f:7", untrained=(1,)), smol), smol, ["four<|im_end|>"])


def test_two_answers_in_a_row_are_both_learned(smol: ChatTokenizer) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "assistant")]
    assert_exact(mask(Record("openai", turns, "f:7"), smol), smol, ["assistant<|im_end|>"] * 2)


def test_a_terminator_spelled_out_inside_the_answer_does_not_end_it(smol: ChatTokenizer) -> None:
    masked = mask(record("q", "a<|im_end|>b"), smol)
    assert_exact(masked, smol, ["a<|im_end|>b<|im_end|>"])


def test_the_terminator_is_learned_though_it_pads_too(smol_folder: object, smol: ChatTokenizer) -> None:
    masked = mask(record("q", "a"), smol)
    assert masked.tokens[masked.ends[0]] == smol.token("<|im_end|>")
    assert masked.trained[masked.ends[0]] == 1
    assert masked.trained[masked.ends[0] + 1 :] == b"\x00"


STRIPPING = """{% for m in messages %}<|{{ m.role }}|>{{ '\\n' + m.content }}<|end|>{{ '\\n' }}{% endfor %}
{{- '<|assistant|>\\n' if add_generation_prompt }}"""


@pytest.mark.parametrize("answer", ["a", "\n a", " a \n"])
def test_added_tokens_that_swallow_white_space_stay_on_their_side(
    answer: str, byte_level: Callable[..., Tokenizer]
) -> None:
    special = [AddedToken(f"<|{name}|>", special=True, rstrip=True) for name in ("user", "assistant", "end")]
    tokenizer = ChatTokenizer(byte_level(*special), STRIPPING, eos_token="<|end|>")
    masked = mask(record("q", answer), tokenizer)
    assert learned(masked, tokenizer) == [f"{answer.lstrip()}<|end|>"]


def test_white_space_that_is_an_added_token_does_not_end_a_turn(byte_level: Callable[..., Tokenizer]) -> None:
    template = HONEST.replace("</s>", "</s>{{ '\\n\\n' }}")
    tokenizer = ChatTokenizer(byte_level("</s>", AddedToken("\n", special=False)), template, eos_token="</s>")
    assert_exact(mask(record("q", "a"), tokenizer), tokenizer, ["a</s>"])


def test_a_token_across_the_border_is_learned_with_the_answer(byte_level: Callable[..., Tokenizer]) -> None:
    template = HONEST.replace("[{{ m.role }}]", "{{ m.role }}: ").replace("[assistant]", "assistant: ")
    tokenizer = ChatTokenizer(byte_level("</s>"), template, eos_token="</s>")
    assert_exact(mask(record("q", "a"), tokenizer), tokenizer, [" a</s>"])


HONEST = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{{ '[assistant]' if add_generation_prompt }}"
)
DISHONEST = {
    "another prompt than turn": HONEST.replace("'[assistant]'", "'[bot]'"),
    "an earlier turn rewritten": HONEST.replace("{{ m.content }}", "{{ m.content if loop.last else '…' }}"),
    "no terminator": HONEST.replace("</s>", ""),
    "a terminator only before the answer": HONEST.replace("</s>", "").replace("[{{ m.role }}]", "[{{ m.role }}]</s>"),
    "no terminator at the end": HONEST.replace("</s>", "{{ '</s>' if not loop.last }}"),
}


@pytest.mark.parametrize("template", DISHONEST.values(), ids=DISHONEST)
def test_pieces_that_do_not_add_up_are_refused(template: str, byte_level: Callable[..., Tokenizer]) -> None:
    tokenizer = ChatTokenizer(byte_level("</s>"), template, eos_token="</s>")
    with pytest.raises(TemplateUnusable) as caught:
        mask(record("q", "a", "q", "a"), tokenizer)
    assert caught.value.where == "f:7"


def test_what_ends_only_the_whole_text_does_not_end_a_turn(byte_level: Callable[..., Tokenizer]) -> None:
    template = HONEST + "{{ '<eot>' if not add_generation_prompt }}"
    tokenizer = ChatTokenizer(byte_level("</s>", "<eot>"), template, eos_token="</s>")
    assert_exact(mask(record("q", "a", "q", "b"), tokenizer), tokenizer, ["a</s>", "b</s>"])


def test_the_honest_template_is_accepted(byte_level: Callable[..., Tokenizer]) -> None:
    tokenizer = ChatTokenizer(byte_level("</s>"), HONEST, eos_token="</s>")
    assert_exact(mask(record("q", "a", "q", "b"), tokenizer), tokenizer, ["a</s>", "b</s>"])


def test_a_row_that_the_template_refuses_is_named(mistral: ChatTokenizer) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "user", "assistant")]
    with pytest.raises(TemplateUnusable, match="alternate") as caught:
        mask(Record("openai", turns, "f:7"), mistral)
    assert caught.value.where == "f:7"


@pytest.mark.parametrize("name", ["smol", "mistral"])
def test_a_conversation_that_starts_with_the_assistant_is_a_bad_row(name: str, request: pytest.FixtureRequest) -> None:
    turns = [{"role": role, "content": "x"} for role in ("assistant", "user", "assistant")]
    with pytest.raises(BadRow, match="starts with an assistant turn") as caught:
        mask(Record("sharegpt", turns, "f:7"), request.getfixturevalue(name))
    assert caught.value.where == "f:7"


def test_raw_text_is_learned_whole_with_its_end(smol: ChatTokenizer) -> None:
    masked = mask(Record("text", "one two", "f:7"), smol)
    assert masked.text == "one two<|im_end|>"
    assert masked.trained == b"\x00" + b"\x01" * (len(masked.tokens) - 1)
    assert (masked.bos, masked.prompt) == ("none", 1)


def test_raw_text_gets_the_bos_that_the_tokenizer_would_write(llama: ChatTokenizer) -> None:
    masked = mask(Record("text", "hi", "f:7"), llama)
    assert llama.decode(masked.tokens) == "<|begin_of_text|>hi<|eot_id|>"
    assert masked.trained == b"\x00\x01\x01"
    assert masked.bos == "tokenizer"


def test_text_rendered_beforehand_gets_no_second_bos_or_eos(llama: ChatTokenizer) -> None:
    masked = mask(Record("text", "<|begin_of_text|>hi<|eot_id|>", "f:7"), llama)
    assert llama.decode(masked.tokens) == "<|begin_of_text|>hi<|eot_id|>"


def test_a_chat_gets_the_tokenizers_bos_if_the_template_writes_none(byte_level: Callable[..., Tokenizer]) -> None:
    tokenizer = ChatTokenizer(byte_level("<s>", "</s>", bos="<s>"), bos_token="<s>", eos_token="</s>")
    masked = mask(record("q", "a"), tokenizer)
    assert masked.bos == "tokenizer"
    assert tokenizer.decode(masked.tokens) == "<s>" + masked.text
    assert tokenizer.prompt([{"role": "user", "content": "q"}]) == masked.tokens[: masked.prompt].tolist()
    assert_exact(masked, tokenizer, ["a</s>"])


def test_raw_text_without_an_eos_is_refused(byte_level: Callable[..., Tokenizer]) -> None:
    with pytest.raises(TemplateUnusable, match="never stop") as caught:
        mask(Record("text", "a", "f:7"), ChatTokenizer(byte_level(), "x"))
    assert caught.value.where == "f:7"
