"""The packages as they are published: what their wheels hold and ask for, and that they work where nothing else is."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(
    path.parent.name for path in [*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("apps/*/pyproject.toml")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="packages are built by uv")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist of every package."""
    folder = tmp_path_factory.mktemp("dist")
    words = ["uv", "build", "--all-packages", "--quiet", "--out-dir", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True)
    return folder


def wheel(built, package):
    (path,) = built.glob(f"{package.replace('-', '_')}-*.whl")
    return path


def metadata(path):
    with zipfile.ZipFile(path) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(files.read(name))


def test_every_package_is_stamped():
    assert subprocess.run([sys.executable, str(ROOT / "release" / "stamp.py"), "--check"]).returncode == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_and_an_sdist_carry_the_licence_and_say_what_they_are(built, package):
    path = wheel(built, package)
    says = metadata(path)
    assert says["Version"] == PROJECT["version"] and says["License-Expression"] == "MIT" and says["Summary"]
    assert says["Keywords"] and says["Author"] and len(says.get_all("Classifier")) > 5
    assert {line.split(",")[0] for line in says.get_all("Project-URL")} == set(PROJECT["urls"])
    with zipfile.ZipFile(path) as files:
        assert any(name.endswith("licenses/LICENSE") for name in files.namelist())
        assert any(name.endswith("/py.typed") for name in files.namelist())
    (source,) = built.glob(f"{package.replace('-', '_')}-*.tar.gz")
    with tarfile.open(source) as files:
        assert any(name.endswith("/LICENSE") for name in files.getnames())


@pytest.mark.parametrize("package", PACKAGES)
def test_siblings_are_of_one_version(built, package):
    needed = metadata(wheel(built, package)).get_all("Requires-Dist") or []
    siblings = [line for line in needed if line.startswith("bp-")]
    pin = rf"bp-[a-z]+(\[[a-z0-9,-]+\])?=={re.escape(PROJECT['version'])}( ;.*)?"
    assert [line for line in siblings if not re.fullmatch(pin, line)] == []
    assert siblings or package == "bp-core"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_readme_has_no_link_that_is_dead_on_a_package_index(built, package):
    text = metadata(wheel(built, package)).get_payload()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_metadata_is_what_an_index_takes(built):
    pytest.importorskip("twine", reason="uv sync --group release brings twine")
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(built.glob("bp_*")))]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout
