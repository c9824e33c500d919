"""Full fine-tuning with the weights in the host's memory, from the command line."""

import json

import pytest
from safetensors.torch import load_file

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_core.config import TrainConfig
from bp_core.errors import BadValue, ModelTooLarge


def silent(event):
    return None


def test_a_run_comes_to_the_same_model(tiny_llama, rows, tmp_path, capsys):
    settings = dict(backend="cpu", mode="full", batch_size=4, max_length=64, dtype="float32")
    plain = Trainer(str(tiny_llama), output=str(tmp_path / "plain"), **settings).train(rows, steps=3, watch=silent)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    words += [f"--model={tiny_llama}", f"--data={rows}", f"--output={tmp_path / 'offloaded'}", "--steps=3", "--json"]
    assert exit_code_of(app, ["train", "--full-ft-offload", *words]) == 0
    assert json.loads(capsys.readouterr().out)["losses"] == list(plain.losses)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "offloaded"))
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def test_it_is_for_mode_full():
    with pytest.raises(BadValue, match="full_ft_offload is for mode full"):
        TrainConfig(full_ft_offload=True)


@pytest.mark.parametrize(("billions", "fits"), [(8.03, True), (9.1, False)])
def test_models_of_the_7b_class_pass_the_gate(tiny_llama, rows, tmp_path, billions, fits):
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_llama.iterdir():
        if path.suffix == ".json":
            (model / path.name).write_bytes(path.read_bytes())
    _promise(model / "model.safetensors", int(billions * 1e9))
    trainer = Trainer(str(model), mode="full", full_ft_offload=True, output=str(tmp_path / "out"), backend="cpu")
    if fits:
        assert trainer.plan(rows).recipe.full_ft_offload
    else:
        with pytest.raises(ModelTooLarge, match=r"9\.1 billion parameters; mode full trains up to 8\.5 billion with"):
            trainer.plan(rows)


def _promise(path, numbers):
    """A sparse file: a header that promises so many numbers, and a hole."""
    header = json.dumps({"w": {"dtype": "F16", "shape": [numbers], "data_offsets": [0, 2 * numbers]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with path.open("rb+") as file:
        file.truncate(8 + len(header) + 2 * numbers)
