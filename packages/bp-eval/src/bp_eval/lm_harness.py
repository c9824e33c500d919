"""A rail as a model for lm-evaluation-harness, through its `TemplateLM`, so that it works with every backend."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bp_core.contract import Bos
from bp_core.errors import BadValue
from bp_core.events import Notify, tracked
from bp_core.rail import Rail

_Pair = tuple[Any, list[int], list[int]]  # texts, token ids of the context, token ids of the continuation


class _StopReached(Exception):
    """The generated text contains one of the task's stop strings."""


class Tokenizer(Protocol):
    """What is used of a tokenizer; `prefix` are the ids that it writes before every text (BOS)."""

    bos_token: str | None

    @property
    def prefix(self) -> Sequence[int]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def template(self) -> str: ...
    def token(self, text: str) -> int | None: ...
    def bos(self, text: str) -> Bos: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False) -> str: ...


class RailModel(TemplateLM):  # type: ignore[misc]
    """An open rail. Tokenisation, windows and truncation follow HFLM, lm_eval's own model for transformers."""

    def __init__(self, rail: Rail, tokenizer: Tokenizer, end: int, max_length: int, notify: Notify) -> None:
        super().__init__()
        self._rail, self._tokenizer, self._end, self._notify = rail, tokenizer, end, notify
        self._max_length = max_length

    @property
    def eot_token_id(self) -> int:
        return self._end

    @property
    def prefix_token_id(self) -> int:
        begin = self._tokenizer.token(self._tokenizer.bos_token) if self._tokenizer.bos_token else None
        return self._end if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self._tokenizer.template if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._tokenizer.render(chat_history, add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        begins = add_special_tokens is not False and self._tokenizer.bos(string) == "tokenizer"
        return [*(self._tokenizer.prefix if begins else ()), *self._tokenizer.encode(string)]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        likelihoods: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return likelihoods

    def _loglikelihood_tokens(self, requests: Sequence[_Pair], **_: Any) -> list[tuple[float, bool]]:
        pairs = tracked(requests, "lm-eval: likelihoods", self._notify)
        return [self._likelihood(context, continuation) for _, context, continuation in pairs]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        likelihoods = []
        for request in tracked(requests, "lm-eval: texts", self._notify):
            tokens = self.tok_encode(*request.args)
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self._max_length, 1)
            likelihoods.append(sum(self._likelihood(*make_disjoint_window(window))[0] for window in windows))
        return likelihoods

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        answers = []
        for request in tracked(requests, "lm-eval: answers", self._notify):
            context, options = request.args
            answers.append(self._answer(context, normalize_gen_kwargs(options)))
        return answers

    def _likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log-probability (nats) of `continuation` after `context`, and whether greedy decoding yields it."""
        tokens = (context + continuation)[-(self._max_length + 1) :]
        logits = np.asarray(self._rail.logits(tokens[:-1]), dtype=np.float64)[-len(continuation) :]
        top = logits.max(axis=1)
        picked = logits[np.arange(len(continuation)), continuation]
        total = picked - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return float(total.sum()), bool((logits.argmax(axis=1) == continuation).all())

    def _answer(self, context: str, options: dict[str, Any]) -> str:
        if options.get("do_sample"):
            raise BadValue("the task wants answers drawn at random; they are greedy here.", fix="Choose another task.")
        until = [text for text in options.get("until", []) if text]
        limit = options["max_gen_toks"]
        prompt = self.tok_encode(context)[-max(1, self._max_length - limit) :]
        generated: list[int] = []

        def tell(token: int) -> None:
            generated.append(token)
            if any(text in self._text(generated) for text in until):
                raise _StopReached

        with suppress(_StopReached):
            self._rail.generate(prompt, limit=limit, stop=(self._end,), on_token=tell)
        answer = self._text(generated)
        ends = [answer.find(text) for text in until if text in answer]
        return answer[: min(ends, default=None)]

    def _text(self, generated: Sequence[int]) -> str:
        return self._tokenizer.decode([token for token in generated if token != self._end])
