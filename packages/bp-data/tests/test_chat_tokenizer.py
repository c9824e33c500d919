import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from bp_core.errors import FileUnreadable, ModelNotFound, ModelUnusable, TemplateUnusable
from bp_data import ChatTokenizer

Turns = list[dict[str, str]]
USER = {"role": "user", "content": "hi <b>é漢👩‍👩‍👧</b>"}
ANSWER = {"role": "assistant", "content": ' yo\n"there" '}
SYSTEM = {"role": "system", "content": "be brief"}
TOOL = {"role": "tool", "content": "<é & 'x'>"}
DEVELOPER = {"role": "developer", "content": "x"}

CONVERSATIONS = [
    [USER],
    [USER, ANSWER],
    [USER, ANSWER, USER],
    [SYSTEM, USER, ANSWER, USER, ANSWER],
    [USER, ANSWER, TOOL, ANSWER],
    [USER, DEVELOPER, ANSWER],
    [ANSWER, USER],
]
EXTRA = """{% for message in messages %}
    {% if loop.index > 3 %}
        {% break %}
    {% endif %}
  {{ message | tojson }}|{{ message | tojson(indent=2, sort_keys=True) }}
  {%- generation %}{% set x = 1 %}{{ message.content }}{{ x }}{% endgeneration %}
    {{ x }}{{ pad_token }}{{ unk_token }}{{ tools is none }}{{ strftime_now("%Y") }}
{% endfor %}
{{ namespace(a=1).a }}{{ dict(a=1) }}{{ 'prompt' if add_generation_prompt }}"""


def open_both(folder: Path) -> tuple[ChatTokenizer, PreTrainedTokenizerFast]:
    return ChatTokenizer.open(folder), PreTrainedTokenizerFast.from_pretrained(folder)


def outcome(render: Callable[[], object]) -> object:
    try:
        return render()
    except (TemplateError, TemplateUnusable) as error:
        return f"refused: {error.__cause__ or error}"


def assert_same(ours: ChatTokenizer, theirs: PreTrainedTokenizerFast, messages: Turns, prompt: bool) -> None:
    expected = outcome(lambda: theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    assert outcome(lambda: ours.render(messages, add_generation_prompt=prompt)) == expected


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "extra"])
def test_rendering_equals_transformers(
    family: str,
    messages: Turns,
    prompt: bool,
    templates: dict[str, str],
    byte_level: Callable[..., Tokenizer],
    write_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    template = {**templates, "extra": EXTRA}[family]
    folder = write_folder(tmp_path, byte_level("<s>", "</s>"), chat_template=template, **tokens)
    assert_same(*open_both(folder), messages, prompt)


def test_smollm2_renders_and_encodes_as_in_transformers(smol_folder: Path) -> None:
    ours, theirs = open_both(smol_folder)
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            assert_same(ours, theirs, messages, prompt)
    text = ours.render(CONVERSATIONS[3])
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert ours.encode_batch([text, "a"]) == [ours.encode(text), ours.encode("a")]
    assert ours.decode(ours.encode(text)) == text


def test_special_tokens_may_be_objects_and_templates_may_be_named(
    byte_level: Callable[..., Tokenizer], write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    bos = {"content": "<s>", "lstrip": False, "normalized": False, "__type": "AddedToken"}
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "{{ bos_token }}{{ pad_token }}!"}]
    folder = write_folder(tmp_path, byte_level("<s>"), bos_token=bos, pad_token=None, chat_template=named)
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "old", "eos_token": "</s>"}))
    tokenizer = ChatTokenizer.open(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.render([USER]) == "<s>!"


def test_the_template_file_comes_before_the_setting(
    byte_level: Callable[..., Tokenizer], write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, byte_level(), chat_template="setting")
    (folder / "chat_template.jinja").write_text("file {{ messages[0].content }}", encoding="utf-8")
    assert ChatTokenizer.open(folder).render([USER]) == f"file {USER['content']}"


def test_a_template_for_tools_lies_beside_or_in_the_setting(
    byte_level: Callable[..., Tokenizer], write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    named = [{"name": "tool_use", "template": "t{{ tools[0].function.name }}"}, {"name": "default", "template": "d"}]
    folder = write_folder(tmp_path, byte_level("<s>"), chat_template=named)
    for _ in range(2):
        ours, theirs = open_both(folder)
        assert ours.render([USER], tools=tools) == theirs.apply_chat_template([USER], tools, tokenize=False) == "tf"
        assert ours.render([USER]) == theirs.apply_chat_template([USER], tokenize=False) == "d"
        assert ours.prompt([USER], tools) == ours.encode("tf")
        theirs.save_pretrained(folder)  # as files: chat_template.jinja and additional_chat_templates/tool_use.jinja
        assert (folder / "additional_chat_templates" / "tool_use.jinja").is_file()


def test_documents_and_nulls_are_passed_as_in_transformers(
    byte_level: Callable[..., Tokenizer], write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    template = "{{ documents | tojson }}{{ messages | tojson }}{{ tools is none }}"
    ours, theirs = open_both(write_folder(tmp_path, byte_level("<s>"), chat_template=template))
    messages, documents = [{**USER, "name": None}], [{"title": "a", "text": "é"}]
    expected = theirs.apply_chat_template(messages, documents=documents, tokenize=False)
    if '"name": null' in expected:
        pytest.skip("this transformers still writes nulls")
    assert ours.render(messages, documents=documents) == expected
    assert ours.render(messages) == theirs.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize(("special", "end"), [(("<|im_end|>", "</s>"), "<|im_end|>"), (("</s>",), "</s>")])
def test_without_a_template_it_is_chatml_with_a_terminator_of_one_token(
    special: tuple[str, ...], end: str, byte_level: Callable[..., Tokenizer]
) -> None:
    tokenizer = ChatTokenizer(byte_level(*special), eos_token="</s>")
    rendered = tokenizer.render([{"role": "user", "content": "q"}], add_generation_prompt=True)
    assert rendered == f"<|im_start|>user\nq{end}\n<|im_start|>assistant\n"


def test_without_a_template_and_a_terminator_there_is_no_guess(byte_level: Callable[..., Tokenizer]) -> None:
    with pytest.raises(TemplateUnusable, match="no chat template"):
        ChatTokenizer(byte_level())


def test_what_a_tokenizer_does_by_itself_is_switched_off(byte_level: Callable[..., Tokenizer]) -> None:
    inner = byte_level("<s>", bos="<s>")
    inner.enable_truncation(2)
    inner.enable_padding(length=9)
    tokenizer = ChatTokenizer(inner, "x", bos_token="<s>")
    assert tokenizer.prefix == (tokenizer.token("<s>"),)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    assert [encoding.offsets[-1] for encoding in tokenizer.encodings(["a\n\n "])] == [(1, 3), (3, 4)][1:]


def test_a_tokenizer_that_adds_nothing_has_no_prefix(smol: ChatTokenizer) -> None:
    assert smol.prefix == ()


def test_a_refusing_template_is_quoted(mistral: ChatTokenizer) -> None:
    with pytest.raises(TemplateUnusable, match="Roles must alternate"):
        mistral.render([USER, USER])


RAISING = ("{{ messages[9].content.x }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ ''.__class__.mro() }}")


@pytest.mark.parametrize("template", RAISING)
def test_whatever_a_template_raises_is_ours(template: str, byte_level: Callable[..., Tokenizer]) -> None:
    with pytest.raises(TemplateUnusable):
        ChatTokenizer(byte_level(), template).render([USER])


def test_a_template_cannot_change_the_row_or_reach_python(byte_level: Callable[..., Tokenizer]) -> None:
    messages = [dict(USER)]
    for template in ("{{ messages.append(1) }}", "{{ messages[0].update(content='x') }}"):
        with pytest.raises(TemplateUnusable):
            ChatTokenizer(byte_level(), template).render(messages)
    assert messages == [USER]


def test_a_template_that_does_not_compile_names_its_line(byte_level: Callable[..., Tokenizer]) -> None:
    with pytest.raises(TemplateUnusable, match="line 2"):
        ChatTokenizer(byte_level(), "a\n{% for %}")


def test_an_unusable_folder_is_said(
    byte_level: Callable[..., Tokenizer], write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound):
        ChatTokenizer.open(tmp_path / "nowhere")
    with pytest.raises(ModelUnusable, match=r"tokenizer\.json is missing"):
        ChatTokenizer.open(tmp_path)
    write_folder(tmp_path, byte_level(AddedToken("<s>")), chat_template=[{"name": "rag", "template": "x"}])
    with pytest.raises(TemplateUnusable, match="there are rag"):
        ChatTokenizer.open(tmp_path)
    for content in (b"{", b"[]", b"{}", b"\xff"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(FileUnreadable if content == b"\xff" else ModelUnusable):
            ChatTokenizer.open(tmp_path)
