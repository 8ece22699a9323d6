"""What is installed: the wheel has all data, its console scripts start anywhere, and paths resolve or say why."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra.base.files import ROOT

PACKAGES = ("infra", "labelers", "pipelines", "training")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of a copy of the sources and unpack it, as an installation of pure Python does."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*build, "-w", str(folder), str(folder / "source")], check=True, timeout=300)
    wheel = next(folder.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(folder / "site-packages")
    return folder / "site-packages"


def start(installed: Path, script: str, cwd: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Start a console script of the installation from a folder, as the file that pip writes for it does."""
    scripts = configparser.ConfigParser()
    scripts.read(next(installed.glob("*.dist-info")) / "entry_points.txt")
    module, function = scripts["console_scripts"][script].split(":")
    program = f"import sys; from {module} import {function}; sys.argv[0] = {script!r}; {function}()"
    return subprocess.run(
        [sys.executable, "-c", program, *flags],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_the_wheel_has_every_file_but_the_tests(installed: Path) -> None:
    for name in PACKAGES:
        wanted = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        wanted = {path for path in wanted if path.suffix != ".pyc" and path.name not in ("env.sh", "README.md")}
        assert wanted - {path.relative_to(installed) for path in installed.rglob("*")} == set()


@pytest.mark.slow
def test_a_console_script_starts_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    planned = start(installed, "dpo-encode", tmp_path, "--dry-run", "--store", "/no/store")
    assert planned.returncode == 0, planned.stderr  # the embedded world's model and pairs are installed too
    assert "accelerator-hours" in planned.stdout
    assert list(tmp_path.iterdir()) == []
