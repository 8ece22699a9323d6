"""What the implicit scorer is made of: the folders of a policy and its reference, and how the policy was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.base import files, models
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from pipelines.latents import identity, kinds, weight_files
from pipelines.latents.adapters import check_adapters
from pipelines.latents.buckets import Shape
from training.backbones.backbone import check_fingerprints
from training.backbones.schedule_config import ScheduleConfig
from training.layout import base_precision
from training.method.objective_config import ObjectiveConfig

WORLD_MODEL = "infra/world/model"
BETA = 5000.0  # for a policy whose own beta does not fit, see trained_beta


@dataclass(frozen=True, kw_only=True)
class Folders:
    """A policy and its reference; a LoRA policy is its base and the folder of its adapters."""

    policy: Path
    reference: Path
    beta: float
    schedule: ScheduleConfig
    max_tokens: int | None  # of T5
    resolution: int  # pixels
    buckets: tuple[Shape, ...] = ()  # of the store that the policy was trained on, heights and widths in pixels
    lora: Path | None = None
    base_precision: str = "float32"  # of the weights beneath the adapters, and of the reference's

    @classmethod
    def find(cls, weights: str) -> Folders:
        """Read POLICY or POLICY,REFERENCE; without the second, the policy's facts name it. A LoRA result is a policy.

        Raises:
            UserError: if a folder is missing or the two encode images or text differently.
        """
        name, _, against = weights.partition(",")
        if name in ("world", "published"):
            raise UserError("--scorer implicit: its weights are a policy's; give --weights implicit=POLICY_FOLDER")
        lora = models.adapters_folder("--weights implicit=", name) if models.holds_adapters(name) else None
        facts = (lora or models.local_folder(name, flag="--weights implicit=")) / FACTS
        result = files.read_json(str(facts)) if facts.is_file() else {}
        config = result.get("config", {})
        if lora and not config:
            raise UserError(
                f"--weights implicit={weights}: {name} has no {FACTS} that names the base of its adapters; "
                "give the folder that training wrote"
            )
        policy = started_from(config).folder() if lora else models.local_folder(name)
        if lora:
            check_adapters("--weights", lora, policy)
        reference = (models.Model(against) if against else trained_against(config)).folder()
        for folder in (policy, reference):
            if not any((folder / kinds.kind_of(folder).network).glob("*.safetensors")):
                raise UserError(f"--weights implicit={weights}: {folder} has no network in safetensors; convert it")
        for folder in dict.fromkeys((policy, reference)):
            weight_files.check_folder(folder, (kinds.kind_of(folder).network,), "--weights implicit=")
        drawn = config.get("schedule", {})
        chosen = drawn.get("timesteps")
        schedule = ScheduleConfig(tuple(chosen) if chosen else None, drawn.get("zero_terminal_snr", False))
        folders = cls(
            policy=policy,
            reference=reference,
            beta=trained_beta(config.get("objective", {})),
            schedule=schedule,
            max_tokens=result.get("max_tokens"),
            resolution=result.get("resolution") or kinds.native_resolution(reference),
            buckets=tuple((int(height), int(width)) for height, width in result.get("buckets", ())),
            lora=lora,
            base_precision=trained_beside(config) if lora else "float32",
        )
        base_precision.check_package(folders.base_precision, f"--weights implicit={weights}")
        weight_files.check_weights(reference, folders.frozen, "--weights implicit=")
        own = identity.fingerprints(policy, [part for part in folders.frozen if (policy / part).is_dir()])
        check_fingerprints(own, reference, str(policy))
        return folders

    @property
    def frozen(self) -> tuple[str, ...]:
        """Name the frozen parts, which make the latents and embeddings that the networks read."""
        kind = kinds.kind_of(self.reference)
        return kind.frozen(with_sized=bool(kinds.text_tokens(self.reference, self.max_tokens)))


def started_from(config: Mapping[str, Any]) -> models.Model:
    """Return the model that a result's settings say it was trained from."""
    return models.Model(config.get("model", WORLD_MODEL), config.get("revision"))


def trained_against(config: Mapping[str, Any]) -> models.Model:
    """Return the reference that a result's settings name, else the model that the policy started from."""
    own = config.get("reference_model")
    if own:
        return models.Model(own, config.get("reference_revision"))
    return started_from(config)


def trained_beside(config: Mapping[str, Any]) -> str:
    """Return the precision that a result's settings say its adapters' base was packed in; float32 where it was not.

    bfloat16 is no other model: autocast computed with the same numbers.
    """
    named = config.get("policy", {}).get("base_precision", "float32")
    return named if named in base_precision.PACKED else "float32"


def trained_beta(objective: Mapping[str, Any]) -> float:
    """Return the beta of a result's settings, or BETA where that one does not apply to a score.

    mapo and sft have no beta, and with auto each step has its own. A score is made of native, unweighted errors, so a
    beta for weighted errors or for errors of the noise does not carry over. A score's sign, and so the winner, does not
    depend on beta.
    """
    settings = ObjectiveConfig(
        objective=objective.get("objective", "dpo"),
        beta=objective.get("beta", BETA),
        weighting=objective.get("weighting", "constant"),
        error=objective.get("error", "native"),
    )
    fits = settings.needs_reference and settings.weighting == "constant" and settings.error == "native"
    return settings.known_beta if fits and settings.beta != "auto" else BETA
