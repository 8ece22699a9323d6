"""Check that the machines' scratch holds the index of the store on S3, which a stage copies to each node.

Nothing on a node would refuse a copy that is too large: the disk there may be larger than a pod's scratch. The kubelet
then evicts the pod in the middle of the copy, at every attempt.
"""

from __future__ import annotations

from infra.base import dry_run
from infra.base.errors import UserError
from infra.deploy.values import Stage, Values
from infra.planning import plan_flags
from infra.planning.plan_counts import Counted
from pipelines.latents.addresses import index_bytes

INDEXED = ("reference", "train")  # the stages that read rows at random


def check(values: Values, path: str) -> str:
    """Refuse a scratch that is too small for the store's index, and return one line on the space that it takes.

    Args:
        path: of the values, for a refusal's sentence.

    Raises:
        UserError: naming the first stage whose machine is too small.
    """
    data = values.data
    try:
        counted = Counted(plan_flags.PRESETS[values.preset].model, values.preset, data.pairs, data.captions)
    except UserError as error:  # settings of a model that are not here and cannot be fetched; rendering needs none
        return f"scratch: it is not checked, because the store's size is unknown ({error})"
    needed = index_bytes(counted.manifest)
    size = f"the index of a store of {data.pairs:,} pairs takes {dry_run.gigabytes(needed)}"
    for name in INDEXED:
        stage: Stage = getattr(values.stages, name)
        machine = values.machine(stage)
        if machine.scratch_bytes < needed:
            raise UserError(
                f"--values {path}: machines.{stage.machine}.scratch: {machine.scratch} is "
                f"{dry_run.gigabytes(machine.scratch_bytes)}, but {size} on each node of stage {name}; give more"
            )
    return f"scratch: {size} on each node, in the stages {' and '.join(INDEXED)}"
