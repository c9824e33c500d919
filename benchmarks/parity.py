"""Our numbers beside those of others: TRL's trainers, peft's adapters, bitsandbytes' 4 bits. One table.

The same weights, tokens and seed on both sides, in float32 on the CPU. `uv run python benchmarks/parity.py` prints the
table for the embedded model; tests/test_parity.py holds each row to its tolerance on a tiny one.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from backpropagate import Trainer
from backpropagate.models import locate
from bp_core.choices import Method
from bp_core.examples import Example
from bp_core.rail import Job
from bp_core.recipe import Recipe
from bp_cuda.rail import CpuRail
from bp_data import ChatTokenizer
from bp_data.preparing.batches import Step
from bp_export.weights.merge import write_merged
from bp_resilience import learning_rate
from bp_resilience.evaluation import measure_kl_reference

QUESTIONS = ["What is two plus two?", "Name a colour.", "Who are you?", "Say yes or no."]
GOOD = ["It is four.", "Blue, for example.", "A small model.", "Yes."]
BAD = ["Five, of course!", "I will not tell you any colour at all.", "No idea.", "Perhaps, perhaps not."]
RATED = [True, True, False, True]
QUIET = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}
LOSS, GRADIENT, CURVE, LOGITS = 1e-5, 1e-5, 1e-4, 1e-5
WEIGHTS = 1e-6  # of a matrix's largest weight; a unit of float32 is 1.2e-7
ADAPTERS: dict[str, dict[str, object]] = {
    "LoRA": {}, "rsLoRA": {"rslora": True}, "DoRA": {"dora": True},
    "PiSSA": {"init": "pissa"}, "OLoRA": {"init": "olora"}, "orthogonal": {"init": "orthogonal"},
}  # fmt: skip
Row = tuple[list[int], list[int], bool]  # prompt, answer, verdict


@dataclass(frozen=True)
class Compared:
    """One number of ours and the reference's; `difference` is relative: of logits the largest, to the largest of them,
    of weights the largest, to the largest of its matrix."""

    what: str
    reference: str
    ours: float
    theirs: float
    difference: float
    tolerance: float

    @property
    def equal(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Both:
    """One model with one adapter, opened by our rail and, with eager attention, by transformers and peft."""

    rail: CpuRail
    model: PeftModel
    recipe: Recipe
    tokenizer: ChatTokenizer
    folder: Path

    def rows(self, answers: Sequence[Sequence[str]], prompts: Sequence[str]) -> list[Row]:
        """Of each prompt its answers, in turn."""
        encode = self.tokenizer.encode
        return [
            (encode(prompt), [*encode(texts[n]), *encode("<|im_end|>")], RATED[n])
            for n, prompt in enumerate(prompts)
            for texts in answers
        ]

    def step(self, rows: Sequence[Row], size: int = 1) -> Step:
        made = [Example([*p, *a], bytes([0] * len(p) + [1] * len(a)), good) for p, a, good in rows]
        return Step([made[n : n + size] for n in range(0, len(made), size)], self.recipe.method)

    def loss(self, examples: Step, micro_batch: int) -> float:
        """Our mean loss; its gradients are left on the parameters."""
        kl_reference = measure_kl_reference(self.rail, examples, micro_batch)
        return sum(self.rail.accumulate(b, examples.weight) for b in examples.split(micro_batch, kl_reference))

    def compare(self, what: str, reference: str, ours: float, theirs: float) -> Iterator[Compared]:
        """The losses, and the gradients that both sides now have: the norm of their difference over their norm."""
        yield Compared(f"{what}: loss", reference, ours, theirs, abs(ours - theirs) / abs(theirs), LOSS)
        pairs = {n: p.grad for n, p in self.model.named_parameters() if p.requires_grad}
        mine = torch.cat([p.grad.flatten() for p in self.rail.parameters.values()])
        other = torch.cat([pairs[name].flatten() for name in self.rail.parameters])
        error = ((mine - other).norm() / other.norm()).item()
        allowed = GRADIENT * self.model.config.num_hidden_layers / 2  # each layer adds float32's own rounding
        yield Compared(f"{what}: gradient", reference, mine.norm().item(), other.norm().item(), error, allowed)


def opened(model: Path, folder: Path, *, moved: bool = True, **settings: object) -> Both:
    """The model with a fresh adapter, or one that is moved so that it changes what the model says."""
    settings = dict(backend="cpu", dtype="float32", report_to="none", output=str(folder / "out"), rank=4) | settings
    plan = Trainer(str(model), **settings).plan(_data(str(settings.get("method", "sft"))), steps=10)
    rail = CpuRail()
    rail.open(Job(model, recipe=plan.recipe, dtype="float32"))
    for index, parameter in enumerate(rail.parameters.values() if moved else ()):
        torch.manual_seed(index)
        parameter.data += 0.05 * torch.randn_like(parameter)
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    rail.write_adapter(adapter)
    base = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager", dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    return Both(rail, peft, plan.recipe, ChatTokenizer.open(model), folder)


def sft(model: Path, folder: Path) -> Iterator[Compared]:
    """Loss and gradient of the first step, then the losses of ten steps with the same rates."""
    both = opened(model, folder, moved=False)
    rows = both.rows([GOOD], QUESTIONS)
    examples = both.step(rows)
    trainer, losses = _sft_trainer(both, rows, model)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = both.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
    expected.loss.backward()
    yield from both.compare("SFT", "TRL SFTTrainer's batch", both.loss(examples, 3), expected.loss.item())
    both.model.zero_grad()
    both.rail.discard()
    trainer.train()
    for number, theirs in enumerate(losses):
        ours = both.loss(examples, 4)
        both.rail.update(learning_rate(both.recipe, number))
        name = f"SFT: loss of step {number + 1} of 10"
        yield Compared(name, "TRL SFTTrainer", ours, theirs, abs(ours - theirs) / theirs, CURVE)


def _sft_trainer(both: Both, rows: Sequence[Row], model: Path) -> tuple[SFTTrainer, list[float]]:
    recipe, losses = both.recipe, []

    class Exact(SFTTrainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.item())
            return loss

    data = [{"input_ids": [*p, *a], "labels": [-100] * len(p) + a} for p, a, _ in rows]
    optimizer = torch.optim.AdamW(
        [p for p in both.model.parameters() if p.requires_grad], lr=recipe.learning_rate, weight_decay=0.0
    )
    rates = LambdaLR(optimizer, lambda step: learning_rate(recipe, step) / recipe.learning_rate)
    args = SFTConfig(
        output_dir=str(both.folder / "trl"), per_device_train_batch_size=len(rows), max_steps=10, max_length=128,
        max_grad_norm=recipe.max_grad_norm, save_strategy="no", logging_strategy="no", **QUIET,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = Exact(
        model=both.model, args=args, train_dataset=Dataset.from_list(data), processing_class=tokenizer,
        optimizers=(optimizer, rates),
    )  # fmt: skip
    return trainer, losses


def pairs(method: Method, model: Path, folder: Path) -> Iterator[Compared]:
    """A step of four pairs against TRL's mean over them, one at a time.

    TRL's ORPO learns the prompt too, so its prompts are of one token here, before which nothing is learned; after
    longer prompts its odds ratio alone is compared.
    """
    both = opened(model, folder, method=method)
    trainer = _pair_trainer(method, both, model)
    prompts = ["<|im_start|>"] * 4 if method == "orpo" else QUESTIONS
    rows, total, right = both.rows([GOOD, BAD], prompts), 0.0, 0.0
    for n in range(0, 8, 2):
        loss, found = trainer.get_batch_loss_metrics(both.model, _pair_batch(rows[n : n + 2]))
        (loss / 4).backward()
        total += loss.item() / 4
        right += float(found["rewards/accuracies"]) / 4
    reference = f"TRL {type(trainer).__name__}"
    yield from both.compare(method, reference, both.loss(both.step(rows, 2), 3), total)
    ours = sum(both.rail.evaluate(batch).right for batch in both.step(rows, 2).split(3)) / 4
    yield Compared(f"{method}: accuracy", f"{reference}, rewards/accuracies", ours, right, abs(ours - right), 0.0)
    if method == "orpo":
        pair = both.rows([GOOD, BAD], QUESTIONS)[:2]
        _, found = trainer.get_batch_loss_metrics(both.model, _pair_batch(pair))
        theirs = -found["logps/chosen"] - both.recipe.beta * found["log_odds_ratio"]
        ours = both.loss(both.step(pair, 2), 1)
        yield Compared("orpo: after a longer prompt", reference, ours, theirs, abs(ours - theirs) / theirs, LOSS)


def _pair_trainer(method: Method, both: Both, model: Path) -> ORPOTrainer | CPOTrainer:
    common = {"output_dir": str(both.folder / "trl"), "max_length": 128, "per_device_train_batch_size": 1, **QUIET}
    data = Dataset.from_list(_data(method))
    given = {"model": both.model, "train_dataset": data, "processing_class": AutoTokenizer.from_pretrained(model)}
    if method == "orpo":
        return ORPOTrainer(args=ORPOConfig(beta=both.recipe.beta, **common), **given)
    constants = {"beta": both.recipe.beta, "simpo_gamma": both.recipe.gamma, "cpo_alpha": 0.0}
    return CPOTrainer(args=CPOConfig(loss_type="simpo", **constants, **common), **given)


def _pair_batch(pair: Iterable[Row]) -> dict[str, torch.Tensor]:
    """A chosen and a rejected row as TRL's collator gives them."""
    batch = {}
    for kind, (prompt, answer, _) in zip(("chosen", "rejected"), pair, strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        batch |= {f"{kind}_input_ids": ids, f"{kind}_attention_mask": torch.ones_like(ids), f"{kind}_labels": labels}
    return batch


def rated(model: Path, folder: Path, micro_batch: int) -> Iterator[Compared]:
    """A step of four rated answers; ours is cut into micro-batches, which must change nothing."""
    both = opened(model, folder, method="kto")
    weights = {name: getattr(both.recipe, name) for name in ("desirable_weight", "undesirable_weight")}
    args = KTOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=4, beta=both.recipe.beta, max_length=128,
        **weights, **QUIET,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = Dataset.from_list(_data("kto"))
    trainer = KTOTrainer(model=both.model, args=args, train_dataset=data, processing_class=tokenizer)
    trainer.model.delete_adapter("ref")  # a copy of ours; the paper's reference is the base
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model, batch)
    expected.backward()
    ours = both.loss(both.step(_rated_rows(batch)), micro_batch)
    yield from both.compare(f"kto, {micro_batch} at once", "TRL KTOTrainer", ours, expected.item())


def _rated_rows(batch: Mapping[str, torch.Tensor]) -> list[Row]:
    rows = []
    names = ("input_ids", "attention_mask", "completion_mask", "label")
    for ids, real, answer, label in zip(*(batch[name] for name in names), strict=True):
        tokens, start = ids[real == 1].tolist(), answer[real == 1].tolist().index(1)
        rows.append((tokens[:start], tokens[start:], bool(label)))
    return rows


def adapters(model: Path, folder: Path) -> Iterator[Compared]:
    """Each kind of adapter: our logits beside peft's on the written folder, our merge beside peft's.

    Merged weights are stored as the base is. In 16 bits their rounding would be the largest difference, so the base is
    stored in float32.
    """
    base = _in_float32(model, folder / "base")
    for name, settings in ADAPTERS.items():
        both = opened(base, folder / name, **settings)
        tokens = both.tokenizer.encode("The same words, computed twice.")
        with torch.no_grad():
            theirs = both.model.eval()(torch.tensor([tokens])).logits[0]
        yield _largest(f"{name}: logits", "peft's forward", torch.tensor(both.rail.logits(tokens)), theirs, LOGITS)
        write_merged(folder / name / "adapter", base, folder / name / "merged")
        ours = AutoModelForCausalLM.from_pretrained(folder / name / "merged", dtype=torch.float32).state_dict()
        merged = both.model.merge_and_unload().state_dict()
        error = max(((ours[key] - merged[key]).abs().max() / merged[key].abs().max()).item() for key in merged)
        norms = (
            torch.cat([weights[key].flatten() for key in merged]).double().norm().item()  # in float32: 3 % off
            for weights in (ours, merged)
        )
        yield Compared(f"{name}: merged weights", "peft's merge_and_unload", *norms, error, WEIGHTS)


def _in_float32(model: Path, folder: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def four_bits(model: Path, folder: Path) -> Iterator[Compared]:
    """Logits on an nf4 base, double quantisation, as transformers and bitsandbytes open it."""
    both = opened(model, folder, mode="qlora")
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=quantised, dtype=torch.float32, attn_implementation="eager", device_map="cpu"
    )
    tokens = both.tokenizer.encode("The same words, computed twice.")
    reference = PeftModel.from_pretrained(base, folder / "adapter").train()  # reading, it computes in bfloat16
    theirs = reference(torch.tensor([tokens])).logits[0].detach()
    yield _largest("QLoRA: logits", "bitsandbytes nf4", torch.tensor(both.rail.logits(tokens)), theirs, LOGITS)


def _largest(what: str, reference: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> Compared:
    mine, other = ours.abs().max().item(), theirs.abs().max().item()
    return Compared(what, reference, mine, other, (ours - theirs).abs().max().item() / other, tolerance)


def _data(method: str) -> list[dict[str, object]]:
    if method == "sft":
        return [{"prompt": q, "completion": g} for q, g in zip(QUESTIONS, GOOD, strict=True)]
    if method == "kto":
        return [
            {"prompt": q, "completion": (GOOD if label else BAD)[n], "label": label}
            for n, (q, label) in enumerate(zip(QUESTIONS, RATED, strict=True))
        ]
    return [{"prompt": q, "chosen": g, "rejected": b} for q, g, b in zip(QUESTIONS, GOOD, BAD, strict=True)]


def everything(model: Path, folder: Path) -> Iterator[Compared]:
    yield from sft(model, folder / "sft")
    yield from pairs("orpo", model, folder / "orpo")
    yield from pairs("simpo", model, folder / "simpo")
    yield from rated(model, folder / "kto-4", 4)
    yield from rated(model, folder / "kto-1", 1)
    yield from adapters(model, folder / "adapters")
    yield from four_bits(model, folder / "nf4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, help="a JSON file for the table")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    model, found = locate.locate(options.model, lambda progress: None), []
    print(f"{'what':32}{'reference':26}{'ours':>14}{'theirs':>14}{'difference':>12}{'allowed':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for row in everything(model, Path(folder)):
            found.append(row)
            numbers = f"{row.ours:14.7g}{row.theirs:14.7g}{row.difference:12.1e}{row.tolerance:9.0e}"
            print(f"{row.what:32}{row.reference:26}{numbers}{'' if row.equal else '  NOT EQUAL'}", flush=True)
    if options.out:
        text = json.dumps({"model": options.model, "rows": [asdict(row) for row in found]}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(not all(row.equal for row in found))


if __name__ == "__main__":
    main()
