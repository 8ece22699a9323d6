"""Relative paths of a command line count from where its user stands, and a cluster job refuses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.base import cli, files, places
from infra.base.places import PathOrName, PathText


@dataclass(frozen=True)
class Inner:
    model: PathOrName = "infra/world/model"


@dataclass(frozen=True)
class Config:
    store: PathText = "runs/store"
    images: tuple[PathText, ...] = ()
    init: PathText | None = None
    weights: tuple[PathOrName, ...] = ("world",)
    name: str = "base"
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(*arguments: str) -> Config:
    seen: list[Config] = []
    cli.run(seen.append, Config, arguments=list(arguments))
    return seen[0]


def test_paths_count_from_where_one_stands_and_names_stay(here: Path) -> None:
    (here / "mine.safetensors").touch()
    got = given(
        "--images", "a", "/b", "s3://c/d", "--init", "../e", "--weights", "clip=mine.safetensors", "hpsv2=world"
    )
    assert got.store == f"{here}/runs/store"  # a default too
    assert got.images == (f"{here}/a", "/b", "s3://c/d")
    assert got.init == f"{here}/../e"
    assert got.weights == (f"clip={here}/mine.safetensors", "hpsv2=world")
    assert (got.name, got.inner.model) == ("base", "infra/world/model")  # what comes with the code lies with the code
    assert files.resolve("x") == str(files.ROOT / "x")  # the rule ends with the command


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("mine.safetensors", "{here}/mine.safetensors"),
        ("owner/name", "owner/name"),
        ("owner/name+mine.safetensors", "owner/name+{here}/mine.safetensors"),
        ("s3://bucket/model", "s3://bucket/model"),
    ],
)
def test_a_model_is_a_path_where_it_lies_there_else_a_name(model: str, found: str, here: Path) -> None:
    (here / "mine.safetensors").touch()
    assert given("--model", model).inner.model == found.format(here=here)


def test_a_file_of_settings_is_found_from_there_and_its_paths_count_from_there(here: Path) -> None:
    (here / "mine.yaml").write_text("store: s\nimages: [a, b]\n")
    got = given("--config", "mine.yaml")
    assert (got.store, got.images) == (f"{here}/s", (f"{here}/a", f"{here}/b"))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--store", "mine"], "--store mine"),
        (["--images", "/a", "b"], "--images b"),
        (["--weights", "clip=w"], None),  # no such file: a name, which the scorer refuses or knows
        (["--init", "s3://bucket/a", "--model", "owner/name"], None),
        ([], None),  # the defaults of a checkout count from its root
    ],
)
def test_a_cluster_job_refuses_a_relative_path(
    flags: list[str], told: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(places.IN_JOB, "{}")
    if told is None:
        assert files.resolve(given(*flags).store) == str(files.ROOT / "runs" / "store")
        return
    with pytest.raises(SystemExit) as stopped:
        given(*flags)
    assert stopped.value.code == 2
    why = (
        "a cluster job does not know the folder that you stand in; give an absolute path that all nodes share, or s3://"
    )
    assert capsys.readouterr().err == f"error: {told}: {why}\n"
