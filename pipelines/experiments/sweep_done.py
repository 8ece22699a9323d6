"""What a finished sweep says of its trials, and whether these are still the trials that it speaks of."""

from __future__ import annotations

from typing import Any

from infra.base import files, records
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from training.checkpoints.run_folder import RESULT

DONE = "sweep.json"
AGAIN = "give the sweep's command again, which writes it anew"
TRAINED = "facts_sha256"  # of a trial: the hash of its result's facts


def read_done(path: str, again: str = AGAIN) -> dict[str, Any]:
    """Read what a finished sweep says of its trials, and compare it with their results.

    Args:
        path: of the file.
        again: what to do where it does not do, the end of the message's sentence.

    Raises:
        UserError: if it is torn, or another file's content, or a trial was trained again since: it is an older copy
            then, or another sweep's.
    """
    done = records.read_record(path, ("trials", "judges"), again)
    for trial in done["trials"]:
        # Where it lies in the sweep's folder, wherever that was moved to.
        facts = files.join(path.rpartition("/")[0], trial["name"], f"seed-{trial['seed']}", "train", RESULT, FACTS)
        if TRAINED in trial and files.is_file(facts) and files.sha256(facts) != trial[TRAINED]:
            raise UserError(
                f"{path}: of another result of the trial {trial['name']}, seed {trial['seed']}, than {facts}, as in an "
                f"older copy; {again}"
            )
    return done
