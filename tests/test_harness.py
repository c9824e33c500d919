"""lm-evaluation-harness on our models: its own tasks and numbers, equal to those of its own model for transformers."""

import importlib.util
import json

import datasets
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.evaluation.harness import _numbers
from bp_core.backends import find
from bp_core.rail import Job
from bp_data import ChatTokenizer

lm_eval = pytest.importorskip("lm_eval", reason="needs the group `harness`")
HFLM = pytest.importorskip("lm_eval.models.huggingface").HFLM
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager
RailModel = pytest.importorskip("bp_eval.lm_harness").RailModel
ROWS = [
    {"q": "Question 1? The answer is", "choices": ["7", "14", "a cat sat"], "gold": 0},
    {"q": "Question 2? The answer is", "choices": ["7", "14 of course", "dogs"], "gold": 1},
    {"q": "Is it raining? ", "choices": ["yes", "no", "perhaps it is"], "gold": 2},
]
CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: choices\ndoc_to_target: gold\n"
    "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "writing": "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{choices[gold]}}'\n"
    "generation_kwargs: {until: ['s', '.'], max_gen_toks: 12}\nmetric_list: [{metric: exact_match}]\n",
    "prose": "output_type: loglikelihood_rolling\ndoc_to_text: ''\n"
    "doc_to_target: '{{q}} {{q}} {{choices[0]}} {{q}} {{q}} {{q}}'\n"
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A file for each kind of task; nothing is asked of the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = []
    for name, text in TASKS.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(CHOICE.format(name=name, data=data) + text)
    return ",".join(map(str, files))


@pytest.fixture
def run(capsys):
    def run(*words):
        code = exit_code_of(app, ["lm-eval", *map(str, words), "--backend", "cpu", "--dtype", "float32"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def measured(model, tasks):
    manager = TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(model=model, tasks=tasks.split(","), task_manager=manager, bootstrap_iters=10)
    return found["results"], {task: [row["filtered_resps"] for row in rows] for task, rows in found["samples"].items()}


def test_each_kind_of_task_gives_what_lm_evals_own_model_gives(tasks, tiny_llama):
    length = 24  # so that the texts take several windows
    rail = find("cpu")
    rail.open(Job(tiny_llama, dtype="float32"))
    ours = RailModel(rail, ChatTokenizer.open(tiny_llama), 2, length, lambda progress: None)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).float()
    theirs = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(tiny_llama), max_length=length)
    (results, answers), (expected, expected_answers) = measured(ours, tasks), measured(theirs, tasks)
    rail.close()
    assert answers.keys() == TASKS.keys() and answers["writing"] == expected_answers["writing"]
    assert any(answers["writing"]) and len(answers["choice"]) == len(ROWS)
    for mine, other in zip(answers["choice"], expected_answers["choice"], strict=True):
        assert [likely for _, likely in mine] == [likely for _, likely in other]
        assert [nats for nats, _ in mine] == pytest.approx([nats for nats, _ in other], rel=1e-4)
    assert _numbers(results)["prose"].keys() == {"word_perplexity", "bits_per_byte"}
    for task, metrics in _numbers(results).items():
        for name, (value, error) in metrics.items():
            assert value == pytest.approx(_numbers(expected)[task][name][0], rel=1e-4)
            assert error is None or error == pytest.approx(_numbers(expected)[task][name][1], rel=1e-4)


@pytest.mark.slow
def test_tasks_run_from_the_command_line_in_the_models_template_on_wish(tasks, tiny_llama, run):
    code, out, _ = run(tiny_llama, tasks.split(",")[0], "--samples", 2, "--shots", 0, "--chat", "--json")
    found = json.loads(out)
    assert code == 0 and found["lm_eval"] == lm_eval.__version__ and found["tasks"].keys() == {"choice"}
    assert found["tasks"]["choice"]["acc"]["stderr"] is not None


@pytest.mark.slow
def test_an_unknown_task_is_named_before_the_model_is_loaded(tiny_llama, run):
    code, _, err = run(tiny_llama, "no_such_task")
    assert code == 1 and "CONFIG_VALUE_INVALID" in err and "no_such_task" in err and "load /" not in err


def test_a_task_file_that_is_none_is_named(tiny_llama, tmp_path, run):
    (tmp_path / "odd.yaml").write_text("a: 1\n")
    code, _, err = run(tiny_llama, tmp_path / "odd.yaml")
    assert code == 1 and "CONFIG_VALUE_INVALID" in err and "odd.yaml" in err


def test_without_the_package_it_is_said_how_to_get_it(tiny_llama, run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = run(tiny_llama, "any_task")
    assert code == 2 and "DEP_PACKAGE_MISSING" in err and 'pip install "backpropagate[lm-eval]"' in err
