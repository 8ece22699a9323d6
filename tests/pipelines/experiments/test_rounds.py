"""Rounds: the order of the steps, what a round takes from the one before, resume, refusals, and the table.

Images and training are stood in for; scoring, ranking and comparing are the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.judging_material import name_scorers, write_images, write_run, write_store
from support.trained_models import Killed

from infra.base import cli, files
from infra.base.errors import UserError
from pipelines.drawing import generate, image_sets
from pipelines.drawing.image_sets import read_images
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments import rounds
from pipelines.experiments.rounds import main
from pipelines.experiments.rounds_config import PRESETS, RoundsConfig
from pipelines.judging import score
from pipelines.latents import encode_latents
from training.method.objective_config import ObjectiveConfig
from training.method.policy_config import PolicyConfig
from training.run import train_dpo
from training.settings.config import DataConfig, TrainConfig

CAPTIONS = [f"caption {number}" for number in range(8)]
TESTED = [f"test {number}" for number in range(6)]


@dataclass
class Stand:
    """In the place of the generator, the encoder and the trainer: notes what they were asked, works once a folder."""

    calls: list[str] = field(default_factory=list)  # every call, in order
    work: list[str] = field(default_factory=list)  # those that were not finished before
    drawn: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, TrainConfig] = field(default_factory=dict)
    dies_at: str = ""

    def _turn(self, output: str, marker: str) -> str | None:
        """Return the step's name below the run's folder where there is work to do."""
        name = output.split("/out/")[1]
        self.calls.append(name)
        if name == self.dies_at:
            self.dies_at = ""
            raise Killed
        if files.exists(files.join(output, marker)):
            return None
        self.work.append(name)
        return name

    def generate(self, config: generate.GenerateConfig) -> None:
        if name := self._turn(config.output, image_sets.DONE):
            self.drawn[name] = config
            better = 40 * config.model.count("result")  # whoever was trained draws redder images
            shown = {
                caption: [(10 + better + 7 * ((n + k) % 5), 0, 0) for k in range(config.images_per_prompt)]
                for n, caption in enumerate(read_prompts(config.prompts)[: config.limit])
            }
            write_images(config.output, shown, model=config.model, seed=config.seed)

    def encode(self, config: encode_latents.EncodeConfig) -> None:
        if name := self._turn(config.store, "manifest.json"):
            self.encoded[name] = config
            write_store(config.store)

    def train(self, config: TrainConfig) -> None:
        if name := self._turn(config.output, "result/facts.json"):
            self.trained[name] = config
            write_run(config.output)


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    name_scorers(monkeypatch)
    stand = Stand()
    monkeypatch.setattr(generate, "main", stand.generate)
    monkeypatch.setattr(encode_latents, "main", stand.encode)
    monkeypatch.setattr(train_dpo, "main", stand.train)
    return stand


@pytest.fixture
def config(tmp_path: Path) -> RoundsConfig:
    for name, captions in (("train", CAPTIONS), ("test", TESTED)):
        (tmp_path / f"{name}.txt").write_text("\n".join(captions) + "\n")
    world = RoundsConfig()
    data = replace(world.train.data, global_batch=8, micro_batch=4)
    return replace(
        world,
        draw=replace(world.draw, prompts=str(tmp_path / "train.txt"), samplers=0),
        test_prompts=str(tmp_path / "test.txt"),
        scorer="red",
        judges=("red", "green"),
        train=replace(world.train, output=str(tmp_path / "out"), data=data, seed=5),
    )


ROUND = ["drawn", "store", "train", "images"]


def test_a_round_goes_on_from_the_policy_that_the_one_before_trained(stand: Stand, config: RoundsConfig) -> None:
    main(config)
    assert stand.work == ["base", *(f"round-{n}/{part}" for n in (1, 2) for part in ROUND)]
    out, base = config.train.output, "infra/world/model"
    tuned = [f"{out}/round-{n}/train/result" for n in (1, 2)]
    drawers = [stand.drawn[name] for name in ("round-1/drawn", "round-1/images", "round-2/drawn", "round-2/images")]
    assert [one.model for one in drawers] == [base, tuned[0], tuned[0], tuned[1]]
    assert [one.seed for one in drawers] == [6, 5, 7, 5]  # each round's own; the base's for what is judged
    assert [one.images_per_prompt for one in drawers] == [4, 1, 4, 1]
    assert stand.drawn["base"].seed == 5
    assert {one.sampling_steps for one in stand.drawn.values()} == {12}
    assert [stand.trained[f"round-{n}/train"].model for n in (1, 2)] == [base, tuned[0]]
    for number in (1, 2):
        encode, train = stand.encoded[f"round-{number}/store"], stand.trained[f"round-{number}/train"]
        assert (encode.source, encode.model) == (f"{out}/round-{number}/raw", base)
        assert (train.data.store, train.data.labels) == (f"{out}/round-{number}/store", "human")
        assert type(train) is TrainConfig  # what Ray's workers unpickle
        assert type(train.data) is DataConfig


@pytest.mark.slow
def test_the_reference_is_the_base_or_the_policy_that_the_round_began_with(
    stand: Stand, config: RoundsConfig, tmp_path: Path
) -> None:
    main(config)
    assert [stand.trained[f"round-{n}/train"].reference_model for n in (1, 2)] == [None, "infra/world/model"]
    assert stand.trained["round-2/train"].reference.name == "infra/world/model"
    last = replace(config, reference="last", train=replace(config.train, output=str(tmp_path / "last" / "out")))
    main(last)
    assert stand.trained["round-2/train"].reference.name == f"{tmp_path}/last/out/round-1/train/result"
    assert stand.trained["round-2/train"].reference_model is None  # where the policy starts


@pytest.mark.slow
def test_a_killed_run_goes_on_and_a_finished_one_has_nothing_to_do(stand: Stand, config: RoundsConfig) -> None:
    stand.dies_at = "round-2/store"
    with pytest.raises(Killed):
        main(config)
    assert [one["round"] for one in files.read_json(f"{config.train.output}/rounds.json")["rounds"]] == [1]
    main(config)
    everything = ["base", *(f"round-{n}/{part}" for n in (1, 2) for part in ROUND)]
    assert stand.work == everything
    main(config)
    assert stand.work == everything
    assert stand.calls[-len(everything) :] == everything  # each was asked, and had nothing to do
    main(replace(config, rounds=3))
    assert stand.work == [*everything, *(f"round-3/{part}" for part in ROUND)]
    main(config)
    assert [one["round"] for one in files.read_json(f"{config.train.output}/rounds.json")["rounds"]] == [1, 2, 3]


@pytest.mark.usefixtures("stand")
def test_the_table_tells_pairs_accuracy_and_win_rates(config: RoundsConfig, capsys: pytest.CaptureFixture[str]) -> None:
    main(config)
    first, second = files.read_json(f"{config.train.output}/rounds.json")["rounds"]
    assert (first["round"], first["pairs"]["kept"]) == (1, 7)
    assert first["training_accuracy"] == pytest.approx(0.54)  # of steps 1 to 4 the last quarter is step 4
    assert first["held_out"]["accuracy"] == 0.625
    assert first["judged"]["red"]["win_rate"]["value"] == 1.0  # 40 redder than the base
    assert first["judged"]["green"]["win_rate"]["value"] == 0.5  # no green in either
    red = [one["judged"]["red"]["median"] for one in (first, second)]
    assert [one["policy"] - one["base"] for one in red] == [40, 40]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    accuracy = ["0.625", "of", "8", "held", "out"]
    assert ["1", "7", *accuracy, "red", "1.000", "(0.610", "to", "1.000)", "60.5000,", "20.5000"] in lines
    assert any(line[:3] == ["green", "0.500", "(0.188"] for line in lines)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scorer": "green"}, "scorer was 'red', now 'green'"),
        ({"groups": 3}, "groups was 1, now 3"),
        ({"train": {"steps": 7}}, "steps was 60, now 7"),
        ({"train": {"seed": 6}}, "seed was 5, now 6"),
    ],
)
@pytest.mark.usefixtures("stand")
def test_other_settings_are_refused(config: RoundsConfig, changes: dict[str, Any], told: str) -> None:
    main(replace(config, rounds=1))
    train = replace(config.train, **changes.pop("train", {}))
    with pytest.raises(UserError, match=f"was begun with other settings .*{told}"):
        main(replace(config, train=train, **changes))
    main(replace(config, rounds=1, train=replace(config.train, workers=1, max_failures=9)))  # these change no result


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"group_size": 1}, "--group-size 1: must be at least 2"),
        ({"scorer": "nobody"}, "scorer 'nobody': unknown"),
        ({"scorer": "oracle"}, "caption"),  # which knows the embedded world's captions alone
        ({"weights": ("clip=/nowhere",)}, "--weights clip=...: not among the scorers asked for"),
        ({"train": {"workers": 3}}, "--global-batch 8: not a multiple of 3 workers"),
        ({"train": {"data": {"global_batch": 16}}}, "--global-batch 16: a round has 8 pairs at the most"),
        ({"train": {"data": {"held_out_store": "/nowhere"}}}, "no latent store"),
        ({"train": {"objective": ObjectiveConfig(objective="soft")}}, "--objective soft: the pairs of a round"),
        ({"train": {"objective": ObjectiveConfig(beta=-1.0)}}, "--beta -1: must be above 0"),
        ({"train": {"policy": PolicyConfig(lora_rank=4)}}, "--lora-rank 4: a round starts from a whole model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_drawn(
    stand: Stand, config: RoundsConfig, changes: dict[str, Any], told: str
) -> None:
    training = dict(changes.pop("train", {}))
    data = replace(config.train.data, **training.pop("data", {}))
    with pytest.raises(UserError, match=told):
        main(replace(config, train=replace(config.train, data=data, **training), **changes))
    assert stand.calls == []


@pytest.mark.slow
def test_rounds_on_s3_go_on_after_a_kill(stand: Stand, config: RoundsConfig, bucket: str, tmp_path: Path) -> None:
    there = replace(config.train, output=f"{bucket}/{tmp_path.name}/out")
    stand.dies_at = "round-1/train"
    with pytest.raises(Killed):
        main(replace(config, rounds=1, train=there))
    main(replace(config, rounds=1, train=there))
    assert stand.work == ["base", *(f"round-1/{part}" for part in ROUND)]
    (told,) = files.read_json(f"{there.output}/rounds.json")["rounds"]
    assert told["model"] == stand.drawn["round-1/images"].model == f"{there.output}/round-1/train/result"
    assert told["training_accuracy"] == 0.54  # of the last of four steps, 0.51 to 0.54
    assert told["judged"]["red"]["win_rate"]["value"] == 1.0


def test_captions_that_are_trained_on_are_no_test(stand: Stand, config: RoundsConfig) -> None:
    Path(config.test_prompts).write_text("\n".join([*TESTED, CAPTIONS[3]]))
    with pytest.raises(UserError, match=r"--test-prompts .*: 1 of its captions are in --prompts too"):
        main(config)
    validation = replace(config.train.validation, validation_prompts=config.draw.prompts)
    with pytest.raises(UserError, match=r"--validation-prompts .*: 8 of its captions are in --prompts too"):
        main(replace(config, test_limit=6, train=replace(config.train, validation=validation)))
    assert stand.calls == []
    main(replace(config, rounds=1, test_limit=6))  # the seventh is not drawn
    assert read_images(f"{config.train.output}/base").num_rows == 6


def parsed(monkeypatch: pytest.MonkeyPatch, *flags: str) -> RoundsConfig:
    seen: list[RoundsConfig] = []
    monkeypatch.setattr(rounds, "main", seen.append)
    cli.run(rounds.main, RoundsConfig, PRESETS, list(flags))
    return seen[0]


def test_the_trainers_and_the_generators_flags_are_there_and_the_rounds_own_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = parsed(monkeypatch, "--model", "m", "--beta", "7", "--global-batch", "16", "--limit", "9", "--seed", "3")
    assert (found.train.model, found.train.objective.beta, found.train.data.global_batch) == ("m", 7.0, 16)
    assert (found.draw.limit, found.train.seed, found.train.steps) == (9, 3, RoundsConfig().train.steps)
    real = parsed(monkeypatch, "--preset", "sd15", "--rounds", "4")
    assert (real.rounds, real.train.data.global_batch, real.encode.resolution) == (4, 2048, 512)
    assert (real.draw.dtype, real.draw.batch_size) == ("bfloat16", 16)
    for hidden in ("--store", "--labels", "--reference-model", "--images-per-prompt"):
        with pytest.raises(SystemExit):
            parsed(monkeypatch, hidden, "1")
    assert "Unrecognized" in capsys.readouterr().err


@pytest.mark.usefixtures("stand")
def test_scorer_and_judges_get_their_weights(config: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    true_main, asked = score.main, list[tuple[tuple[str, ...], tuple[str, ...]]]()

    def noted(given: score.ScoreConfig) -> None:
        asked.append((given.scorers, given.weights))
        true_main(given)

    monkeypatch.setattr(score, "main", noted)
    main(replace(config, rounds=1, judges=("green",), weights=("world", "red=published")))
    assert asked == [(("green",), ("green=world",)), (("red",), ("red=published",)), (("green",), ("green=world",))]
