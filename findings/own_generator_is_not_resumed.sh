#!/usr/bin/env bash
# What happens: torchdata's StatefulDataLoader with shuffle=True and a generator, without workers. Resumed in an epoch, it
#   gives the rest of this epoch rightly; every later epoch is in another order than in the run that was not interrupted.
#   With workers the later epochs are right, and the first epoch has another order than without workers.
# Versions: torchdata 0.11.0, torch 2.13.0.
# Where: torchdata/stateful_dataloader/stateful_dataloader.py and sampler.py; the cause was not traced.
# Who meets it: a run of several epochs that is compared with its own repetition, or with another loss on the same order of
#   pairs, after one of the two was resumed.
# Guess that was wrong: a resumed loader goes on as if it had not stopped, in later epochs, too.
# Instead: an order that is a function of seed and epoch, as a sampler of your own gives it, with set_epoch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torchdata==0.11.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > loader.py <<'PYTHON'
import torch
import torchdata
from torchdata.stateful_dataloader import StatefulDataLoader


def loader(workers):
    generator = torch.Generator().manual_seed(5)
    return StatefulDataLoader(list(range(8)), batch_size=2, shuffle=True, generator=generator, num_workers=workers)


def epoch(data):
    return [batch.tolist() for batch in data]


def resumed_is_equal(workers):
    whole = loader(workers)
    epochs = [epoch(whole) for _ in range(3)]
    stopped = loader(workers)
    batches = iter(stopped)
    next(batches)
    state = stopped.state_dict()
    again = loader(workers)
    again.load_state_dict(state)
    return epoch(again) == epochs[0][1:], epoch(again) == epochs[1], epoch(again) == epochs[2]


if __name__ == "__main__":
    seen = {workers: resumed_is_equal(workers) for workers in (0, 2)}
    print(f"torchdata {torchdata.__version__}, torch {torch.__version__}; stopped after the first batch and resumed")
    print("is the rest of the epoch, the second and the third as in the run that was not interrupted?")
    print("guess: yes, yes, yes for any number of workers")
    print(f"seen:  {seen}")
    if seen != {0: (True, False, False), 2: (True, True, True)}:
        raise SystemExit("the behaviour has changed")
PYTHON
"$folder/venv/bin/python" loader.py 2> log || { cat log; exit 1; }
