"""Whether the machines' scratch holds the copy of the store that a stage makes on each node.

On a node nothing would refuse it: the disk there may be larger than a pod's scratch, and the kubelet evicts the pod in
the middle of the copy, at every attempt.
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
    """Refuse a scratch that is too small for the store, and return what was found in one line.

    Args:
        path: of the values, for a refusal's sentence.

    Raises:
        UserError: naming the first stage whose machine is too small.
    """
    data = values.data
    try:
        counted = Counted(plan_flags.PRESETS[values.preset].model, values.preset, data.pairs, data.captions)
    except UserError as error:  # settings of a model that are not here and cannot be fetched; rendering needs none
        return f"scratch: not checked, for the size of the store is not known ({error})"
    needed = staged_bytes(counted.manifest)
    told = f"preset {values.preset}'s store of {data.pairs:,} pairs takes {dry_run.gigabytes(needed)}"
    for name in STAGED:
        stage: Stage = getattr(values.stages, name)
        machine = values.machine(stage)
        if machine.scratch_bytes < needed:
            raise UserError(
                f"--values {path}: machines.{stage.machine}.scratch: {machine.scratch} are "
                f"{dry_run.gigabytes(machine.scratch_bytes)}, but {told} on each node of stage {name}"
            )
    return f"scratch: {told} of each node's, in the stages {' and '.join(STAGED)}"
