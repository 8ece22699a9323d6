"""Flags, presets, and one clear sentence for bad input."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import yaml

from infra.base import cli, files, logs
from infra.base.errors import UserError
from infra.base.flags import Hidden, Shown, read_flags


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


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How the weights move."""

    rate: float = 1e-5
    """Size of
    a step."""
    kind: Literal["adam", "sgd"] = "adam"
    """Which one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    GROUPS: ClassVar = {"basic": ("store", "rate"), "limits": ("steps",)}

    store: str = "s"
    """Where."""
    steps: int | None = None
    """How many; by default all."""
    layers: tuple[str, ...] = ()
    """Which."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    second: Annotated[Optimizer, Shown()] = field(default_factory=Optimizer)


RUNS = {"fast": Run(store="f", optimizer=Optimizer(rate=0.5), second=Optimizer(kind="sgd"))}


def read(*arguments: str) -> Run:
    return cli.parse(Run, RUNS, list(arguments))


def test_a_files_settings_lie_between_the_preset_and_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("rate: 1e-3\nlayers: [a, b]\nsteps: 7\n")
    found = read("--preset", "fast", "--config", str(path), "--steps", "9")
    assert (found.store, found.optimizer.rate, found.layers, found.steps) == ("f", 1e-3, ("a", "b"), 9)
    assert found.second.kind == "sgd"  # a part without flags has the preset's settings


def test_a_runs_settings_are_read_back_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Run(steps=3, layers=("a",), optimizer=Optimizer(rate=1e-08), second=Optimizer(rate=float("inf")))
    cli.save_config(str(tmp_path), begun)
    assert read("--config", str(tmp_path / "config.json")) == begun
    ran: list[Run] = []
    cli.run(ran.append, Run, RUNS, ["--config", str(tmp_path / "config.json"), "--print-config"])
    printed = capsys.readouterr().out
    assert ran == []
    assert yaml.safe_load(printed)["optimizer"] == {"rate": 1e-08, "kind": "adam"}
    result = {"win_rate": 0.6, "config": json.loads((tmp_path / "config.json").read_text())}
    (tmp_path / "report.json").write_text(json.dumps(result))
    assert read("--config", str(tmp_path / "report.json")) == begun
    (tmp_path / "again.yaml").write_text(printed)
    assert read("--config", str(tmp_path / "again.yaml")) == begun


@pytest.mark.parametrize(
    ("holds", "hint"), [("config.json", "give {}/config.json"), ("other", "and it holds no config.json")]
)
def test_a_folder_as_settings_is_refused_with_the_file_in_it(holds: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / holds).write_text("{}")
    with pytest.raises(UserError) as refused:
        read("--config", str(tmp_path))
    told = f"--config {tmp_path}: is a folder, not a file of settings; {hint.format(tmp_path)}"
    assert str(refused.value) == told


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("rat: 1", "rat is no setting of this command; did you mean rate?"),
        ("zzz: 1", "zzz is no setting of this command; --print-config lists the settings that there are"),
        ("optimizer: {steps: 1}", "optimizer.steps is no setting of this command; did you mean steps?"),
        ("optimizer: 3", "optimizer is 3, but holds settings of its own"),
        ("steps: many", "steps is 'many': input should be a valid integer, unable to parse string as an integer"),
        ("kind: adamw", "kind is 'adamw': input should be 'adam' or 'sgd'"),
        ("- 1", "holds no settings; write NAME: VALUE on each line"),
        ("a: [", "neither JSON nor YAML"),
        pytest.param("a: " + "[" * 10_000, "its lists or objects are nested too deeply", id="too deep"),
        ("store: s3://KEY:PLANTED@bucket/run", f"store: {files.NO_SECRETS}"),
        ("layers: [a, 's3://b/x?X-Amz-Signature=PLANTED']", f"layers: {files.NO_SECRETS}"),
        ("'https://u:PLANTED@host/a': 1", f"a name: {files.NO_SECRETS}"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(
    text: str, refusal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: None, Run, RUNS, ["--config", str(path)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith(f"error: --config {path}: {refusal}")
    assert said.count("\n") == 1
    assert "PLANTED" not in said


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read("--config", str(tmp_path / "none.yaml"))


def test_flags_are_grouped_and_have_their_docstrings() -> None:
    found = {flag.path: (flag.group, flag.text, flag.shown) for flag in read_flags(Run)}
    assert found == {
        ("store",): ("basic", "Where.", True),
        ("steps",): ("limits", "How many; by default all.", True),
        ("layers",): ("other", "Which.", True),
        ("optimizer", "rate"): ("basic", "Size of a step.", True),
        ("optimizer", "kind"): ("optimizer", "Which one.", True),
        ("second", "rate"): ("basic", "Size of a step.", False),
        ("second", "kind"): ("second", "Which one.", False),
    }


@dataclass(frozen=True, kw_only=True)
class Chosen:
    first: Annotated[Optimizer, Shown("rate")] = field(default_factory=Optimizer)
    second: Annotated[Optimizer, Hidden("rate")] = field(default_factory=Optimizer)


def test_a_part_shows_the_fields_that_are_named_or_all_but_those() -> None:
    shown = [flag.path for flag in read_flags(Chosen) if flag.shown]
    assert shown == [("first", "rate"), ("second", "kind")]


def test_help_describes_presets_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    about = "Do it.\n\nExample:\n    dpo-do --store s\n"
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: None, Run, RUNS, ["--help"], about=about, lines={"fast": "Quick, 512 px"})
    page = capsys.readouterr().out
    assert not stopped.value.code
    assert "Do it.\n\nExample:\n    dpo-do --store s\n" in page
    assert "- fast: Quick, 512 px." in page
    titles = re.findall(r"(?m)^\W+(\w[\w ]*) options\W+$", page)
    assert titles == ["basic", "limits", "other", "optimizer", "general"]


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
    def main(_: Run) -> None:
        print("step 1")
        logs.LOGGER.warning("careful")
        logs.LOGGER.debug("key %s at %s", secret, "s3://KEY:PLANTED@bucket/a")
        print("result\n")

    cli.run(main, Run, arguments=flags)
    said = capsys.readouterr()
    assert said.out.replace("\n\n", "\n") == out
    assert err in said.err
    assert bool(err) == bool(said.err)
    assert "PLANTED" not in said.err
    assert logging.getLogger("dpo").handlers == []


def test_a_quiet_run_that_fails_prints_its_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: Run) -> None:
        print("step 1")
        raise UserError("no")

    with pytest.raises(SystemExit):
        cli.run(main, Run, arguments=["--quiet"])
    assert capsys.readouterr() == ("", "error: no\n")
    with pytest.raises(SystemExit):
        cli.run(main, Run, arguments=["--quiet", "--verbose"])
    assert capsys.readouterr().err == "error: --quiet with --verbose: give one of them\n"


def test_what_a_run_was_begun_with_is_json(tmp_path: Path) -> None:
    cli.save_config(str(tmp_path), Run(layers=("a",)))
    assert json.loads((tmp_path / "config.json").read_text())["layers"] == ["a"]


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


def test_settings_of_another_command_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"source": "raw", "split": "train", "steps": 3}))  # two of three names are not Run's
    with pytest.raises(UserError, match=r"config\.json: is of another command, as it has source, split; give a folder"):
        cli.save_config(str(tmp_path), Run())
    assert json.loads(path.read_text())["source"] == "raw"
    for content in ('{"ste', json.dumps({"steps": 3, "gone": 1})):  # torn by a kill; of an earlier version
        path.write_text(content)
        cli.save_config(str(tmp_path), Run())
        assert json.loads(path.read_text()) == cli.as_saved(Run())


@pytest.mark.parametrize(("flags", "level"), [([], "error"), (["--verbose"], None)])
def test_libraries_tell_their_errors_alone_unless_verbose(
    flags: list[str], level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIFFUSERS_VERBOSITY", raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")  # the user's own wish stays
    seen: list[str | None] = []

    def look(_: Config) -> None:
        seen.extend([os.environ.get("DIFFUSERS_VERBOSITY"), os.environ["TRANSFORMERS_VERBOSITY"]])

    cli.run(look, Config, arguments=flags)
    assert seen == [level, "info"]
    assert "DIFFUSERS_VERBOSITY" not in os.environ
