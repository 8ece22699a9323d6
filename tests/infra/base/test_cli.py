"""Flags, presets, and one clear sentence for bad input."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.base import cli, files
from infra.base.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class Config:
    name: str = "a"
    inner: Inner = field(default_factory=Inner)


PRESETS = {"big": Config(name="big", inner=Inner(rate=9.0))}


def parsed(*arguments: str) -> Config:
    seen: list[Config] = []
    cli.run(seen.append, Config, PRESETS, list(arguments))
    return seen[0]


def test_nested_flags_are_flat_and_presets_set_defaults() -> None:
    assert parsed() == Config()
    assert parsed("--rate", "2") == Config(inner=Inner(2.0))
    assert parsed("--preset", "big", "--name", "x") == Config("x", Inner(9.0))


def test_a_user_error_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(config: Config) -> None:
        raise UserError(f"--name {config.name}: no")

    with pytest.raises(SystemExit) as stopped:
        cli.run(refuse, Config, arguments=[])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --name a: no\n"


SECRET_URLS = [
    "s3://KEY:PLANTED@bucket/run",
    "s3://KEY:slash/PLANTED@bucket/run",
    "NAME=s3://bucket/run?X-Amz-Signature=PLANTED",
    "https://u:PLANTED@host/a",
]


@pytest.mark.chaos
@pytest.mark.parametrize("url", SECRET_URLS)
@pytest.mark.parametrize(
    ("flags", "named"),
    [("--name {}", "--name"), ("--name={}", "--name"), ("--rate 2 --none {}", "--none"), ("{} --rate 2", "a flag")],
)
def test_a_url_with_a_secret_is_refused_before_it_is_read_and_not_repeated(
    url: str, flags: str, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed(*flags.format(url).split())
    told = capfd.readouterr()
    assert stopped.value.code == 2
    assert (told.out, told.err) == ("", f"error: {named}: {files.NO_SECRETS}\n")
    with pytest.raises(UserError) as refused:
        cli.parse(Config, PRESETS, ["--name", url])
    assert str(refused.value) == f"--name: {files.NO_SECRETS}"


def test_paths_count_from_the_root_never_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.resolve("runs/x") == str(files.ROOT / "runs" / "x")
    assert files.resolve("/a/b") == "/a/b"
    assert files.resolve("s3://bucket/a/") == "s3://bucket/a"


def test_relative_paths_under_rays_upload_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROOT", Path("/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_1"))
    with pytest.raises(UserError, match="absolute or s3://"):
        files.resolve("runs/x")


def test_a_setting_that_is_newer_than_a_run_has_its_default(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Inner:
        old: int = 1
        new: tuple[int, ...] = (2, 3)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner = field(default_factory=Inner)
        newest: float = 0.5

    (tmp_path / "config.json").write_text('{"inner": {"old": 7}}')
    found = cli.begun_with(str(tmp_path / "config.json"), Outer())
    assert found == {"inner": {"old": 7, "new": [2, 3]}, "newest": 0.5}
    assert cli.as_saved(Outer(Inner(7))) == found
