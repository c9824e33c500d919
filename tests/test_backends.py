"""Which backend trains: chosen, forced, missing, and out of memory."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from faults.runs import prepare

import bp_mlx
from backpropagate import Trainer
from backpropagate.training.planning import outlook
from bp_core import backends
from bp_core.config import TrainConfig
from bp_core.errors import MlxUnavailable, UnknownBackend
from bp_core.events import MemoryShrunk, Stepped
from bp_core.rail import Job

needs_mlx = pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="there is no MLX for this machine")


def trainer(model, output, **changes):
    settings = dict(backend="mlx", rank=4, batch_size=4, learning_rate=1e-2, max_length=64, report_to="none")
    return Trainer(str(model), output=str(output), **settings | changes)


@needs_mlx
def test_auto_takes_mlx_on_apple_before_the_processor_and_nowhere_else(tiny_llama, rows, tmp_path, monkeypatch):
    assert backends.choose_rail("auto")[0] != "mlx"  # on Linux PyTorch is faster
    monkeypatch.setattr(backends, "PREFERRED", backends.preferred("darwin", "arm64"))
    assert backends.PREFERRED == ("cuda", "mlx", "cpu") and "mlx" not in backends.preferred("darwin", "x86_64")
    plan = trainer(tiny_llama, tmp_path, backend="auto").plan(rows)
    assert plan.recipe.backend in ("cuda", "mlx") and "CPU build of MLX" in plan.device
    assert plan.recipe.why["backend"] == "auto: the first of cuda, mlx, cpu that runs here"


def test_where_mlx_is_not_installed_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(bp_mlx, "_NEEDED", ("no_such_package",))
    with pytest.raises(MlxUnavailable, match="no_such_package not installed") as raised:
        backends.choose_rail("mlx")
    assert raised.value.code == "DEP_MLX_UNAVAILABLE" and 'pip install "backpropagate[mlx]"' in raised.value.fix
    with pytest.raises(MlxUnavailable):
        bp_mlx.make().open(Job("anywhere"))
    assert backends.choose_rail("auto")[0] != "mlx"


@needs_mlx
def test_where_mlx_cannot_start_it_is_unavailable_and_probing_does_not_raise(tmp_path):
    """As where its libraries are of a newer system: it is found, and importing it fails."""
    code = "import sys; sys.modules['mlx.core'] = None; from bp_core.backends import find; print(find('mlx').probe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert "available=False" in done.stdout and "MLX does not start" in done.stdout, done.stderr


def test_where_our_rail_is_not_installed_it_is_named_too(monkeypatch):
    monkeypatch.setattr(backends, "rails", lambda: ["cpu", "null"])
    with pytest.raises(MlxUnavailable, match="not installed"):
        backends.choose_rail("mlx")
    with pytest.raises(UnknownBackend, match="abacus"):
        backends.choose_rail("abacus")


def test_what_it_needs_is_not_known_beforehand_and_a_plan_is_made_all_the_same():
    told = outlook(TrainConfig(backend="mlx"), 16.0)
    assert told.preflight.memory is None and "not known" in told.preflight.message()
    assert told.recipe.micro_batch == 1 and "2048 tokens of max_length" in told.recipe.why["micro_batch"]


@needs_mlx
def test_a_micro_batch_holds_no_more_tokens_than_the_longest_row_allowed(tiny_llama, rows, tmp_path):
    plans = {length: trainer(tiny_llama, tmp_path, max_length=length).plan(rows).recipe for length in (64, 2048)}
    assert plans[64].micro_batch == 1 and plans[2048].micro_batch == 4
    assert plans[2048].why["micro_batch"] == "the batch size"


@needs_mlx
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_experiment(home, tmp_path, monkeypatch):
    model, rows = prepare(tmp_path)
    runs = {
        count: trainer(model, tmp_path / str(count), micro_batch=count).train(rows, steps=2, watch=lambda event: None)
        for count in (4, 1)
    }
    assert runs[1].peak_memory < runs[4].peak_memory * 0.8
    monkeypatch.setattr("bp_mlx.device.working_set", lambda: int(runs[4].peak_memory * 0.9))
    events = []
    run = trainer(model, tmp_path / "limited", micro_batch=4).train(rows, steps=2, watch=events.append)
    assert next(type(event) for event in events if isinstance(event, MemoryShrunk | Stepped)) is MemoryShrunk
    assert run.losses == pytest.approx(runs[4].losses, rel=1e-5) and len(run.losses) == 2


def test_the_two_rails_have_the_same_names_in_the_same_order():
    """What both have, side by side: a diff of two files should teach."""
    folders = [Path(importlib.util.find_spec(name).submodule_search_locations[0]) for name in ("bp_cuda", "bp_mlx")]
    shared = {path.name for path in folders[0].glob("*.py")} & {path.name for path in folders[1].glob("*.py")}
    assert {"rail.py", "adapter.py", "model.py", "requirements.py", "memory_saving.py"} <= shared
    assert {"initialization.py", "objectives.py", "optimizer.py", "stochastic_rounding.py"} <= shared
    for file in shared:
        first, second = (names(folder / file) for folder in folders)
        assert [name for name in first if name in second] == [name for name in second if name in first], file


def names(file):
    """The names that a file defines, its classes' methods among them."""
    kinds = ast.FunctionDef | ast.ClassDef
    found = (node.name for node in ordered(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, kinds))
    return list(dict.fromkeys(found))


def ordered(node):
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.ClassDef):
            yield from ordered(child)
