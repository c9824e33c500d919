"""The proof of an export: run the file in llama.cpp and compare it with the trained model."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bp_core.contract import Contract
from bp_core.errors import GgufUnusable
from bp_core.events import Notify, Progress
from bp_core.model_files import VOCABULARY
from bp_core.thought_marks import OPEN

from ..config import EXACT
from ..gguf import pre_tokenizers
from ..gguf.metadata import GgufFacts, facts_of
from ..gguf.reader import GgufFile
from ..llama_cpp.engine import Engine
from ..parity import Check, Parity, Trial
from . import prompts, tensor_check
from . import samples as rows
from .corpus import TEXTS
from .divergence import STRICT, TURNED, Divergence, FirstChoices, Loss, Strength, distinct_positions
from .endings import GENERATIONS, check_endings
from .trained_model import Reference, TrainedModel
from .vocabulary_check import check_vocabulary

FLOAT_KL = 1e-4  # nats per token; float16 costs SmolLM2-135M a tenth of it
# Nats per token from the f16 file: about four times what llama.cpp's own tables have for an 8 B model.
GATES = {
    "bf16": 1e-3,
    "q8_0": 0.01,
    "q6_k": 0.02,
    "q5_k_m": 0.05,
    "q5_k_s": 0.06,
    "q4_k_m": 0.12,
    "q4_k_s": 0.14,
    "iq4_xs": 0.14,
    "q4_0": 0.25,
}
COARSEST = 0.3  # for any other format
CEILING = 4  # times the gate
KEPT = GATES["q4_k_m"]  # what any format may cost that is chosen for the user
MISSING = 0.25  # how far from 1 the strength of the training may be in such a file
SMALL_MODEL = 1_000_000_000  # parameters; smaller models lose more by quantisation, which is not the file's fault
SURVIVED = "training survived in the final file"
_MARKS = "llama.cpp splits words of this vocabulary at combining marks, so it tokenises Hindi or Thai differently"


@dataclass(frozen=True)
class Measurement:
    """A quantised file on the rows of the proof: its distance from the f16 file, what it kept, and its loss."""

    divergence: Divergence
    strength: Strength
    loss: Loss


@dataclass
class Prover:
    """Collects checks: first of the float GGUF against the trained model, then of the final file against both.

    Limits for the float file, whose weights are rounded to float16 and computed by another program:

    * A context counts once, however many rows start with it (`distinct_positions`).
    * The mean Kullback–Leibler divergence is at most FLOAT_KL, plus what rounding takes of a weak adapter.
    * The mean loss on trained tokens differs by at most √(2 × that limit). For small errors e of log-probabilities the
      divergence is half the mean of e², so the mean of e is at most √(2 × divergence).
    * No position prefers another next token, unless rounding explains it (`FirstChoices`).
    * The adapter has its full strength (`Strength.limit`).

    `exact`: the float file was written here from the weights of `model`, so each value must be the nearest float16.
    """

    model: TrainedModel
    quantization: str
    notify: Notify | None = None
    exact: bool = True
    checks: list[Check] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(self.model.tokenizer_folder / VOCABULARY))
        self._splits_at_marks = False
        corpus = [rows.as_sample(text, self._tokenizer) for text in TEXTS]
        self._rows = rows.choose(self.model.samples) or rows.choose(corpus, rows.TOKENS // 2)
        self._positions = distinct_positions(row.tokens for row in self._rows)
        self._truth: list[tuple[np.ndarray, np.ndarray]] = []  # reference logits before and after training
        self._float: list[np.ndarray] = []  # logits of the float file
        self._divergence_limit = FLOAT_KL

    @property
    def proven(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def lost(self) -> bool:
        """Whether all that failed is what too few bits may do: the distance from the f16 file, or the strength."""
        by_bits = (SURVIVED, f"{self.quantization} divergence from f16")
        failed = [check.name for check in self.checks if not check.passed]
        return bool(failed) and all(name in by_bits for name in failed)

    @property
    def _finer(self) -> str:
        """A format with less noise than the file's."""
        return "f16" if self.quantization in EXACT else "q8_0"

    def parity(self) -> Parity:
        with_model = "model" if self.model.reference else "tensors"
        tokens = sum(len(row.tokens) for row in self._rows)
        return Parity(self.quantization, with_model, tokens, tuple(self.checks), self.losses, self.types)

    def check_float(self, path: Path) -> None:
        """Check the f16 GGUF strictly. If it is the final file, check prompts and endings too."""
        facts = self._structure("f16", path)
        if facts is None:
            return
        with self._engine(path) as engine:
            self._check_tokens(engine)
            if self.model.reference:
                self._check_logits(engine, self.model.reference)
            else:
                self._float = [engine.logits(row.tokens) for row in self._rows]
        if self.exact:
            self.checks.append(tensor_check.check_rounding(GgufFile(path), self.model.converter, self.notify))
        self._record_loss("merged", self._float)
        self._judge_loss()
        if self.quantization in ("f16", "f32"):
            self.losses["final"] = self.losses["merged"]
            self._check_talk(path, facts)

    def check_final(self, path: Path) -> None:
        """Check the final file against the f16 file, and its adapter's strength against the trained model."""
        facts = self._structure("final", path)
        if facts is None:
            return
        self.checks += tensor_check.check_adapter(GgufFile(path), self.model.converter, self.notify)
        if len(self._float) < len(self._rows):
            return  # the float file could not be compared, and has failed
        measured = self.measure(path)
        if measured.loss.count:
            self.losses["final"] = measured.loss.mean
        self._judge_quantisation(measured.divergence, facts.parameters)
        if self._truth:
            self._judge_strength(SURVIVED, measured.strength, measured.divergence.mean)
        self._check_talk(path, facts)

    def measure(self, path: Path) -> Measurement:
        """Compute the rows with a quantised file, and compare with the f16 file and the trained model."""
        divergence, strength, loss = Divergence(), Strength(), Loss()
        with self._engine(path) as engine:
            for number, (row, positions) in enumerate(zip(self._rows, self._positions, strict=True)):
                logits = engine.logits(row.tokens)
                divergence.add(self._float[number][positions], logits[positions])
                loss.add(logits, row.tokens, row.trained)
                if self._truth:
                    before, after = self._truth[number]
                    strength.add(before[positions], after[positions], logits[positions])
                self._progress("prove final", number + 1)
        return Measurement(divergence, strength, loss)

    def trial(self, path: Path, quantization: str) -> Trial:
        """Whether a file keeps what was learned: stricter than the proof, which lets a small model lose more."""
        measured = self.measure(path)
        noise = measured.divergence.mean
        kept = noise <= min(GATES.get(quantization, COARSEST), KEPT)
        if self._truth:
            kept = kept and abs(measured.strength.value - 1) < MISSING
        loss = measured.loss.mean if measured.loss.count else None
        strength = measured.strength.value if self._truth else None
        return Trial(quantization, path.stat().st_size, noise, loss, strength, kept)

    def _engine(self, path: Path) -> Engine:
        return Engine(path, context=max(len(row.tokens) for row in self._rows), gpu=False)

    def _structure(self, label: str, path: Path) -> GgufFacts | None:
        """Check that the file is complete and follows the contract. None if it cannot be checked further."""
        try:
            gguf = GgufFile(path)
            facts = facts_of(gguf)
        except GgufUnusable as error:
            self._add(f"{label} file is complete", error.message, "a whole GGUF", passed=False)
            return None
        self.types = facts.types
        self._splits_at_marks = gguf.fields.get("tokenizer.ggml.pre") in pre_tokenizers.SPLIT_AT_MARKS
        missing = [planned.name for planned in self.model.converter.plan if planned.name not in gguf.tensors]
        self._add(f"{label} file is complete", f"{len(missing)} tensors missing", 0, passed=not missing)
        if self.exact:
            self.checks.append(check_vocabulary(gguf, self.model.vocabulary, self._tokenizer, self.model.contract))
        if self.model.contract:
            self._check_contract(label, facts, self.model.contract)
        return facts if not missing else None

    def _check_contract(self, label: str, facts: GgufFacts, contract: Contract) -> None:
        if contract.template:
            same = facts.template == contract.template
            self._add(f"{label} chat template", "same" if same else "different", "that of the contract", passed=same)
        if contract.terminators:
            ends = facts.eos in contract.terminators
            self._add(f"{label} end of turn", facts.eos, list(contract.terminators), passed=ends)
        if contract.bos != "template":
            wanted = contract.bos == "tokenizer"
            self._add(f"{label} adds a first token", facts.add_bos, wanted, passed=facts.add_bos == wanted)

    def _check_tokens(self, engine: Engine) -> None:
        prefix = self.model.vocabulary.prefix
        texts = [prefix + text for text in (*TEXTS, *self._special_texts(), *(s.text for s in self.model.samples))]
        different = [text for text in map(self._normal, texts) if self._ids(text) != engine.tokenize(text)]
        strict = [text for text in different if not self._splits_at_marks or not rows.has_marks(text)]
        note = f"for example {(strict or different)[0][:80]!r}" if different else f"{len(texts)} texts"
        if different and not strict:
            self._warn("token ids", f"{len(different)} texts differ", 0, f"{note}: {_MARKS}")
        else:
            self._add("token ids", f"{len(strict)} texts differ", 0, passed=not strict, note=note)
        add = bool(self.model.contract and self.model.contract.bos == "tokenizer")
        differing = 0
        for sample in self.model.samples:
            tokens = engine.tokenize(sample.text, add_special=add)
            differing += tokens[: len(sample.tokens)] != list(sample.tokens)
        if differing:
            note = "the training data was tokenised differently; the model may see prompts it was not trained on"
            self._warn("training tokens", f"{differing} samples differ", 0, note)

    def _check_logits(self, engine: Engine, reference: Reference) -> None:
        divergence, choices, strength, trained = Divergence(), FirstChoices(), Strength(), []
        for number, (row, positions) in enumerate(zip(self._rows, self._positions, strict=True)):
            before, after = reference.logits(row.tokens, adapter=False), np.asarray(reference.logits(row.tokens))
            logits = engine.logits(row.tokens)
            if after.shape != logits.shape:
                self._add("vocabulary", logits.shape[1], after.shape[1], passed=False)
                return
            trained.append(after)
            self._float.append(logits)
            divergence.add(after[positions], logits[positions])
            choices.add(after[positions], logits[positions])
            if before is not None:
                self._truth.append((np.asarray(before), after))
                strength.add(np.asarray(before)[positions], after[positions], logits[positions])
            self._progress("prove f16", number + 1)
        self._judge_float(divergence, choices, strength)
        if self._truth:
            self._record_loss("base", [before for before, _ in self._truth])
        self._record_loss("adapter", trained)

    def _judge_float(self, divergence: Divergence, choices: FirstChoices, strength: Strength) -> None:
        # Rounding may take a share of a weak adapter: that share, squared, of the divergence that the adapter made.
        weak = bool(self._truth) and strength.weak
        self._divergence_limit = FLOAT_KL + (strength.limit() ** 2 * strength.moved.mean if weak else 0.0)
        passed = divergence.mean <= self._divergence_limit
        self._add("f16 divergence", divergence.mean, self._divergence_limit, passed=passed)
        largest = float(choices.ratios.max(initial=0.0))
        note = f"of {divergence.rows} positions; a changed choice is at most {largest:.2g} × the noise there"
        turned = f"{choices.turned} changed by more than {TURNED:g} × the noise"
        self._add("f16 first choices", turned, 0, passed=not choices.turned, note=note)
        if self._truth:
            self._judge_strength("training survived in the f16 file", strength, None)

    def _judge_loss(self) -> None:
        """Compare the losses on trained tokens of the float file and the trained model."""
        if "adapter" in self.losses and "merged" in self.losses:
            change, limit = abs(self.losses["merged"] - self.losses["adapter"]), math.sqrt(2 * self._divergence_limit)
            self._add(
                "f16 loss", change, limit, passed=change <= limit, note="difference from the trained model's loss"
            )

    def _judge_strength(self, name: str, strength: Strength, noise: float | None) -> None:
        """`noise`: divergence caused by quantisation, in nats per token; None for the f16 file."""
        moved, value = strength.moved.mean, strength.value
        limit = strength.limit(noise)
        measured = {"strength": value, "training moved the model by": moved}
        if limit >= 1:
            note = "training changed the model too little to measure this"
            self._warn(name, measured, None, note if noise is None else f"{note}; {self._finer} has less noise")
        else:
            survived = abs(value - 1) < limit
            note = "" if survived else "the training is not in the file"
            if survived and noise is None and abs(value - 1) > STRICT:
                note = f"a weak change: float16 keeps {value:.0%} of it; train longer or with a higher rate"
            self._add(name, measured, [1 - limit, 1 + limit], passed=survived, note=note)

    def _judge_quantisation(self, divergence: Divergence, parameters: int) -> None:
        gate = GATES.get(self.quantization, COARSEST)
        name = f"{self.quantization} divergence from f16"
        measured = {"divergence": divergence.mean, "first choices": divergence.top1}
        if divergence.mean <= gate:
            self._add(name, measured, gate, passed=True)
        elif parameters < SMALL_MODEL and divergence.mean <= gate * CEILING:
            note = f"a model this small loses more in this format; try {self._finer}"
            self._warn(name, measured, gate, note)
        else:
            self._add(name, measured, gate, passed=False)

    def _check_talk(self, path: Path, facts: GgufFacts) -> None:
        """Check the prompts, and whether answers end."""
        if self.notify:
            self.notify(Progress("render prompts", 0, 0))
        self.checks += prompts.check(path, facts, self.model.tokenizer_folder, self.model.contract)
        asked = sorted((sample.prompt for sample in self.model.samples if sample.prompt), key=len)[:GENERATIONS]
        if not asked:
            return
        texts = [self._tokenizer.decode(list(prompt), skip_special_tokens=False) for prompt in asked]
        opened = [text.rstrip().endswith(OPEN) for text in texts]
        contract = self.model.contract
        stop = contract.terminators if contract and contract.terminators else (-1 if facts.eos is None else facts.eos,)
        self.checks += check_endings(path, asked, opened, stop, self.model.reference, self.notify)

    def _special_texts(self) -> list[str]:
        added = self._tokenizer.get_added_tokens_decoder()
        names = [added[number].content for number in sorted(added)]
        # Gemma's runs of blanks are no marks: a text has them as blanks, and so have TEXTS.
        names = [name for name in names if name.strip("▁ \n")]
        return [f"{name}user\nHi {name} there{name}\n" for name in names[:16]]

    def _normal(self, text: str) -> str:
        # llama.cpp does not normalise text; tokenizers with a normaliser use this form
        return unicodedata.normalize("NFC", text) if self._tokenizer.normalizer else text

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _record_loss(self, name: str, logits: Iterable[np.ndarray]) -> None:
        loss = Loss()
        for row, scores in zip(self._rows, logits, strict=False):
            loss.add(scores, row.tokens, row.trained)
        if loss.count:
            self.losses[name] = loss.mean

    def _progress(self, stage: str, done: int) -> None:
        if self.notify:
            self.notify(Progress(stage, done, len(self._rows)))

    def _add(self, name: str, measured: Any, limit: Any, *, passed: bool, note: str = "") -> None:
        self.checks.append(Check(name, measured, limit, passed, note=note))

    def _warn(self, name: str, measured: Any, limit: Any, note: str) -> None:
        self.checks.append(Check(name, measured, limit, passed=True, warning=True, note=note))


def prove(model: TrainedModel, float_gguf: Path, final_gguf: Path, quantization: str) -> Parity:
    """Compare two files that were written here with the trained model, on at most 512 tokens and three answers.

    Differences are in the report. Raises LlamaCppMissing, LlamaCppFailed.
    """
    prover = Prover(model, quantization)
    prover.check_float(float_gguf)
    if prover.proven and quantization != "f16":
        prover.check_final(final_gguf)
    return prover.parity()
