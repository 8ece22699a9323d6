"""The commands that a deployment runs, stage by stage: the project's own, with the flags that its values decide."""

from __future__ import annotations

import shlex

from infra.deploy.values import Group, Values

REFERENCE = "base"  # of the cached reference errors, as train_dpo.py --reference names them

Command = list[str]


def encode(values: Values) -> list[Command]:
    """Return what turns raw pairs into a latent store."""
    data = values.data
    command = ["python", "pipelines/encode_latents.py", "--preset", values.preset]
    where = ["--source", data.source, "--store", data.store, *_gpus(values, "--gpus-per-encoder", "encode")]
    return [[*command, *where, "--max-bad-fraction", f"{data.max_bad_fraction:g}", *_filter(values)]]


def relabel(values: Values) -> list[Command]:
    """Return what labels the store's pairs by scorers, a label set for each."""
    data = values.data
    command = ["python", "labelers/relabel.py", "--preset", "published", "--scorer", *data.label_scorers]
    return [[*command, "--source", data.source, "--store", data.store, *_gpus(values, "--gpus-per-copy", "relabel")]]


def reference(values: Values) -> list[Command]:
    """Return what computes the reference's errors ahead of training."""
    command = ["python", "pipelines/encode_reference.py", "--preset", values.preset]
    where = ["--store", values.data.store, "--name", REFERENCE]
    return [[*command, *where, *_gpus(values, "--gpus-per-copy", "reference")]]


def train(values: Values) -> list[Command]:
    """Return what trains, on one worker per GPU, or per machine where there are none."""
    stage = values.stages.train
    data = values.data
    command = ["python", "training/train_dpo.py", "--preset", values.preset]
    where = ["--store", data.store, "--labels", data.labels, "--reference", REFERENCE, "--output", data.run]
    each = max(1, values.machine(stage).gpus)
    workers = ["--workers", str(each * stage.workers.max)]
    if stage.workers.elastic:
        workers += ["--min-workers", str(each * stage.workers.min)]
    judged = ["--validation-prompts", data.validation_prompts] if data.validation_prompts else []
    return [[*command, *where, *workers, *judged]]


def evaluate(values: Values) -> list[Command]:
    """Return what draws base and policy, scores both, flags both where there is a filter, and writes the report."""
    data = values.data
    base = f"{data.images}/base"
    policy = f"{data.images}/policy"
    result = f"{data.run}/result"
    generate = ["python", "pipelines/generate.py", "--preset", values.preset, "--prompts", data.prompts]
    score = ["python", "pipelines/score.py", "--scorers", *data.scorers, "--weights", "published"]
    chosen = _filter(values)
    flag = [["python", "pipelines/flag_images.py", "--images", base, policy, *chosen]] if chosen else []
    report = ["python", "pipelines/report.py", "--judge", data.scorers[0], "--base", base, "--policy", policy]
    return [
        [*generate, "--output", base],
        [*generate, "--model", result, "--output", policy],
        [*score, "--feature-model", result, "--images", base, policy],
        *flag,
        [*report, "--train", data.run, "--store", data.store, "--output", f"{data.run}/report"],
    ]


STAGES = {"encode": encode, "relabel": relabel, "reference": reference, "train": train, "evaluate": evaluate}


def entrypoint(commands: list[Command]) -> str:
    """Join commands, which run one after the other until one fails, into the one that Ray is given.

    The operator writes it into a shell script of its own, so several need a shell around them.
    """
    if len(commands) == 1:
        return shlex.join(commands[0])
    return shlex.join(["bash", "-c", " && ".join(map(shlex.join, commands))])


def _filter(values: Values) -> Command:
    """Return the flags of the safety filter; none where there is no filter."""
    chosen = values.safety.model_dump(exclude_none=True)
    return [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", value)]


def _gpus(values: Values, flag: str, stage: str) -> list[str]:
    """Return the flag that asks for GPUs where the machines have some.

    With it, a cluster that shows no GPU refuses the job, which would otherwise run slowly on CPUs.
    """
    group: Group = getattr(values.stages, stage)
    return [flag, "1"] if values.machine(group).gpus else []
