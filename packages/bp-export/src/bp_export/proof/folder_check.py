"""The proof of a merged or fully trained folder: its files say where an answer ends, and the answers end there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bp_core.contract import Contract
from bp_core.events import Notify
from bp_core.examples import Sample

from ..model_folder import GENERATION, eos_ids, missing_ends
from ..parity import Check, Parity
from ..progress import tracked
from ..weights.model_files import chat_template
from .endings import GENERATED, GENERATIONS
from .trained_model import Reference


def check_folder(
    folder: Path, contract: Contract, reference: Reference | None, samples: Sequence[Sample], notify: Notify | None
) -> Parity:
    """Check a model's folder. `reference` is the trained model, whose weights the folder has."""
    checks = []
    if contract.template:
        same = chat_template(folder) == contract.template
        checks.append(Check("chat template", "same" if same else "different", "that of training", same))
    missing = missing_ends(folder, contract)
    said = f"missing in {', '.join(missing)}" if missing else "in every file"
    checks.append(Check("end of turn", said, "in every file", not missing, note=", ".join(contract.stop)))
    prompts = sorted((sample.prompt for sample in samples if sample.prompt), key=len)[:GENERATIONS]
    if reference and prompts:
        checks.append(_stop_rate(folder, contract, reference, prompts, notify))
    compared = "model" if reference else "nothing"
    return Parity("merged", compared, sum(map(len, prompts)), tuple(checks), {}, {})


def _stop_rate(
    folder: Path, contract: Contract, reference: Reference, prompts: Sequence[Sequence[int]], notify: Notify | None
) -> Check:
    """How many answers of the trained model end where transformers will look for an end.

    A model that never stops fails if it does end its turns as it was trained to.
    """
    ends = eos_ids(folder / GENERATION)
    stopped = trained = 0
    for prompt in tracked(prompts, "generate", notify):
        tokens = reference.generate(prompt, limit=GENERATED, stop=[*ends, *contract.terminators])
        last = tokens[-1] if tokens else None
        stopped += last in ends
        trained += last in contract.terminators
    note = f"of {len(prompts)} answers within {GENERATED} tokens"
    if stopped or trained:
        return Check("answers end", stopped, trained, stopped >= trained, note=note)
    return Check("answers end", 0, 1, passed=True, warning=True, note=f"{note}: it never learned to stop")
