"""Pairs of a store of groups, on five images: each is read once, and has one draw in all its pairs."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.latents.schemas import Values
from training.data import applied_labels, image_batches, loader
from training.data.grouped import Groups, ShownImages
from training.data.stored import Arrays, Mirrored, Read, StoredPairs
from training.method.draws import draw, image_posterior

SHAPE = (1, 1, 2)
IMAGE_IDS = np.array([10, 11, 12, 13, 14])
SHOWN = np.array([[2, 0], [1, 2], [4, 3]], np.uint32)  # by pair and slot
GROUPS = np.array([70, 70, 80])


def thousand(uniform: float) -> int:
    return int(uniform * 1000)


class Noted(Arrays):
    """Arrays that note which of their rows are read."""

    asked: list[list[int]]

    def begin(self, rows: np.ndarray, mirrored: Mirrored | None = None) -> Read:
        type(self).asked.append(rows.tolist())
        return super().begin(rows, mirrored)


def columns(flip: bool, moments: bool) -> Mapping[str, Values]:
    """Make the latents of five images: image i has the values 10 i and 10 i + 1, a mirrored one 1 before 0."""
    plain = np.array([[[[10 * i, 10 * i + 1]]] for i in range(5)], np.float32)
    if moments:  # the deviation is a tenth of the mean
        return {"latents": np.concatenate([plain, plain / 10], axis=1)}
    return {"latents": plain} | ({"latents_flipped": plain[..., ::-1]} if flip else {})


def stored(flip: bool = False, moments: bool = False) -> StoredPairs:
    Noted.asked = []
    groups = Groups(images=Noted(columns(flip, moments)), image_ids=IMAGE_IDS, shown=SHOWN, pair_groups=GROUPS)
    manifest = SimpleNamespace(
        posterior="moments" if moments else "sample", flip=flip, latent_shape=SHAPE, shape_of=lambda _: SHAPE
    )
    return StoredPairs(
        manifest=manifest,  # type: ignore[arg-type]
        pair_ids=np.array([1, 2, 3]),
        prompt_rows=np.array([1, 1, 2], np.uint32),
        latents=ShownImages(groups),
        prompts=Arrays({"text": np.array([[0.0], [1.0], [2.0]], np.float32)}),
        empty_prompt=0,
        groups=groups,
    )


def test_a_pair_has_its_two_images_by_slot_and_each_image_is_read_once() -> None:
    read = stored().latents.begin(np.array([1, 0, 1]))()
    assert list(read) == ["latents_0", "latents_1"]
    assert read["latents_0"][:, 0, 0, 0].tolist() == [10, 20, 10]  # images 1, 2, 1
    assert read["latents_1"][:, 0, 0, 0].tolist() == [20, 0, 20]  # images 2, 0, 2
    assert Noted.asked == [[0, 1, 2]]


def test_the_images_of_a_mirrored_pair_are_mirrored() -> None:
    read = stored(flip=True).latents.begin(np.array([2, 0, 1]), np.array([False, True, True]))()
    assert read["latents_0"][:, 0, 0].tolist() == [[40, 41], [21, 20], [11, 10]]
    assert read["latents_1"][:, 0, 0].tolist() == [[30, 31], [1, 0], [21, 20]]


def test_images_in_pairs_are_listed_once_with_a_pair_that_shows_them() -> None:
    rows, shown_by = Groups(
        images=Arrays({}), image_ids=IMAGE_IDS, shown=SHOWN[:2], pair_groups=GROUPS[:2]
    ).images_of_pairs()
    assert rows.tolist() == [0, 1, 2]  # images 3 and 4 stand in no pair here
    assert shown_by.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("flip", "moments"), [(False, False), (True, False), (False, True)])
def test_what_the_reference_is_asked_of_an_image_is_what_training_sees_in_each_pair(flip: bool, moments: bool) -> None:
    seed, epoch = 5, 0
    data = stored(flip, moments)
    pairs = loader.assemble(applied_labels.as_stored(data), np.arange(3), seed, epoch, thousand, dropout=0.5)
    assert data.groups is not None
    rows, shown_by = data.groups.images_of_pairs()
    images = image_batches.begin_images(data, rows, shown_by, seed, epoch, thousand, 0.5)()
    for pair, of_pair in enumerate(SHOWN):
        drawn = draw(seed, epoch, int(GROUPS[pair]), SHAPE, thousand, 0.5)  # of the group, not of the pair
        for slot, image in enumerate(of_pair):
            assert pairs.latents[slot, pair].equal(images.latents[image])
            assert pairs.timesteps[pair] == images.timesteps[image] == drawn.timestep
            assert pairs.noise[pair].equal(images.noise[image])
            assert np.array_equal(pairs.noise[pair].numpy(), drawn.noise)
            assert pairs.conditioning["text"][pair].equal(images.conditioning["text"][image])
            assert pairs.conditioning["text"][pair].item() == (0 if drawn.drop_caption else data.prompt_rows[pair])
            values: np.ndarray = np.array([10 * image, 10 * image + 1], np.float32).reshape(SHAPE)
            if moments:
                values = values + values / 10 * image_posterior(seed, epoch, int(IMAGE_IDS[image]), SHAPE)
            if flip and drawn.flip:
                values = values[..., ::-1]
            assert np.array_equal(images.latents[image].numpy(), values)


def test_these_draws_drop_captions_and_turn_images_in_one_group_alone() -> None:
    # So the test above can tell: one group's caption is dropped, and one group's images are mirrored.
    drawn = [draw(5, 0, key, SHAPE, thousand, 0.5) for key in (70, 80)]
    assert {one.drop_caption for one in drawn} == {one.flip for one in drawn} == {False, True}
