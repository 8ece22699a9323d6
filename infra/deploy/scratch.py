"""Check that the machines' scratch holds the copy of the store that a stage makes on each node.

Nothing on a node would refuse a copy that is too large: the disk there may be larger than a pod's scratch. The kubelet
then evicts the pod in the middle of the copy, at every attempt.
"""

from __future__ import annotations

from infra.base import dry_run
from infra.base.errors import UserError
from infra.deploy.values import Stage, Values
from infra.planning import plan_flags
from infra.planning.plan_counts import Counted
from training.data.staging import staged_bytes

STAGED = ("reference", "train")  # the stages that copy the store to each node


def check(values: Values, path: str) -> str:
    """Refuse a scratch that is too small for the store, and return one line on the space that the store takes.

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
    needed = staged_bytes(counted.manifest)
    size = f"preset {values.preset}'s store of {data.pairs:,} pairs takes {dry_run.gigabytes(needed)}"
    for name in STAGED:
        stage: Stage = getattr(values.stages, name)
        machine = values.machine(stage)
        if machine.scratch_bytes < needed:
            raise UserError(
                f"--values {path}: machines.{stage.machine}.scratch: {machine.scratch} is "
                f"{dry_run.gigabytes(machine.scratch_bytes)}, but {size} on each node of stage {name}; give more"
            )
    return f"scratch: {size} on each node, in the stages {' and '.join(STAGED)}"
