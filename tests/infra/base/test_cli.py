"""Command lines: presets, one clear sentence for bad input, levels of what is said."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.base import cli, files, logs
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


def test_an_unknown_preset_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed("--preset", "small")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --preset small: there is none of this name; give big\n"


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


def verified(*sentences: str) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: pytest.fail("main ran"), Config, arguments=["--verify"], verify=lambda _: sentences)
    return stopped.value.code


def test_verify_prints_each_thing_that_is_wrong_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert verified("x: gone; restore it", "y: torn; delete it") == 1
    assert capsys.readouterr().out.splitlines() == [
        "wrong: x: gone; restore it",
        "wrong: y: torn; delete it",
        "2 things are wrong",
    ]


def test_verify_exits_0_where_nothing_is_wrong_and_is_no_flag_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(lambda _: pytest.fail("main ran"), Config, arguments=["--verify"], verify=lambda _: ())
    assert capsys.readouterr().out == "nothing is wrong: every file is as its manifest says\n"
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: None, Config, arguments=["--verify"])
    assert stopped.value.code == 2


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "PLANTED-IN-ENV")
    return "PLANTED-IN-ENV"


@pytest.mark.parametrize(
    ("flags", "out", "err"),
    [
        ([], "step 1\nresult\n", "warning: careful\n"),
        (["--quiet"], "result\n", ""),
        (["--verbose"], "step 1\nresult\n", "warning: careful\ndebug: key [AWS_SECRET_ACCESS_KEY] at [URL with cre"),
    ],
)
def test_levels(flags: list[str], out: str, err: str, secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: Config) -> None:
        print("step 1")
        logs.LOGGER.warning("careful")
        logs.LOGGER.debug("key %s at %s", secret, "s3://KEY:PLANTED@bucket/a")
        print("result\n")

    cli.run(main, Config, arguments=flags)
    said = capsys.readouterr()
    assert said.out.replace("\n\n", "\n") == out
    assert err in said.err
    assert bool(err) == bool(said.err)
    assert "PLANTED" not in said.err
    assert logging.getLogger("dpo").handlers == []


def test_a_quiet_run_that_fails_prints_its_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: Config) -> None:
        print("step 1")
        raise UserError("no")

    with pytest.raises(SystemExit):
        cli.run(main, Config, arguments=["--quiet"])
    assert capsys.readouterr() == ("", "error: no\n")
    with pytest.raises(SystemExit):
        cli.run(main, Config, arguments=["--quiet", "--verbose"])
    assert capsys.readouterr().err == "error: --quiet with --verbose: give one of them\n"


@pytest.mark.chaos
def test_a_file_in_the_way_is_one_sentence_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    def main(_: object) -> None:
        (tmp_path / "file" / "inner").mkdir()

    with pytest.raises(SystemExit) as ended:
        cli.run(main, cli.DryRunConfig, arguments=[])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/file/inner: Not a directory; "
        "a file lies where a folder should; move it away, or give another path\n"
    )


@pytest.mark.parametrize(("flags", "level"), [([], ("error", "1")), (["--verbose"], (None, None))])
def test_libraries_tell_their_errors_alone_unless_verbose(
    flags: list[str], level: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("DIFFUSERS_VERBOSITY", "RAY_DISABLE_WORKER_LOG_PREFIX")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")  # the user's own wish stays
    seen: list[str | None] = []
    cli.run(lambda _: seen.extend(map(os.environ.get, [*names, "TRANSFORMERS_VERBOSITY"])), Config, arguments=flags)
    assert seen == [*level, "info"]
    assert not [name for name in names if name in os.environ]


def test_ctrl_c_is_one_sentence_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Config) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        cli.run(interrupted, Config, PRESETS, [])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C; give the same command again\n"
