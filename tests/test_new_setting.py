"""A training option is one line in bp_core/config.py: everything that names settings has it then."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bp_core

ROOT = Path(__file__).parent.parent
LINE = '    noise: Annotated[float, "Noise in the embeddings, for the test.", Range(0)] = 0.0\n'


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Where bp_core is a copy of ours with that line in it."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(Path(bp_core.__file__).parent, folder / "bp_core")
    config = folder / "bp_core" / "config.py"
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"^    rank: ", LINE + r"\g<0>", text, flags=re.M), encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200", "BACKPROPAGATE_HOME": str(folder / "home")}


def python(environment, *words):
    return subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True)


def test_it_is_an_option_in_its_panel_and_in_the_docs(environment):
    page = python(environment, "-m", "backpropagate", "train", "--help").stdout
    method = page[page.index("╭─ Method") : page.index("╭─ Adapter")]
    assert "--noise" in method and "Noise in the embeddings" in method
    assert "--noise" not in python(environment, "-m", "backpropagate", "estimate-vram", "--help").stdout
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import generate as g; print(g.cli(), g.config())"
    docs = python(environment, "-c", code).stdout
    assert docs.count("BACKPROPAGATE_TRAIN_NOISE") == 2 and "* `--noise <float>`" in docs


def test_a_run_records_it_compares_it_and_shows_it_on_its_card(environment, rows, tiny_llama, tmp_path):
    words = ["-m", "backpropagate", "train", "--data", rows, "--model", tiny_llama, "--output", tmp_path / "out"]
    words += ["--backend", "null", "--report-to", "none", "--json"]
    environment = environment | {"BACKPROPAGATE_TRAIN_NOISE": "0.5"}
    run = json.loads(python(environment, *words, "--steps", 2).stdout)
    assert run["recipe"]["noise"] == 0.5
    lock = json.loads(Path(run["folder"], "run.lock").read_text(encoding="utf-8"))
    assert lock["settings"]["noise"] == lock["recipe"]["noise"] == 0.5
    code = "import sys; from bp_runs.lock_file import Lock; from backpropagate.hub.card import recipe_rows as rows\n"
    code += "print(dict(rows(Lock.read(__import__('pathlib').Path(sys.argv[1])).recipe)))"
    card = python(environment, "-c", code, run["folder"]).stdout
    assert "'noise': '0.5'" in card and "seed" in card and str(tmp_path) not in card and "beta" not in card
    other = python(environment, *words, "--steps", 3, "--resume", run["id"], "--noise", 0.7)
    error = json.loads(other.stdout)["error"]
    assert error["code"] == "STATE_RESUME_MISMATCH" and error["message"] == "noise was 0.5, is 0.7."
