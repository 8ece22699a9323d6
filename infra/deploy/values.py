"""What a deployment decides, read from one YAML file and checked before anything is rendered."""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.base import files, json_text
from infra.base.errors import UserError
from pipelines.latents.models_known import MODELS

# A name becomes a DNS label, with a stage behind it, and KubeRay cuts a RayJob's at 47 characters.
Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=32)]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]
# Commands pass through a shell or two, so a path has no character that means anything to one.
_PATH = r"[A-Za-z0-9._=/-]+"
Place = Annotated[str, Field(pattern=rf"^(s3:/)?/{_PATH}$")]
Source = Annotated[
    str, Field(pattern=rf"^((s3:/|hf:/)?/{_PATH}|[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?)$")
]


def _known(preset: str) -> str:
    if preset not in MODELS:
        raise ValueError(f"{preset} is no model's preset; give one of {', '.join(MODELS)}")
    return preset


Preset = Annotated[str, AfterValidator(_known)]
UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
Count = Annotated[int, Field(ge=1)]
Scorers = Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._:]+$")]], Field(min_length=1)]


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Workers(_Values):
    """How many machines a stage has, at least and at most."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; give max at least min")
        return self

    @property
    def elastic(self) -> bool:
        """Say whether the number may change."""
        return self.min < self.max


class Machine(_Values):
    """A kind of machine: what a pod on it asks for, and how it is found or bought."""

    cpus: Count
    memory: Quantity
    gpus: int = Field(ge=0)
    scratch: Quantity
    instance: Annotated[str, Field(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]
    node_labels: dict[str, str]

    @property
    def scratch_bytes(self) -> int:
        """Return the size of its scratch."""
        return int(self.scratch[:-2]) * UNITS[self.scratch[-2:]]


class Group(_Values):
    """Machines of one kind."""

    machine: str
    workers: Workers


class Stage(Group):
    """The machines of a job, how long one attempt may take, and how often another may follow."""

    attempt_seconds: Count
    retries: int = Field(ge=0)

    @property
    def most_seconds(self) -> int:
        """Return how long all attempts may take together."""
        return self.attempt_seconds * (self.retries + 1)


class Stages(_Values):
    """The jobs."""

    encode: Stage
    relabel: Stage
    reference: Stage
    train: Stage
    evaluate: Stage

    @model_validator(mode="after")
    def _only_training_is_elastic(self) -> Stages:
        for name in ("encode", "relabel", "reference", "evaluate"):
            if getattr(self, name).workers.elastic:  # such a job counts the GPUs once, when it begins
                raise ValueError(
                    f"{name}: min and max differ, but only train takes machines that come later; give the same number"
                )
        return self


class SharedDisk(_Values):
    """The disk that all nodes share: Kubernetes' claim to it, where it is mounted, and its server to AWS machines."""

    claim: Label
    path: Annotated[str, Field(pattern=rf"^/{_PATH}$")]
    nfs: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:/[A-Za-z0-9._/-]*$")]


class Launcher(_Values):
    """What the AWS launcher needs beside: a machine image, and instance profiles."""

    machine_image: Annotated[str, Field(pattern=r"^ami-[0-9a-f]{8,17}$")]
    head_profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9+=,.@_-]+$")]
    worker_profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9+=,.@_-]+$")]


class Data(_Values):
    """What the stages read and write."""

    source: Source
    store: Place
    pairs: Count
    captions: Count
    prompts: Place
    validation_prompts: Place | None
    run: Place
    images: Place
    scorers: Scorers
    label_scorers: Scorers
    labels: str
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _labels_are_made(self) -> Data:
        made = ["human", *(name.rpartition(":")[2] for name in self.label_scorers)]  # as relabel.py names its sets
        if self.labels not in made:
            raise ValueError(f"labels {self.labels!r}: no stage makes this label set; choose one of {', '.join(made)}")
        return self


class Safety(_Values):
    """The filter's word list and checker, and the revision of a checker's Hub name; null is none."""

    prompt_blocklist: Literal["default"] | Place | None
    safety_checker: Annotated[str, Field(pattern=rf"^{_PATH}$")] | None
    safety_revision: Annotated[str, Field(pattern=rf"^{_PATH}$")] | None

    @model_validator(mode="after")
    def _revision_of_a_checker(self) -> Safety:
        if self.safety_revision and self.safety_checker in (None, "published"):
            raise ValueError("safety_revision is given without a Hub name; give safety_checker one, or null here")
        return self


class Values(_Values):
    """Everything that a deployment decides."""

    name: Name
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
    image: Annotated[str, Field(pattern=r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+$")]
    variant: Literal["cuda", "cpu"]
    service_account: Label
    role_arn: Annotated[str, Field(pattern=r"^arn:[a-z0-9-]+:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$")] | None
    token_secret: Label
    aws_secret: Label | None
    hub_secret: Label | None
    region: Label
    endpoint: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:-]+$")] | None
    ttl_seconds: int = Field(ge=0)
    stop_seconds: int = Field(ge=30)
    shared: SharedDisk | None
    launcher: Launcher
    preset: Preset
    data: Data
    safety: Safety
    machines: dict[Name, Machine]
    stages: Stages
    interactive: Group

    @model_validator(mode="after")
    def _consistent(self) -> Values:
        groups = {name: getattr(self.stages, name) for name in Stages.model_fields} | {"interactive": self.interactive}
        for name, group in groups.items():
            if group.machine not in self.machines:
                raise ValueError(
                    f"{name}: machine {group.machine!r} is not under machines; choose one of {', '.join(self.machines)}"
                )
            if (self.variant == "cuda") != (self.machines[group.machine].gpus > 0):
                raise ValueError(
                    f"{name}: machine {group.machine!r} has {self.machines[group.machine].gpus} GPUs, "
                    f"but the image's variant is {self.variant}; change one of them"
                )
        if "head" not in self.machines:
            raise ValueError("machines: head is missing, and every cluster needs one; add it")
        return self

    @model_validator(mode="after")
    def _reached_by_every_pod(self) -> Values:
        groups = {"data": self.data.model_dump(), "safety": self.safety.model_dump()}
        for group, values in groups.items():
            for name, value in values.items():
                if not isinstance(value, str) or not value.startswith("/"):
                    continue
                if self.shared is None:
                    raise ValueError(
                        f"{group}.{name}: {value} is on no disk that all pods reach; "
                        "give an s3:// path, or name a disk under shared"
                    )
                if not value.startswith(f"{self.shared.path}/"):
                    raise ValueError(
                        f"{group}.{name}: {value} is not on the shared disk; give a path below {self.shared.path}"
                    )
        return self

    def machine(self, group: Group) -> Machine:
        """Return the machine of a group."""
        return self.machines[group.machine]


def read(path: str) -> Values:
    """Read the values of a deployment.

    Raises:
        UserError: naming the file and the first value that is missing, unknown or unfit.
    """
    if not files.is_file(path):
        raise UserError(f"--values {path}: there is no such file; copy infra/deploy/values.yaml and change it")
    try:
        return Values.model_validate(yaml.safe_load(files.read_bytes(path)))
    except yaml.YAMLError as error:
        raise UserError(f"--values {path}: not valid YAML ({' '.join(str(error).split())})") from error
    except RecursionError:
        raise UserError(f"--values {path}: {json_text.TOO_DEEP}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"--values {path}: {place}{': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error
