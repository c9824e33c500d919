"""Dockerfile and compose.yaml keep the rules that containers are judged by. CI builds one, for that needs a daemon."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def instructions():
    """Each instruction on one line, without comments."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def stage(name):
    """The instructions of a stage, with those of the stages that it is built on."""
    found, current, parents = {}, None, {}
    for line in instructions():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            parents[match[2]], current = match[1], match[2]
            found[current] = []
        elif current:
            found[current].append(line)
    own = []
    while name in found:
        own = found[name] + own
        name = parents[name]
    return own


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_what_runs_is_no_root_and_has_its_folders(name):
    lines = stage(name)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and users[-1] != "root"
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    assert 'ENTRYPOINT ["backprop"]' in lines
    assert any("COPY --from=" in line and "/opt/backpropagate" in line for line in lines)


def test_images_and_packages_are_named_with_versions_and_leave_nothing_behind():
    for line in instructions():
        if line.startswith("FROM "):
            assert ":latest" not in line and (":" in line or " AS c" in line), line
        if "apt-get install" in line:
            assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists/*" in line
        if "pip install" in line and "uv pip" not in line:
            assert "--no-cache-dir" in line and re.search(r"[><=]=?\d", line)
        assert not line.startswith("ADD ") and "sudo" not in line and " chmod 777" not in line


def test_what_is_copied_in_is_what_the_wheels_are_built_from():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "**"
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    assert all((ROOT / name).exists() for name in allowed)
    assert {"packages", "pyproject.toml", "uv.lock", "README.md"} <= set(allowed)


@pytest.mark.parametrize("name", ["backprop", "page"])
def test_compose_runs_a_stage_that_there_is_with_a_lasting_home(compose, name):
    service = compose["services"][name]
    assert stage(service["build"]["target"])
    homes = [line.split(":") for line in service["volumes"]]
    assert ["home", "/home/backprop/.backpropagate"] in homes and "home" in compose["volumes"]
    assert service["init"] is True
    assert service["security_opt"] == ["no-new-privileges:true"] and service["cap_drop"] == ["ALL"]


def test_compose_brings_up_the_page_for_this_machine_alone_and_with_a_password(compose):
    command_line, page = compose["services"]["backprop"], compose["services"]["page"]
    assert "ports" not in command_line and command_line["profiles"] and not page["profiles"]
    assert page["ports"] == ["127.0.0.1:7860:7860"] and "--container" in page["command"]
    assert page["environment"]["BACKPROPAGATE_UI_AUTH"].startswith("${BACKPROPAGATE_UI_AUTH:?")


def test_the_page_is_healthy_once_it_answers_and_does_not_start_without_a_password(compose, tmp_path):
    """The command and the healthcheck of compose.yaml, run as they stand but for the port."""
    pytest.importorskip("bp_ui")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    page = compose["services"]["page"]
    command = [sys.executable, "-m", "backpropagate", *(word.replace("7860", port) for word in page["command"])]
    how, program, *check = page["healthcheck"]["test"]
    assert (how, program) == ("CMD", "python")
    check = [sys.executable, *(word.replace("7860", port) for word in check)]
    variables = {name: value for name, value in os.environ.items() if name != "BACKPROPAGATE_UI_AUTH"}
    variables |= {"BACKPROPAGATE_HOME": str(tmp_path / "home")}
    refused = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1 and "CONFIG_UI_AUTH_REQUIRED" in refused.stderr
    assert subprocess.run(check, capture_output=True).returncode != 0
    variables |= {"BACKPROPAGATE_UI_AUTH": "me:a-long-password"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as served:
        try:
            assert b"The page" in served.stdout.readline()
            assert subprocess.run(check, capture_output=True).returncode == 0
        finally:
            served.terminate()


def test_the_commented_reservation_of_a_card_is_whole(compose):
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    with_card = yaml.safe_load(re.sub(r"(?m)^    # (?=deploy|  )", "    ", text))
    (device,) = with_card["services"]["backprop"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
