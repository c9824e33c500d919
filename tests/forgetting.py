"""The smallest experiment in which training on one source after another forgets: Markov sources over a few symbols.

A tiny llama learns some sources with full training, then new ones as an adapter, one after another. The measure is
the excess loss over the source's own entropy, in nats a token: 0 is perfect. Everything comes from seeds.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM

from bp_multirun import Adapter, deploy, fold, read_adapter, start, write_adapter

SYMBOLS, LENGTH = 16, 24
KNOWN, TASKS = 8, 3  # sources of the base model; new ones
TRAIN, TEST = 256, 64  # sequences of a source
SHARPNESS = (
    0.15  # of the Dirichlet distribution of what follows a symbol: the base starts about 0.85 above a new source
)
METHODS = {
    "sequential": dict(fold=("constant", 1.0), start="keep"),
    "slao": dict(fold=("inverse-sqrt",), start="qr"),
}
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Source:
    """Sequences of a tag and symbols, [count, 1 + LENGTH], and the mean loss of who knows the probabilities."""

    train: torch.Tensor
    test: torch.Tensor
    entropy: float


def sources(seed):
    """Half of what follows a symbol is common to all sources."""
    rng = np.random.default_rng(seed)
    common, *own = rng.dirichlet(np.full(SYMBOLS, SHARPNESS), (1 + KNOWN + TASKS, SYMBOLS))
    return [_source(SYMBOLS + number, (common + part) / 2, rng) for number, part in enumerate(own)]


def _source(tag, table, rng):
    rows = np.full((TRAIN + TEST, 1 + LENGTH), tag)
    rows[:, 1] = rng.integers(SYMBOLS, size=len(rows))
    for place in range(2, rows.shape[1]):
        draws = rng.random((len(rows), 1))
        follows = (table[rows[:, place - 1]].cumsum(1) < draws).sum(1)
        rows[:, place] = np.minimum(follows, SYMBOLS - 1)
    loss = -np.log(table[rows[TRAIN:, 1:-1], rows[TRAIN:, 2:]]).mean()
    return Source(torch.from_numpy(rows[:TRAIN]), torch.from_numpy(rows[TRAIN:]), float(loss))


def loss_of(model, rows):
    """Of all symbols but the first, which follows nothing."""
    logits = model(rows).logits[:, 1:-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 2:].flatten())


def excess(model, source):
    model.eval()
    with torch.no_grad():
        return float(loss_of(model, source.test)) - source.entropy


def train(model, rows, steps, rate, batch, seed):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        loss_of(model, rows[torch.randint(len(rows), (batch,), generator=draw)]).backward()
        optimizer.step()
        optimizer.zero_grad()


def base_model(known, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=SYMBOLS + KNOWN + TASKS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH + 1,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    train(model, torch.cat([source.train for source in known]), 300, 5e-3, 32, seed)
    return model


def adapted(base, seed):
    torch.manual_seed(seed)
    return get_peft_model(copy.deepcopy(base), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))


def put(model, factors):
    tensors = {
        f"{PREFIX}{name}.lora_{part}.weight": torch.from_numpy(np.array(array))
        for name, pair in factors.items()
        for part, array in (("A", pair.a), ("B", pair.b))
    }
    assert not set_peft_model_state_dict(model, tensors).unexpected_keys
    assert tensors.keys() == get_peft_model_state_dict(model).keys()


@dataclass(frozen=True)
class Outcome:
    """Excess loss of each task with what was deployed after each: scores[task][stage]; before any; on known ones."""

    scores: np.ndarray
    before: np.ndarray
    known: float
    artifact: float  # largest difference between the logits of the written adapter and of the merged model

    @property
    def forgetting(self):
        return float(np.mean([self.scores[task, -1] - self.scores[task, task] for task in range(TASKS - 1)]))

    @property
    def final(self):
        return float(self.scores[:, -1].mean())


def run(base, all_sources, method, seed, folder):
    """One task after another with one method; every adapter goes through a folder, as in real runs."""
    tasks, state = all_sources[KNOWN:], None
    live, merged = adapted(base, seed), adapted(base, seed)
    scores = [[excess(live, task) for task in tasks]]
    for stage, task in enumerate(tasks):
        if state:
            put(live, start(state, METHODS[method]["start"]))
        train(live, task.train, 60, 5e-3, 16, 100 * seed + stage)
        live.save_pretrained(folder / f"{method}-{stage}")
        adapter = read_adapter(folder / f"{method}-{stage}")
        state = fold(state, adapter.factors, *METHODS[method]["fold"])
        put(merged, deploy(state))
        scores.append([excess(merged, task) for task in tasks])
    final = folder / f"{method}-final"
    final.mkdir()
    write_adapter(final, Adapter(adapter.config, deploy(state), adapter.dtype))
    known = float(np.mean([excess(merged, source) for source in all_sources[:KNOWN]]))
    return Outcome(np.array(scores[1:]).T, np.array(scores[0]), known, _difference(base, merged, final, tasks, state))


def _difference(base, merged, folder, tasks, state):
    read = read_adapter(folder).factors
    assert all((read[name].b == state.b_merged[name]).all() and (read[name].a == state.a[name]).all() for name in read)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
    rows = torch.cat([task.test for task in tasks])
    with torch.no_grad():
        return float((loaded(rows).logits - merged(rows).logits).abs().max())


def experiment(seed, folder):
    """Both methods on one base and one set of sources."""
    all_sources = sources(seed)
    base = base_model(all_sources[:KNOWN], seed)
    return {method: run(base, all_sources, method, seed, folder) for method in METHODS}
