"""The preference losses against TRL's trainers: the same weights, the same tokens, the same numbers."""

import math
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from backpropagate import Trainer
from bp_core.examples import Example
from bp_core.rail import Job
from bp_cuda import objectives
from bp_cuda.rail import CpuRail
from bp_data import Batches
from bp_data.batches import Step
from bp_data.examples import Collector
from bp_resilience.evaluation import drift_of

QUESTIONS = ["What is two plus two?", "Name a colour.", "Who are you?", "Say yes or no."]
GOOD = ["It is four.", "Blue, for example.", "A small model.", "Yes."]
BAD = ["Five, of course!", "I will not tell you any colour at all.", "No idea.", "Perhaps, perhaps not."]
PAIRS = [{"prompt": q, "chosen": g, "rejected": b} for q, g, b in zip(QUESTIONS, GOOD, BAD, strict=True)]
RATED = [
    {"prompt": q, "completion": (GOOD if n else BAD)[n], "label": bool(n)} for n, q in enumerate(QUESTIONS)
]
QUIET = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}


@pytest.fixture(autouse=True)
def silent_trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def opened(model, folder, method):
    """The tiny model with an adapter that changes it: opened by our rail, and by peft with eager attention."""
    settings = dict(backend="cpu", dtype="float32", report_to="none", output=str(folder / "out"), rank=4)
    plan = Trainer(str(model), method=method, **settings).plan(RATED if method == "kto" else PAIRS)
    rail = CpuRail()
    rail.open(Job(model, recipe=plan.recipe, dtype="float32"))
    for index, parameter in enumerate(rail.parameters.values()):
        torch.manual_seed(index)
        parameter.data.normal_(std=0.05)
    (folder / "adapter").mkdir()
    rail.write_adapter(folder / "adapter")
    base = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager", dtype=torch.float32)
    return rail, PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True), plan.recipe


def step(rows, method):
    """`rows`: prompt ids, answer ids, verdict."""
    found = Collector()
    for prompt, answer, good in rows:
        found.add([*prompt, *answer], bytes([0] * len(prompt) + [1] * len(answer)), good)
    return Batches(found.examples(), 0, method=method).take(len(rows) // (1 if method == "kto" else 2))


def ours(rail, examples, micro_batch):
    drift = drift_of(rail, examples, micro_batch)
    loss = sum(rail.accumulate(batch, examples.weight) for batch in examples.split(micro_batch, drift))
    return loss, {name: parameter.grad.clone() for name, parameter in rail.parameters.items()}


def assert_gradients_agree(found, model):
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        atol = 1e-5 * expected[name].abs().max().item() + 1e-9
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=atol), name


def their_batch(pair, pad):
    """A chosen and a rejected row as TRL's collator gives them."""
    batch = {}
    for kind, (prompt, answer, _) in zip(("chosen", "rejected"), pair, strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        batch |= {
            f"{kind}_input_ids": ids,
            f"{kind}_attention_mask": torch.ones_like(ids),
            f"{kind}_labels": labels,
        }
    return batch


def paired(tokenizer, prompts):
    """Rows of tokens: of each prompt the chosen and the rejected answer, terminator included."""
    end = [tokenizer.eos_token_id]
    answers = [[tokenizer(text)["input_ids"] + end for text in texts] for texts in (GOOD, BAD)]
    return [(prompt, answers[kind][n], True) for n, prompt in enumerate(prompts) for kind in (0, 1)]


def their_trainer(method, model, tokenizer, folder):
    common = dict(output_dir=str(folder / "trl"), max_length=128, per_device_train_batch_size=1, **QUIET)
    data = Dataset.from_list(PAIRS)
    if method == "orpo":
        args = ORPOConfig(beta=0.1, **common)
        return ORPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    args = CPOConfig(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.0, **common)
    return CPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)


@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_a_step_of_pairs_is_trls_mean_over_the_pairs(method, tiny_llama, tokenizer, tmp_path):
    """TRL's ORPO learns the prompt too, so its prompts are of one token here, before which nothing is learned."""
    rail, model, recipe = opened(tiny_llama, tmp_path, method)
    texts = [[tokenizer.bos_token_id]] * 4 if method == "orpo" else [tokenizer(q)["input_ids"] for q in QUESTIONS]
    rows = paired(tokenizer, texts)
    theirs = their_trainer(method, model, tokenizer, tmp_path)
    total = 0.0
    for number in range(4):
        loss, _ = theirs.get_batch_loss_metrics(model, their_batch(rows[2 * number : 2 * number + 2], 0))
        (loss / 4).backward()
        total += loss.item() / 4
    found, gradients = ours(rail, step(rows, method), 3)
    assert found == pytest.approx(total, rel=1e-5)
    assert_gradients_agree(gradients, model)
    assert (recipe.beta, recipe.gamma) == ((0.1, 0.0) if method == "orpo" else (2.0, 1.0))


def test_orpos_odds_ratio_after_longer_prompts_is_trls(tiny_llama, tokenizer, tmp_path):
    rail, model, _ = opened(tiny_llama, tmp_path, "orpo")
    rows = paired(tokenizer, [tokenizer(question)["input_ids"] for question in QUESTIONS])
    theirs = their_trainer("orpo", model, tokenizer, tmp_path)
    for number in range(4):
        pair = rows[2 * number : 2 * number + 2]
        _, metrics = theirs.get_batch_loss_metrics(model, their_batch(pair, 0))
        loss, _ = ours(rail, step(pair, "orpo"), 1)
        assert loss == pytest.approx(-metrics["logps/chosen"] - 0.1 * metrics["log_odds_ratio"], rel=1e-5)


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_a_step_of_rated_answers_is_trls(micro_batch, tiny_llama, tokenizer, tmp_path):
    rail, model, recipe = opened(tiny_llama, tmp_path, "kto")
    weights = {name: getattr(recipe, name) for name in ("desirable_weight", "undesirable_weight")}
    args = KTOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=4, beta=0.1, max_length=128,
        **weights, **QUIET,
    )  # fmt: skip
    theirs = KTOTrainer(model=model, args=args, train_dataset=Dataset.from_list(RATED), processing_class=tokenizer)
    theirs.model.delete_adapter("ref")  # a copy of ours; the paper's reference is the base
    batch = next(iter(theirs.get_train_dataloader()))
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()
    rows = []
    for ids, mask, answer, label in zip(
        batch["input_ids"], batch["attention_mask"], batch["completion_mask"], batch["label"], strict=True
    ):
        row, learned = ids[mask == 1].tolist(), answer[mask == 1].tolist()
        start = learned.index(1)
        rows.append((row[:start], row[start:], bool(label)))
    found, gradients = ours(rail, in_order(rows), micro_batch)
    assert found == pytest.approx(expected.item(), rel=1e-5)
    assert_gradients_agree(gradients, model)
    assert weights == {"desirable_weight": 1.0, "undesirable_weight": 2.25}


def in_order(rows):
    """A step of rated rows in the order in which they stand, which TRL's mismatched answers depend on."""
    made = [Example([*p, *a], bytes([0] * len(p) + [1] * len(a)), good) for p, a, good in rows]
    return Step([[example] for example in made], "kto")


def test_the_odds_are_exact_where_a_probability_is_near_one_or_none():
    found = objectives._log_odds(torch.tensor([-1e-5, -0.5, -40.0], dtype=torch.float32))
    exact = [p - math.log(-math.expm1(p)) for p in (-1e-5, -0.5, -40.0)]
    assert np.allclose(found.numpy(), exact, rtol=1e-5)
    sure = torch.zeros(1, requires_grad=True)
    objectives.orpo(sure, torch.tensor([-1.0]), 0.1).sum().backward()
    assert torch.isfinite(sure.grad).all()
