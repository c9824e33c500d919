"""A model's tokenizer and chat template together, without transformers."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Encoding, Tokenizer

from bp_core.choices import ToolsTemplate
from bp_core.contract import Bos, Contract
from bp_core.errors import BadValue, ModelNotFound, ModelUnusable, TemplateUnusable
from bp_core.model_files import DEFAULT, VOCABULARY, TokenizerConfig, read_vocabulary

from .byte_offsets import TokenBytes, Tokens
from .chat_template import ChatTemplate, Message, chatml
from .shared_prefix import SharedPrefix
from .thoughts_template import has_thoughts, knows_thoughts, with_thoughts
from .tools_template import has_tools, with_tools

_IM_END = "<|im_end|>"
_TOOL_USE = "tool_use"  # transformers' name
_USED = (DEFAULT, _TOOL_USE)
_PROBE_NAME = "a_probe"  # in no template
_PROBE = {"type": "function", "function": {"name": _PROBE_NAME, "parameters": {"type": "object", "properties": {}}}}


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """Texts as the tokenizer encodes them: the ids that all begin with, and the rest of each."""

    start: list[int]
    rest: list[Encoding]


class ChatTokenizer:
    """Text to token ids and back, and conversations to text.

    `tokenizer` is changed: truncation, padding and post-processor are switched off, because they would cut rows, trim
    offsets and add a second BOS. `template` None means ChatML; of several by name `tool_use` is for conversations with
    tools and `default` for others, as in transformers. `others` are further special tokens that the template may use.
    `tools_template` names the form of tools that was added to a template without.

    A template without thoughts learns to read them; what has none is written as before.
    """

    tools_template: ToolsTemplate = "none"

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | Mapping[str, str] | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        **others: str,
    ) -> None:
        self._tokenizer = tokenizer
        self.prefix: tuple[int, ...] = _prefix(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.post_processor = None
        self.bos_token = bos_token
        self.eos_token = eos_token
        added = {token: added.content for token, added in tokenizer.get_added_tokens_decoder().items()}
        self.added: frozenset[int] = frozenset(token for token, text in added.items() if text.strip())
        self._ends = tuple(text for text in added.values() if text.strip())
        tokens = {"bos_token": bos_token, "eos_token": eos_token, **others}
        self.has_template = template is not None
        if template is None:
            template = chatml(self._terminator())
        named = template if isinstance(template, Mapping) else {DEFAULT: template}
        self._names = {name: text for name, text in tokens.items() if text is not None}
        self._templates = {
            name: ChatTemplate(source, self._names) for name, source in named.items() if name in (DEFAULT, _TOOL_USE)
        }
        self._added: dict[str, ChatTemplate] = {}  # by their source

    @classmethod
    def open(cls, folder: str | Path) -> ChatTokenizer:
        """Read a Hugging Face folder; the same files are read once. Raises ModelNotFound, ModelUnusable,
        FileUnreadable, TemplateUnusable.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ModelNotFound("there is no such folder.", where=str(folder))
        vocabulary = folder / VOCABULARY
        if not vocabulary.is_file():
            read_vocabulary(folder)  # which says what is wrong
        config = TokenizerConfig.read(folder)
        state = vocabulary.stat()
        version = (state.st_ino, state.st_mtime_ns, state.st_size)
        return _opened(folder, json.dumps([config.templates, config.special]), version)

    @property
    def special(self) -> list[str]:
        """The texts of the special tokens."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special and token.content.strip()]

    @property
    def template(self) -> str:
        """The chat template's Jinja text."""
        return self._templates[DEFAULT].source

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything that rendering and tokenising depend on."""
        templates = {name: template.source for name, template in self._templates.items()}
        parts = [self._tokenizer.to_str(), templates, self._names, self.prefix]
        parts += [] if self.tools_template == "none" else [self.tools_template]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def reads_clock(self) -> bool:
        """Whether a template can write today's date, so that its text may change from day to day."""
        return any("strftime_now" in template.source for template in self._templates.values())

    def has(self, template: str) -> bool:
        """Whether it is one of the model's own chat templates."""
        return template in (own.source for own in self._templates.values())

    def with_template(self, template: str) -> Self:
        """The same tokenizer with another chat template."""
        return self._changed(has_template=True, _templates={DEFAULT: ChatTemplate(template, self._names)})

    def with_tools(self, form: ToolsTemplate) -> Self:
        """The same tokenizer, its template with tools in this form. Raises BadValue for one that has tools."""
        if form != "none" and self.knows_tools:
            message = f"the model's own chat template has tools, and {form} would be another form of them."
            raise BadValue(message, fix="Leave --tools-template out.")
        return self._changed(tools_template=form)

    def _changed(self, **attributes: object) -> Self:
        other = copy.copy(self)
        for derived in ("fingerprint", "knows_tools", "_has_system"):
            other.__dict__.pop(derived, None)
        other.__dict__.update(attributes, _added={})
        return other

    @functools.cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template writes tools."""
        return _PROBE_NAME in self._probed([{"role": "user", "content": "?"}], [_PROBE])

    @property
    def knows_thoughts(self) -> bool:
        """Whether the model's own template reads thoughts."""
        return knows_thoughts(self.template)

    @functools.cached_property
    def _has_system(self) -> bool:
        """Whether the template writes system turns."""
        turns = [{"role": "system", "content": _PROBE_NAME}, {"role": "user", "content": "?"}]
        return _PROBE_NAME in self._probed(turns)

    def _probed(self, turns: Sequence[Message], tools: Sequence[Message] = ()) -> str:
        """What the model's own template writes; "" where it refuses."""
        try:
            return self._own(tools).render(turns, tools=tools)
        except TemplateUnusable:
            return ""

    def template_for(self, messages: Sequence[Message], tools: Sequence[Message]) -> ChatTemplate:
        """The template that writes a conversation with these tools, or with none."""
        own = self._own(tools)
        source = self.written_by(own.source, tools=has_tools(messages, tools), thoughts=has_thoughts(messages))
        if source == own.source:
            return own
        if source not in self._added:
            self._added[source] = ChatTemplate(source, self._names)
        return self._added[source]

    def own_template(self, tools: Sequence[Message]) -> str:
        """The model's own template for conversations with these tools, or with none."""
        return self._own(tools).source

    def _own(self, tools: Sequence[Message]) -> ChatTemplate:
        return self._templates[_TOOL_USE if tools and _TOOL_USE in self._templates else DEFAULT]

    def written_by(self, own: str, *, tools: bool, thoughts: bool) -> str:
        """The template that writes tools and thoughts, too, where one of the model's `own` templates does not."""
        source = own
        if tools and self.tools_template != "none":
            source = with_tools(source, self.tools_template, has_system=self._has_system)
        if thoughts and not knows_thoughts(own):
            source = with_thoughts(source)
        return source

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Message] = (),
        documents: Sequence[Message] = (),
        thinking: bool = True,
    ) -> str:
        """The conversation as the model's template writes it; without `thinking` the answer is to have no thought,
        where the template has a switch for that. Raises TemplateUnusable.
        """
        template = self.template_for(messages, tools)
        return template.render(messages, add_generation_prompt, tools, documents, thinking)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Message] = (), thinking: bool = True) -> list[int]:
        """The token ids of a prompt for generation, with BOS as in training. Raises TemplateUnusable."""
        text = self.render(messages, True, tools, thinking=thinking)
        return [*(self.prefix if self.bos(text) == "tokenizer" else ()), *self.encode(text)]

    def ends_turn(self, text: str) -> bool:
        """Whether the text contains a special or added token, which can end a turn."""
        return any(end in text for end in self._ends)

    def bos(self, text: str) -> Bos:
        """What adds the BOS to this rendered text: the template, else the tokenizer; never both."""
        if self.bos_token and text.startswith(self.bos_token):
            return "template"
        return "tokenizer" if self.prefix else "none"

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without added BOS or EOS."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, computed in parallel."""
        return [encoding.ids for encoding in self.encodings(texts)]

    def encodings(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids with character offsets, computed in parallel."""
        encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Ids and offsets of at least one text, as `encodings`, but faster for byte-level vocabularies."""
        return self.located(texts, self.encode_chunk(texts))

    def encode_chunk(self, texts: Sequence[str]) -> EncodedChunk:
        """The first half of `tokens`, which leaves the GIL to another thread: the ids of at least one text."""
        if not self._token_bytes.usable:
            return EncodedChunk([], self.encodings(texts))
        shared = self._shared_prefix.shared(texts)
        start = self.encode(texts[0][:shared])
        rest = self._tokenizer.encode_batch_fast([text[shared:] for text in texts], add_special_tokens=False)
        return EncodedChunk(start, rest)

    def located(self, texts: Sequence[str], chunk: EncodedChunk) -> list[Tokens]:
        """The second half of `tokens`: the ids with their offsets."""
        if not self._token_bytes.usable:
            return [*chunk.rest]
        pairs = zip(chunk.rest, texts, strict=True)
        places = self._token_bytes.places
        return [places(chunk.start + rest.ids, text) or self.encodings([text])[0] for rest, text in pairs]

    @functools.cached_property
    def _shared_prefix(self) -> SharedPrefix:
        return SharedPrefix(self._tokenizer)

    @functools.cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens spelled out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def token(self, text: str) -> int | None:
        """The id of the token that is exactly `text`, if there is one."""
        token: int | None = self._tokenizer.token_to_id(text)
        return token

    def stop_ids(self, contract: Contract | None) -> tuple[int, ...]:
        """The tokens that end an answer: the contract's, else the tokenizer's end-of-sequence token."""
        if contract and contract.terminators:
            return contract.terminators
        end = self.token(self.eos_token) if self.eos_token else None
        return () if end is None else (end,)

    def _terminator(self) -> str:
        if self.token(_IM_END) is not None:
            return _IM_END
        if self.eos_token is None:
            message = "the model has no chat template, and neither <|im_end|> nor an eos_token to end a turn with."
            raise TemplateUnusable(message, fix="Add a chat_template or an eos_token to tokenizer_config.json.")
        return self.eos_token


def _prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that the tokenizer adds before a text: its BOS, or nothing."""
    encoding = tokenizer.encode("a", add_special_tokens=True)
    count = next((i for i, special in enumerate(encoding.special_tokens_mask) if not special), 0)
    return tuple(encoding.ids[:count])


@functools.lru_cache(maxsize=2)  # a model and what it is compared with
def _opened(folder: Path, settings: str, version: tuple[int, ...]) -> ChatTokenizer:
    """The tokenizer of a folder with these settings and this version of tokenizer.json."""
    templates, special = json.loads(settings)
    vocabulary = folder / VOCABULARY
    if not isinstance(read_vocabulary(folder).get("model"), dict):
        raise ModelUnusable("this is not a tokenizer of the `tokenizers` library.", where=str(vocabulary))
    if templates and DEFAULT not in templates:
        message = f"none of the chat templates is named default; there are {', '.join(sorted(templates))}."
        raise TemplateUnusable(message, where=str(folder / "tokenizer_config.json"))
    return ChatTokenizer(Tokenizer.from_file(str(vocabulary)), templates or None, **special)
