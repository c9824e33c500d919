"""The proof of any GGUF: compare it with a new file made from the same base and adapter."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import LlamaFileType, TokenType

from bp_core import folders
from bp_core.errors import GgufUnusable, LlamaCppFailed
from bp_core.events import Notify
from bp_core.examples import Sample

from ..gguf.lora import LoraConverter
from ..gguf.metadata import facts_of, is_adapter
from ..gguf.reader import GgufFile
from ..llama_cpp.engine import Engine, require_llama_cpp
from ..output_paths import require_space
from ..parity import Check, Parity
from .prover import Prover
from .tensor_check import check_formats
from .trained_model import Reference, TrainedModel

_FLOATS = ("f32", "f16")
# Fields that llama.cpp computes from others if they are missing.
_ASSUMED = ("key_length", "value_length", "rope.dimension_count", "vocab_size", "add_space_prefix", "add_eos_token")
_DEFAULTS = {"rope.freq_base_swa": 10000.0}  # and those for which it then takes a number
_SCORES, _TOKENS, _TYPES = (f"tokenizer.ggml.{name}" for name in ("scores", "tokens", "token_type"))
_EOS = "tokenizer.ggml.eos_token_id"
_END_FIELDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_LORA_FIX = "Give what it was made of: --adapter FOLDER, and --base MODEL where the adapter does not name it."


def verify(
    file: Path,
    base: Path | None = None,
    adapter: Path | None = None,
    *,
    reference: Reference | None = None,
    samples: Sequence[Sample] = (),
    notify: Notify | None = None,
) -> Parity:
    """Check `file` against `base` with `adapter` merged in, or against `base` alone, or only that it is complete.

    `reference` is a rail that has opened them in float32; without it, the weights in the file are compared with the
    merged weights. Raises FileMissing, LlamaCppMissing, and the errors of reading base and adapter.
    """
    require_llama_cpp()
    try:
        gguf = GgufFile(file)
        gguf.field("general.architecture")
    except GgufUnusable as error:
        return _broken(error.message)
    if is_adapter(gguf):
        return _adapter_parity(gguf, base, adapter, notify)
    if base is None:
        return _alone(gguf)
    model = TrainedModel.open(adapter, base, reference=reference, samples=samples)
    return _Verification(gguf, model, notify).run()


class _Verification:
    def __init__(self, gguf: GgufFile, model: TrainedModel, notify: Notify | None) -> None:
        self.gguf, self.model, self.notify = gguf, model, notify
        self.prover = Prover(model, _format(gguf), notify, exact=False)  # other programs round differently

    def run(self) -> Parity:
        converter = self.model.converter
        place = Path(tempfile.gettempdir())
        require_space(place / "f16.gguf", converter.size)
        with tempfile.TemporaryDirectory(prefix="backprop-verify-") as folder:
            fresh = Path(folder, "f16.gguf")
            converter.write(fresh, self.model.vocabulary, "verify", self.notify)
            self.prover.checks.append(self._fields(GgufFile(fresh)))
            try:
                self._behaviour(fresh)
            except LlamaCppFailed as error:
                self.prover.checks.append(Check("llama.cpp runs it", error.message, "no error", passed=False))
        return self.prover.parity()

    def _behaviour(self, fresh: Path) -> None:
        self.prover.checks.append(check_formats(self.gguf, self.model.converter, self.notify))
        if self.prover.quantization in _FLOATS:
            self.prover.check_float(self.gguf.path)
            return
        self.prover.check_float(fresh)
        self.prover.check_final(self.gguf.path)

    def _fields(self, fresh: GgufFile) -> Check:
        """Compare the fields that define computation and vocabulary with those that we would write."""
        expected, stored = _model_fields(fresh), _model_fields(self.gguf)
        wrong = [name for name in expected if not _equal(stored.get(name), expected[name], name)]
        if self._ends_alike(stored):
            wrong = [name for name in wrong if not name.endswith(_END_FIELDS)]
        if _SCORES in wrong and same_order(stored, expected):
            wrong.remove(_SCORES)
        wrong += [name for name in stored.keys() - expected.keys() if "rope" in name]
        shown = ", ".join(sorted(wrong)[:5])
        return Check("fields of the file", f"{len(wrong)} differ", 0, not wrong, note=shown)

    def _ends_alike(self, stored: Mapping[str, Any]) -> bool:
        """Whether the file's end of an answer is one of several, of which no contract says which is the first."""
        contract, tokenizer = self.model.contract, self.model.tokenizer
        derived = tokenizer is not None and tokenizer.derived
        return derived and contract is not None and stored.get(_EOS) in contract.terminators


def _model_fields(gguf: GgufFile) -> Mapping[str, Any]:
    return {name: value for name, value in gguf.fields.items() if not name.startswith("general.")}


def _equal(value: Any, expected: Any, name: str) -> bool:
    if value is None:
        value = next((default for ending, default in _DEFAULTS.items() if name.endswith(ending)), None)
    if value is None:
        return name.endswith(_ASSUMED)
    if isinstance(expected, float):
        return bool(np.isclose(value, expected, rtol=1e-6))
    return bool(value == expected)


def same_order(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether scores put the merged pieces of a SentencePiece vocabulary in the same order: nothing else counts.

    Pieces of one character are never made by a merge.
    """
    scores, wanted = stored.get(_SCORES, []), expected[_SCORES]
    if stored.get(_TOKENS) != expected.get(_TOKENS) or len(scores) != len(wanted):
        return False
    kinds = zip(expected[_TOKENS], expected[_TYPES], strict=True)
    merged = np.array([len(text) > 1 and kind == TokenType.NORMAL for text, kind in kinds])
    order = np.argsort(-np.asarray(wanted, np.float64)[merged], kind="stable")
    return bool((np.diff(np.asarray(scores, np.float64)[merged][order]) <= 0).all())


def _format(gguf: GgufFile) -> str:
    """The number format that the file names, by our name."""
    try:
        name = LlamaFileType(gguf.fields.get("general.file_type", 1)).name
    except ValueError:
        return "unknown"
    return str(name).removeprefix("ALL_").removeprefix("MOSTLY_").lower()


def _adapter_parity(gguf: GgufFile, base: Path | None, adapter: Path | None, notify: Notify | None) -> Parity:
    """The proof of a LoRA adapter in a GGUF: against the folder it was made of, or by the proof beside it."""
    if base and adapter:
        return LoraConverter(adapter, base).check(gguf.path, notify)
    tensors = f"{len(gguf.tensors)} tensors"
    checks = [Check("file is complete", tensors, "a whole GGUF", passed=True), *_proven_before(gguf.path)]
    if len(checks) == 1:
        checks.append(Check("compared with its source", "no", "yes", passed=True, warning=True, note=_LORA_FIX))
    types = Counter(tensor.type.name for tensor in gguf.tensors.values())
    return Parity("adapter", "nothing", 0, tuple(checks), {}, dict(types))


def _alone(gguf: GgufFile) -> Parity:
    """Without a base: check that it is complete, runs, and is the file of the parity report beside it, if any."""
    facts = facts_of(gguf)
    checks = [Check("file is complete", f"{len(gguf.tensors)} tensors", "a whole GGUF", passed=True), _runs(gguf.path)]
    checks += list(_proven_before(gguf.path))
    if len(checks) == 2:
        note = "not compared with the trained model: give --adapter or --base"
        checks.append(Check("compared with its source", "no", "yes", passed=True, warning=True, note=note))
    return Parity(_format(gguf), "nothing", 0, tuple(checks), {}, facts.types)


def _runs(path: Path) -> Check:
    try:
        with Engine(path, context=64, gpu=False) as engine:
            logits = engine.logits(engine.tokenize("Hello, world!") or [0])
    except LlamaCppFailed as error:
        return Check("llama.cpp runs it", error.message, "no error", passed=False)
    finite = bool(np.isfinite(logits).all())
    return Check("llama.cpp runs it", "finite" if finite else "not finite", "finite logits", finite)


def _proven_before(path: Path) -> Iterator[Check]:
    """Whether the file is the one of the parity report beside it; no check without a report."""
    report = path.with_suffix(".parity.json")
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        proven, digest = content["proven"], content["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    same = digest == folders.digest(path)
    yield Check("as it was proven", "same" if same else "another file", f"the file of {report.name}", same and proven)


def _broken(message: str) -> Parity:
    return Parity("unknown", "nothing", 0, (Check("file is complete", message, "a whole GGUF", passed=False),), {}, {})
