"""The trained model that a file must match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from bp_core.contract import Contract
from bp_core.examples import Sample

from ..gguf import vocabulary
from ..gguf.convert import Converter
from ..gguf.vocabulary import Vocabulary
from ..trained_tokenizer import TrainedTokenizer, trained_tokenizer
from ..weights.merged_weights import trained_weights


class Reference(Protocol):
    """The trained model in float32, run by a rail. `logits` are float32 [tokens, vocabulary]."""

    def logits(self, tokens: Sequence[int], *, adapter: bool = True) -> Any:
        """With `adapter=False` those of the model before training; None if they are not known."""
        ...

    def input_squares(self, rows: Sequence[Sequence[int]]) -> Mapping[str, Any]:
        """Sums over all tokens of each linear layer's squared inputs, float [columns], by its name in the base."""
        ...

    def generate(self, prompt: Sequence[int], *, limit: int, stop: Sequence[int]) -> list[int]: ...


@dataclass(frozen=True)
class TrainedModel:
    """The trained model that a file must match: its weights, its contract, and the model itself (`reference`)."""

    base: Path
    converter: Converter
    contract: Contract | None = None
    reference: Reference | None = None
    samples: Sequence[Sample] = ()
    tokenizer: TrainedTokenizer | None = None

    @classmethod
    def open(
        cls,
        adapter: Path | None,
        base: Path,
        *,
        tokenizer: TrainedTokenizer | None = None,
        reference: Reference | None = None,
        samples: Sequence[Sample] = (),
    ) -> TrainedModel:
        """From the folders of adapter and base; without an adapter, `base` was trained in full.

        `tokenizer` is theirs, if it has been read already, `reference` a rail that has opened both. Raises the errors
        of reading them.
        """
        converter = Converter(trained_weights(adapter, base), base)
        tokenizer = tokenizer or trained_tokenizer(adapter, base)
        return cls(base, converter, tokenizer.contract, reference, samples, tokenizer)

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files are."""
        return self.tokenizer.folder if self.tokenizer else self.base

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What a GGUF of this model must have as its vocabulary."""
        return vocabulary.read(self.tokenizer_folder, self.converter.vocabulary_size, self.contract)
