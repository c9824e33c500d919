"""Downloads every dependency of `backpropagate` for systems other than this one, to see that each has a wheel there.

uv decides what a system needs (pip would judge the markers by the machine that it runs on), pip downloads it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PIP = ("uv", "tool", "run", "pip")  # environments that uv makes have none of their own
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class System:
    """A system as uv calls it, and the platforms of wheels that it takes."""

    uv_platform: str
    wheels: tuple[str, ...]


def _manylinux(machine: str) -> tuple[str, ...]:
    """Wheels for glibc 2.28, which uv takes these systems for, and for each older one: pip takes only what is named."""
    return (*(f"manylinux_2_{minor}_{machine}" for minor in range(5, 29)), f"manylinux2014_{machine}")


SYSTEMS = {
    "win_amd64": System("x86_64-pc-windows-msvc", ("win_amd64",)),
    "macosx_arm64": System(
        "aarch64-apple-darwin",
        (*(f"macosx_{major}_0_arm64" for major in (11, 12, 13, 14)), "macosx_11_0_universal2"),
    ),
    "manylinux_aarch64": System("aarch64-unknown-linux-gnu", _manylinux("aarch64")),
    "manylinux_x86_64": System("x86_64-unknown-linux-gnu", _manylinux("x86_64")),
}  # fmt: skip


def needed(system: System, python: str, wheels: Path) -> list[str]:
    """name==version of everything that the system needs besides our own packages."""
    words = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python]
    words += ["--python-platform", system.uv_platform, "--find-links", str(wheels), "-"]
    done = subprocess.run(words, input="backpropagate", capture_output=True, text=True, check=True)
    lines = [line.split(";")[0].strip() for line in done.stdout.splitlines()]
    return [line for line in lines if "==" in line and not line.startswith(("backpropagate", "bp-"))]


def download(system: System, python: str, requirements: list[str], folder: Path) -> list[str]:
    """The requirements that could not be downloaded as a wheel, each with pip's reason."""
    missing = []
    for requirement in requirements:
        words = [*PIP, "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        words += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", "--dest", str(folder)]
        for platform in system.wheels:
            words += ["--platform", platform]
        done = subprocess.run([*words, requirement], capture_output=True, text=True)
        if done.returncode != 0:
            missing.append(f"{requirement}: {done.stderr.strip().splitlines()[-1]}")
    return missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", help=f"{', '.join(SYSTEMS)}; default: all")
    parser.add_argument("--python", default="3.12")
    arguments = parser.parse_args()
    if unknown := set(arguments.systems) - SYSTEMS.keys():
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    subprocess.run([*PIP, "--version"], check=True, capture_output=True)  # else it would look as if wheels were missing
    failed = False
    with tempfile.TemporaryDirectory() as place:
        wheels = Path(place, "wheels")
        words = ["uv", "build", "--all-packages", "--wheel", "--quiet", "--out-dir", str(wheels)]
        subprocess.run(words, cwd=ROOT, check=True)
        for name in arguments.systems or SYSTEMS:
            folder = Path(place, name)
            requirements = needed(SYSTEMS[name], arguments.python, wheels)
            missing = download(SYSTEMS[name], arguments.python, requirements, folder)
            size = sum(path.stat().st_size for path in folder.glob("*")) / 1e9
            got = len(requirements) - len(missing)
            print(
                f"{name}, Python {arguments.python}: {got} of {len(requirements)} packages, {size:.1f} GB", flush=True
            )
            for requirement in missing:
                print(f"  missing: {requirement}", flush=True)
            failed = failed or bool(missing)
            for path in folder.glob("*"):
                path.unlink()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
