"""A secret in the environment is in nothing that encoding, labelling, training, evaluation or a report leaves or sends.

All of it runs on S3, where secrets are used; Ray's part is a plain loop, which notes what Ray would be sent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle
from support.material import rendered_pairs, write_pairs

from infra.base import cli, engines, files, models, s3_filesystem
from infra.base.errors import UserError
from labelers.clips import weights
from labelers.clips.safety_checker import CheckerName
from labelers.labels import relabel
from pipelines.engine import in_process, own_copies, ray_cluster
from pipelines.engine.jobs import Job
from pipelines.experiments import evaluate_config, evaluate_model
from pipelines.latents import encode_latents
from pipelines.reports import report
from training.method.policy_config import PolicyConfig
from training.run import assembly, loop, train_dpo, workers
from training.settings.config import DataConfig, TrainConfig

pytestmark = pytest.mark.chaos
SECRET = "PLANTED-7f3a9c"
PLANTED = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN")


@dataclass
class Sent:
    """What Ray would be sent: pickled jobs and settings, and how it is asked to connect."""

    pickled: list[bytes] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """Put this process in Ray's place, its workers' too; yields what Ray would be sent."""
    sent = Sent()

    def run(job: Job) -> None:
        sent.pickled.append(cloudpickle.dumps((job, files.open_filesystem(job.output)[0])))
        in_process.run(job)

    def launch(config: TrainConfig, output: str) -> None:
        trainer = workers._trainer(config, output, use_gpu=False)
        sent.pickled.append(cloudpickle.dumps(vars(trainer)))
        loop.train(config, assembly.Rank())

    def init(*_: str, **asked: Any) -> SimpleNamespace:
        sent.asked.append(asked)
        return SimpleNamespace(dashboard_url=None)

    monkeypatch.setattr(ray_cluster._Own, "started", False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(own_copies, "device_count", lambda: 0)
    monkeypatch.setattr(own_copies, "run", run)
    monkeypatch.setattr(workers, "launch", launch)
    with engines.asking("ray"):
        yield sent


@pytest.fixture
def place(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield a folder on S3 with 16 raw pairs; secrets are in the environment, and S3's clients use them."""
    for name in PLANTED:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    s3_filesystem._s3.cache_clear()  # a client keeps the credentials that it found
    place = f"{bucket}/{tmp_path.name}"
    for path in write_pairs(tmp_path / "raw", rendered_pairs(16)).iterdir():
        files.copy(str(path), f"{place}/raw/{path.name}")
    yield place
    s3_filesystem._s3.cache_clear()


def left(place: str) -> dict[str, bytes]:
    """Read every file below a folder; of Parquet, which is compressed, its texts too."""
    places = {}
    for path in files.list_files(place):
        places[path] = content = files.read_bytes(path)
        if path.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(content), partitioning=None)
            texts = [one.name for one in table.schema if pa.types.is_string(one.type)]
            places[path] += repr((table.schema, table.select(texts).to_pylist())).encode()
    return places


@pytest.mark.slow
def test_a_secret_of_the_environment_is_in_nothing_that_is_written_printed_or_sent(
    place: str, sent: Sent, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encode_latents.main(encode_latents.EncodeConfig(source=f"{place}/raw", store=f"{place}/store"))
    relabel.main(relabel.RelabelConfig(scorer=("oracle",), source=f"{place}/raw", store=f"{place}/store"))
    data = DataConfig(store=f"{place}/store", labels="oracle", global_batch=4, micro_batch=4)
    policy = PolicyConfig(lora_rank=2)
    train_dpo.main(TrainConfig(output=f"{place}/run", steps=2, checkpoint_every=1, data=data, policy=policy))
    draw = replace(evaluate_config.NOT_CHOSEN, sampling_steps=1, samplers=1)
    settings = evaluate_model.EvaluateConfig(lora=f"{place}/run/result", limit=2, output=f"{place}/out", draw=draw)
    evaluate_model.main(settings)
    report.main(
        report.ReportConfig(
            base=f"{place}/out/base", policy=f"{place}/out/policy", train=f"{place}/run", store=f"{place}/store",
            output=f"{place}/report",
        )
    )  # fmt: skip
    message, written = capfd.readouterr(), left(place) | left(str(tmp_path))
    texts = {"stdout": message.out.encode(), "stderr": message.err.encode(), "connect": repr(sent.asked).encode()}
    texts |= written | {f"sent {number}": content for number, content in enumerate(sent.pickled)}
    for name in ("store/manifest.json", "run/result/README.md", "run/result/facts.json", "out/report.html"):
        assert place.encode() in written[f"{place}/{name}"]  # what is looked for would be found
    assert all("runtime_env" not in asked for asked in sent.asked)
    assert len(sent.asked) > 3
    assert len(sent.pickled) > 5
    assert not [name for name, content in texts.items() if SECRET.encode() in content]


@pytest.mark.parametrize(
    ("main", "config", "flag"),
    [
        (encode_latents.main, encode_latents.EncodeConfig, "--source"),
        (relabel.main, relabel.RelabelConfig, "--weights"),
        (train_dpo.main, TrainConfig, "--cache"),
        (evaluate_model.main, evaluate_model.EvaluateConfig, "--lora"),
        (report.main, report.ReportConfig, "--train"),
    ],
)
def test_a_secret_in_a_url_ends_an_entry_point_in_one_sentence(
    main: Any, config: Any, flag: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.run(main, config, arguments=[flag, f"s3://KEY:{SECRET}@bucket/a"])
    assert capfd.readouterr() == ("", f"error: {flag}: {files.NO_SECRETS}\n")


def test_a_secret_in_a_setting_is_refused_where_no_command_line_was_read() -> None:
    with pytest.raises(UserError, match=f"^{files.NO_SECRETS}$"):
        train_dpo.main(TrainConfig(output=f"s3://KEY:{SECRET}@bucket/run"))
    for name in ("https://u:{}@host/model", "s3://bucket/model?X-Amz-Signature={}"):
        for opened in (models.Model(name.format(SECRET)).folder, CheckerName(name.format(SECRET), None).files):
            with pytest.raises(UserError, match=f"^{files.NO_SECRETS}$"):
                opened()
        with pytest.raises(UserError, match=f"^{files.NO_SECRETS}$"):
            weights.local_path("clip", name.format(SECRET))
