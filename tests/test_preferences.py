"""Preferences, ratings and reasoning traces, on a tiny real model from the data file to the proven file."""

import json

import pytest

from backpropagate import Trainer
from backpropagate.training.prepare import choose, prepared_job
from backpropagate.training.run import TrainingRequest
from bp_core.config import TrainConfig
from bp_core.errors import BadValue, MethodMismatch, NoTarget, TemplateUnusable
from bp_data import ChatTokenizer, prepare
from bp_data.masking.reasoning import Limits
from bp_data.preparing.batches import Batches
from bp_plan.defaults import preference
from bp_plan.rows import row_sizes

SETTINGS = dict(backend="cpu", batch_size=4, max_length=64, dtype="float32", report_to="none", learning_rate=5e-3)


def quiet(event):
    return None


def pair(n):
    return {"prompt": f"Question {n}?", "chosen": f"The answer is {n}, of course.", "rejected": f"Who knows {n}."}


def rated(n):
    return {"prompt": f"Question {n}?", "completion": f"Answer {n}" + "!" * (n % 3), "label": n % 3 == 0}


def thinking(n, thought="a b c d e f g h i j k l"):
    answer = f"<think>\n{thought}\n</think>\n\nThe answer is {n}."
    return {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": answer}]}


DATA = {
    "orpo": [pair(n) for n in range(12)],
    "simpo": [pair(n) for n in range(12)],
    "kto": [rated(n) for n in range(12)],
}


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return ChatTokenizer.open(tiny_llama)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["orpo", "simpo", "kto"])
def test_every_method_is_trained_evaluated_exported_and_proven(method, tiny_llama, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in DATA[method]))
    tuned = Trainer(str(tiny_llama), output=str(tmp_path / "out"), method=method, held_out=0.25, **SETTINGS)
    run = tuned.train(str(data), steps=8, watch=quiet)
    assert run.losses[-1] < run.losses[0] and run.eval_loss is not None and run.perplexity is None
    done = tuned.export("gguf", quantization="q8_0", notify=quiet)
    assert done.parity.proven
    if method == "orpo":
        assert done.parity.losses["base"] > done.parity.losses["final"]


def test_a_pair_is_two_examples_that_stay_together(tokenizer):
    prepared = prepare(DATA["orpo"], tokenizer, max_length=64, method="orpo")
    assert (prepared.report.rows, prepared.report.examples, len(prepared.examples)) == (12, 12, 24)
    step = Batches(prepared.examples, 0, method="orpo").take(5)
    assert step.weight == 1 / 5
    batches = list(step.split(2))
    assert sorted(len(batch.lengths) for batch in batches) == [2, 4, 4]
    texts = [tokenizer.decode(batch.tokens.tolist()) for batch in batches]
    assert all(text.count("of course") == text.count("Who knows") for text in texts)
    assert all(text.index("of course") < text.index("Who knows") for text in texts)


def test_a_pair_with_an_answer_cut_away_is_dropped_whole(tokenizer):
    long = {"prompt": "word " * 80, "chosen": "yes", "rejected": "no"}
    prepared = prepare([*DATA["orpo"][:2], long], tokenizer, max_length=64, method="orpo")
    assert (prepared.report.examples, prepared.report.dropped, len(prepared.examples)) == (2, 1, 4)
    assert list(prepared.report.places["dropped"]) == ["row 3"]


def test_mismatched_rows_have_each_prompt_with_the_answer_before(tokenizer):
    prepared = prepare(DATA["kto"], tokenizer, max_length=64, method="kto")
    assert prepared.report.desirable == 4
    step = Batches(prepared.examples, 0, method="kto").take(3)
    numbers = [tokenizer.decode(list(row[0].tokens)).split("Question ")[1].split("?")[0] for row in step.rows]
    (batch,) = step.mismatched(3)
    text = tokenizer.decode(batch.tokens.tolist())
    for asked, answered in zip(numbers, [numbers[-1], *numbers[:-1]], strict=True):
        assert f"Question {asked}?<|im_end|>\n<|im_start|>assistant\nAnswer {answered}" in text
    assert not list(Batches(prepared.examples, 0, method="kto").take(1).mismatched(3))


def test_equal_pairs_are_held_out_together_and_labels_stay(tiny_llama, tokenizer):
    trainer = Trainer(str(tiny_llama), method="kto", held_out=0.3, **SETTINGS)
    work = _prepared(trainer, DATA["kto"])
    both = [*work.prepared.examples, *work.held_out]
    found = {tokenizer.decode(list(example.tokens)): example.desirable for example in both}
    assert all(good == ("!" not in text) for text, good in found.items()) and len(found) == 12
    trainer = Trainer(str(tiny_llama), method="orpo", held_out=0.3, **SETTINGS)
    work = _prepared(trainer, DATA["orpo"] * 2)
    assert len(work.held_out) % 4 == 0 and 0 < len(work.held_out) < 48


@pytest.mark.parametrize(
    ("good", "bad", "weights"), [(6, 6, (1, 1)), (4, 3, (1, 1)), (3, 12, (4, 1)), (9, 3, (1, 2.25))]
)
def test_kto_balances_good_and_bad_answers(good, bad, weights):
    found = preference("kto", row_sizes([(8, 4, 64)] * (good + bad), good))
    assert tuple(found[name][0] for name in ("desirable_weight", "undesirable_weight")) == weights
    assert 1 <= weights[0] * good / (weights[1] * bad) <= 4 / 3 + 1e-12


@pytest.mark.parametrize(
    ("method", "data", "fix"),
    [("orpo", DATA["kto"], "--method kto"), ("kto", DATA["simpo"], "--method orpo or simpo"),
     ("simpo", [thinking(1)], "--method sft"), ("sft", DATA["kto"], "--method kto")],
)  # fmt: skip
def test_rows_of_another_method_are_refused_with_the_one_that_fits(method, data, fix, tokenizer):
    with pytest.raises(MethodMismatch, match=f"method {method} learns from") as caught:
        prepare(data, tokenizer, max_length=64, method=method)
    assert fix in caught.value.fix and caught.value.where == "row 1"


def test_answers_of_one_kind_only_teach_kto_nothing(tokenizer):
    with pytest.raises(NoTarget, match="all answers are rated bad"):
        prepare([row | {"label": False} for row in DATA["kto"]], tokenizer, max_length=64, method="kto")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(method="orpo", mode="full"), "leave mode full out"),
        (dict(method="kto", batch_size=1), "at least 2"),
        (dict(method="simpo", packing=True), "packing goes with method sft only"),
        (dict(method="simpo", train_on="all"), "train_on goes with method sft only"),
        (dict(method="orpo", gamma=1.0), "gamma is a setting of method simpo"),
        (dict(beta=0.1), "beta is a setting of method orpo and simpo and kto"),
        (dict(min_trace=4), "reasoning_trace is not"),
        (dict(reasoning_trace=True, min_trace=100, max_trace=10), "min_trace is above max_trace"),
        (dict(method="kto", reasoning_trace=True), "reasoning_trace goes with method sft only"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, said):
    with pytest.raises(BadValue, match=said):
        TrainConfig(**settings)


def test_traces_are_filtered_by_their_tokens_and_every_row_is_counted(tiny_llama, tokenizer, tmp_path):
    rows = [thinking(1), thinking(2), thinking(3, "short"), thinking(4, "long " * 50), thinking(5, "")]
    rows += [{"prompt": "6?", "completion": answer} for answer in ("No thought.", "<think> never ends")]
    prepared = prepare(rows, tokenizer, max_length=200, traces=Limits(4, 40))
    report = prepared.report
    assert report.traces == {"kept": 2, "none": 2, "short": 1, "long": 1, "unbalanced": 1}
    assert (report.rows, report.examples, report.dropped) == (7, 2, 5) and not report.opens_thought
    learned = [t for t, trained in zip(*_row(prepared.examples[0]), strict=True) if trained]
    assert tokenizer.decode(learned).startswith("<think>\na b c") and "</think>" in tokenizer.decode(learned)
    plan = Trainer(str(tiny_llama), reasoning_trace=True, backend="cpu", report_to="none").plan(rows)
    assert plan.recipe.max_length == 8192 and plan.recipe.why["max_length"] == "with reasoning_trace"
    assert plan.data["traces"]["kept"] == 3


ASKING = "'<|im_start|>assistant\n'"
WRITING = "message['role'] + '\n'"


@pytest.fixture
def with_template(tiny_llama, tmp_path):
    def copy(*changes):
        (tmp_path / "tokenizer.json").write_bytes((tiny_llama / "tokenizer.json").read_bytes())
        config = json.loads((tiny_llama / "tokenizer_config.json").read_text())
        for before, after in changes:
            assert config["chat_template"].count(before) == 1
            config["chat_template"] = config["chat_template"].replace(before, after)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return ChatTokenizer.open(tmp_path)

    return copy


def test_a_template_that_opens_the_thought_itself_is_noticed(with_template):
    opened = with_template((ASKING, "'<|im_start|>assistant\n<think>\n'"))
    prepared = prepare([thinking(1)], opened, max_length=64, traces=Limits(2, 40))
    assert prepared.report.opens_thought and prepared.report.traces["kept"] == 1
    learned = [t for t, trained in zip(*_row(prepared.examples[0]), strict=True) if trained]
    assert opened.decode(learned).startswith("a b c")  # the model is asked after <think>, and goes on from there


def test_a_thought_opened_twice_or_left_out_is_refused(with_template):
    opening = "message['role'] + ('\n<think>\n' if message['role'] == 'assistant' else '\n')"
    twice = with_template((ASKING, "'<|im_start|>assistant\n<think>\n'"), (WRITING, opening))
    with pytest.raises(TemplateUnusable, match="opens <think> itself"):
        prepare([thinking(1)], twice, max_length=64, traces=Limits(2, 40))
    without = with_template(("message['content']", "message['content'].split('</think>')[-1]"))
    with pytest.raises(TemplateUnusable, match="leaves out the reasoning"):
        prepare([thinking(1)], without, max_length=64, traces=Limits(2, 40))


def _prepared(trainer, data):
    return prepared_job(choose(TrainingRequest(data, trainer.config)), quiet)


def _row(example):
    return list(example.tokens), list(example.trained)
