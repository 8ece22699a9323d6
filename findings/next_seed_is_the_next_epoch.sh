#!/usr/bin/env bash
# What happens: the order of epoch 1 with seed 0 is the order of epoch 0 with seed 1. So runs with seeds 0, 1 and 2 see the
#   same orders, each one epoch ahead of the other: of three epochs each, the nine orders are five.
# Versions: torch 2.13.0, accelerate 1.15.0, webdataset 1.0.2, grain 0.2.18, numpy 2.4.6.
# Where: DistributedSampler in torch/utils/data/distributed.py, SeedableRandomSampler in accelerate/data_loader.py and
#   detshuffle in webdataset/filters.py seed a generator with seed + epoch; grain's MapDataset behaves alike. So does
#   mosaicml-streaming 0.13.0, tried by hand.
# Who meets it: three runs with neighbouring seeds, whose spread is taken for that of chance.
# Guess that was wrong: another seed has nothing in common with the first.
# Instead: seeds far apart, such as 0, 1000 and 2000, or hashes of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 accelerate==1.15.0 \
  webdataset==1.0.2 grain==0.2.18 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import importlib.metadata

import grain.python
import torch
import webdataset
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import DistributedSampler

PAIRS = 50
EPOCHS = 3
with webdataset.ShardWriter("pairs-%02d.tar", maxcount=1, verbose=0) as writer:
    for number in range(PAIRS):
        writer.write({"__key__": f"{number:03d}", "cls": number})


def with_torch(seed):
    sampler = DistributedSampler(range(PAIRS), num_replicas=1, rank=0, seed=seed)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        yield tuple(sampler)


def with_accelerate(seed):
    sampler = SeedableRandomSampler(range(PAIRS), generator=torch.Generator(), data_seed=seed)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        yield tuple(sampler)


def with_webdataset(seed):
    urls = f"pairs-{{00..{PAIRS - 1}}}.tar"
    stream = webdataset.WebDataset(urls, shardshuffle=PAIRS, detshuffle=True, seed=seed, empty_check=False).decode()
    for _ in range(EPOCHS):
        yield tuple(sample["cls"] for sample in stream)


def with_grain(seed):
    order = list(grain.python.MapDataset.range(PAIRS).shuffle(seed=seed).repeat(EPOCHS))
    for epoch in range(EPOCHS):
        yield tuple(order[epoch * PAIRS : (epoch + 1) * PAIRS])


found = {}
for name, orders in (("torch", with_torch), ("accelerate", with_accelerate), ("webdataset", with_webdataset),
                     ("grain", with_grain)):
    by_seed = [list(orders(seed)) for seed in range(3)]
    shifted = by_seed[0][1:] == by_seed[1][:-1] and by_seed[1][1:] == by_seed[2][:-1]
    found[f"{name} {importlib.metadata.version(name)}"] = (len({order for seen in by_seed for order in seen}), shifted)
print(f"three seeds, {EPOCHS} epochs each: how many orders, and whether each seed is the one before an epoch later")
print("guess: 9 orders")
for name, (orders, shifted) in found.items():
    print(f"seen:  {orders} orders, {shifted} ({name})")
if any(values != (5, True) for values in found.values()):
    raise SystemExit("the behaviour has changed")
PYTHON
