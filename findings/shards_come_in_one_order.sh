#!/usr/bin/env bash
# What happens: webdataset.WebDataset(urls, shardshuffle=100) opens its shards in the same order in every epoch of a run,
#   also without a seed: it draws one seed when it is built. With `.with_epoch(n)` below the number of samples, every epoch
#   reads the same first shards, and the others never: of 100 samples in epochs of 20, thirty epochs show 20.
# Versions: webdataset 1.0.2, torch 2.13.0, numpy 2.4.6.
# Where: `WebDataset.__init__` in webdataset/compat.py gives `filters.shuffle` a seed, and `_shuffle` begins anew with it at
#   each iteration. `.shuffle(1000, seed=0)` of samples does the same.
# Who meets it: training over tars in several epochs. The buffer of samples mixes only neighbours of that one order.
# Guess that was wrong: another order in each epoch, and with_epoch goes on where the last epoch ended.
# Instead: detshuffle=True, which counts epochs, or resampled=True.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 webdataset==1.0.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import importlib.metadata

import webdataset

with webdataset.ShardWriter("pairs-%02d.tar", maxcount=5, verbose=0) as writer:
    for number in range(100):
        writer.write({"__key__": f"{number:03d}", "cls": number})


def stream(**options):
    return webdataset.WebDataset("pairs-{00..19}.tar", shardshuffle=100, empty_check=False, **options).decode()


def shards(dataset):
    """Return the shards in the order in which one epoch opens them."""
    return list(dict.fromkeys(sample["cls"] // 5 for sample in dataset))


plain, counted = stream(), stream(detshuffle=True)
orders = [shards(plain) for _ in range(3)]
others = [shards(counted) for _ in range(3)]
short = stream().with_epoch(20)
shown = {sample["cls"] for _ in range(30) for sample in short}
drawn = stream(detshuffle=True).with_epoch(20)
all_shown = {sample["cls"] for _ in range(30) for sample in drawn}
print(f"webdataset {importlib.metadata.version('webdataset')}; 20 shards of 5 samples, three epochs, no seed")
print("guess: three orders; and 100 samples in thirty epochs of 20")
print(f"seen:  {len({tuple(order) for order in orders})} order, beginning with shards {orders[0][:4]}; {len(shown)} samples")
print(f"       with detshuffle=True {len({tuple(order) for order in others})} orders; {len(all_shown)} samples")
if orders[0] != orders[1] or orders[1] != orders[2] or orders[0] == sorted(orders[0]) or len(shown) != 20:
    raise SystemExit("the behaviour has changed")
if others[0] == others[1] or len(all_shown) < 90:
    raise SystemExit("the behaviour has changed")
PYTHON
