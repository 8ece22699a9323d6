"""Each scorer gives what its model's own published code gives on the same weights and images."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from support.scorer_material import CAPTIONS, images, write_all

from infra.base import (
    torchvision_guard,  # noqa: F401  (before open_clip)
)

import open_clip  # isort: skip
from transformers import (  # isort: skip
    AutoModel,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

from infra.base.errors import UserError
from infra.world import judge_scorers, scorer_images
from infra.world.shapes import split_captions
from labelers.clips import aesthetics, human_preference, weights
from labelers.clips.alignment import cosines
from labelers.clips.transformers_clip import TransformersFiles, is_usual
from labelers.scoring import scorers

WITH_WEIGHTS = ("aesthetics", "clip", "hpsv2", "hpsv2.1", "pickscore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("scorers"))


def close(scores: npt.NDArray[np.float32], expected: Sequence[float], tolerance: float = 1e-5) -> None:
    assert scores.dtype == np.float32
    assert np.std(scores) > 10 * tolerance  # equal, but not because all are the same
    assert np.abs(scores - np.array(expected)).max() <= tolerance


def test_cosines_on_hand_worked_vectors() -> None:
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    caption = torch.tensor([[0.0, 1.0], [0.8, 0.6]])
    np.testing.assert_allclose(cosines(image, caption, scale=100.0), [0.0, 96.0], atol=1e-4)
    with pytest.raises(ValueError, match=r"images \(2, 2\), of captions \(1, 2\)"):
        cosines(image, caption[:1])


@torch.no_grad()
def test_pickscore_is_the_model_cards_formula(folder: Path) -> None:
    where = folder / "pickscore"
    processor = AutoProcessor.from_pretrained(where, backend="pil")
    model = AutoModel.from_pretrained(where)
    assert type(model) is CLIPModel
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"
    model = model.float().eval()
    expected = []
    for image, caption in zip(images(), CAPTIONS, strict=True):
        prepared = processor(images=[image], return_tensors="pt")
        text = processor(text=caption, padding=True, truncation=True, max_length=77, return_tensors="pt")
        image_embedding = model.get_image_features(**prepared).pooler_output
        text_embedding = model.get_text_features(**text).pooler_output
        image_embedding = image_embedding / torch.norm(image_embedding, dim=-1, keepdim=True)
        text_embedding = text_embedding / torch.norm(text_embedding, dim=-1, keepdim=True)
        expected.append((model.logit_scale.exp() * (text_embedding @ image_embedding.T)[0]).item())
    scorer = scorers.load("pickscore", str(where))
    close(scorer.score(images(), CAPTIONS), expected)
    assert scorer.temperature == 1.0


@torch.no_grad()
def test_clip_is_open_clip_driven_by_hand(folder: Path) -> None:
    name = f"local-dir:{folder / 'clip'}"
    model, _, prepare = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    image = model.encode_image(torch.stack([prepare(one) for one in images()]), normalize=True)
    text = model.encode_text(tokenizer(CAPTIONS), normalize=True)
    scorer = scorers.load("clip", str(folder / "clip"))
    close(scorer.score(images(), CAPTIONS), torch.diagonal(image @ text.T).tolist())
    assert scorer.temperature == pytest.approx(1 / model.logit_scale.exp().item())


@torch.no_grad()
@pytest.mark.parametrize(("name", "file"), [("hpsv2", "HPS_v2_compressed.pt"), ("hpsv2.1", "HPS_v2.1_compressed.pt")])
def test_hps_is_open_clip_driven_by_hand(folder: Path, name: str, file: str) -> None:
    described = open_clip.get_model_config(f"local-dir:{folder / name}")
    model = open_clip.CLIP(**described).eval()
    model.load_state_dict(torch.load(folder / name / file, weights_only=True)["state_dict"])
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / name}")
    outputs = []
    for image, caption in zip(images(), CAPTIONS, strict=True):
        pixels = human_preference.preprocess(image, 48)
        features, text, _ = model(pixels[None], tokenizer([caption]))
        outputs.append(torch.diagonal(features @ text.T).item())
    scorer = scorers.load(name, str(folder / name))
    close(scorer.score(images(), CAPTIONS), outputs)
    assert scorer.temperature == pytest.approx(1 / model.logit_scale.exp().item())


def test_hps_preprocessing_step_by_step() -> None:
    """A wide image: its longest side becomes the size, bicubic without antialiasing, and black fills the rest."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 96, 3), dtype=np.uint8))
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    small = torch.nn.functional.interpolate(tensor, (15, 48), mode="bicubic", antialias=False, align_corners=False)
    square = torch.zeros(3, 48, 48)
    square[:, 16:31] = small[0]  # (48 - 15) // 2 = 16 rows above, 17 below
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    torch.testing.assert_close(human_preference.preprocess(image, 48), (square - mean) / std)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_images_prepared_together_come_out_as_alone(folder: Path, name: str) -> None:
    scorer: Any = scorers.load(name, str(folder / name))
    prepare = scorer.files.preprocess if name == "aesthetics" else scorer.preprocess
    wide = [image.resize((61, 83)) for image in images()]
    for together in (wide, images()):  # of one size, and of several
        assert torch.equal(prepare(together), torch.cat([prepare([image]) for image in together]))


@pytest.mark.parametrize("changed", [{}, {"resample": 2}, {"size": {"shortest_edge": 50}}, {"do_center_crop": False}])
def test_images_are_prepared_as_the_processor_does_to_the_bit(
    folder: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    where = folder / "pickscore"
    settings = json.loads((where / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | changed))
    prepare = TransformersFiles(where, tmp_path).preprocess
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    assert is_usual(processor) == ("do_center_crop" not in changed)
    rng = np.random.default_rng(0)
    for width, height in [(64, 64), (100, 60), (37, 90), (48, 48), (49, 50), (48, 51), (333, 48), (1, 1), (3, 100)]:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert torch.equal(prepare([image]), processor(images=[image], return_tensors="pt").pixel_values)


def test_a_processor_as_transformers_5_saves_it_is_taken_and_fingerprinted(folder: Path, tmp_path: Path) -> None:
    """It writes one processor_config.json in place of preprocessor_config.json, with the same settings inside."""
    where = folder / "pickscore"
    saved = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(where), CLIPTokenizer.from_pretrained(where))
    saved.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    newer = TransformersFiles(where, tmp_path)
    newer.check()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8))
    assert torch.equal(newer.preprocess([image]), TransformersFiles(where, where).preprocess([image]))
    assert tmp_path / "processor_config.json" in newer.paths()
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": settings["processor_class"]}))
    with pytest.raises(UserError, match=r"processor_config\.json: says nothing of an image_processor"):
        newer.check()


def test_hps_with_antialiasing_is_a_scorer_of_its_own(folder: Path) -> None:
    """Noise of variance 1/12 at an eighth of its size.

    Without antialiasing each pixel is four by four of the noise, half-way between samples. torch's bicubic weights are
    then -3/32, 19/32, 19/32, -3/32, whose squares sum to 740/1024 along each side. With it, sixteen or more count.
    """
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    spread = [(human_preference.preprocess(image, 48, antialias=own) * std).std().item() for own in (False, True)]
    assert spread[0] == pytest.approx(12**-0.5 * 740 / 1024, rel=0.03)
    assert spread[1] < spread[0] / 4
    plain: Any = scorers.load("hpsv2.1", str(folder / "hpsv2.1"))
    other: Any = scorers.load("hpsv2.1-antialiased", str(folder / "hpsv2.1"))
    assert torch.equal(other.preprocess([image])[0], human_preference.preprocess(image, 48, antialias=True))
    assert torch.equal(plain.preprocess([image])[0], human_preference.preprocess(image, 48))
    assert plain.fingerprint != other.fingerprint
    assert scorers.title("hpsv2.1-antialiased", None) == "hpsv2.1-antialiased (embedded world)"


def test_hps_pads_what_needs_no_resizing() -> None:
    """The authors' code leaves 48x20 as it is, and their model then fails on it."""
    assert human_preference.preprocess(Image.new("RGB", (48, 20)), 48).shape == (3, 48, 48)
    assert human_preference.preprocess(Image.new("RGB", (1000, 1)), 48).shape == (3, 48, 48)


@torch.no_grad()
def test_aesthetics_is_a_head_over_the_unit_embedding(folder: Path) -> None:
    where = folder / "aesthetics"
    processor = AutoProcessor.from_pretrained(where, backend="pil")
    model = AutoModel.from_pretrained(where).float()
    embedding = model.get_image_features(**processor(images=images(), return_tensors="pt")).pooler_output
    embedding = embedding / embedding.norm(dim=-1, keepdim=True)
    head = torch.load(where / "head.pth", weights_only=True)
    scores = embedding
    for layer in (0, 2, 4, 6, 7):
        scores = scores @ head[f"layers.{layer}.weight"].float().T + head[f"layers.{layer}.bias"].float()
    scorer = scorers.load("aesthetics", str(where))
    # Fresh layers shrink what passes through them, so that scores of different images lie close together.
    close(scorer.score(images(), CAPTIONS), scores[:, 0].tolist(), tolerance=1e-6)
    np.testing.assert_array_equal(scorer.score(images(), CAPTIONS), scorer.score(images(), CAPTIONS[::-1]))
    assert scorer.temperature is None


def saved_on_a_gpu(state: dict[str, torch.Tensor], path: Path) -> None:
    """Save tensors as torch.save does on a machine where they lie on a GPU: the same archive, but for that word."""
    plain = path.with_suffix(".cpu")
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(path, "w") as written:
        for name in read.namelist():
            content = read.read(name)
            if name.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content  # a pickled string: its length, then its letters
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            written.writestr(name, content)


@torch.no_grad()
def test_an_aesthetic_head_of_the_published_shape_that_was_saved_on_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    torch.manual_seed(0)
    saved_on_a_gpu(aesthetics.Head(768).state_dict(), path)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)  # as it lies there
    weights.require_shapes(weights.shapes(path), aesthetics.Head(768).state_dict(), path, "an aesthetic head")
    head = aesthetics.Head(768)
    head.load_state_dict(weights.read_state(path))
    embeddings = torch.nn.functional.normalize(torch.randn(16, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    state = torch.load(path, map_location="cpu", weights_only=True)
    plain = torch.nn.Sequential(
        *[torch.nn.Linear(a, b) for a, b in [(768, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)]]
    )
    for layer, number in zip(plain, (0, 2, 4, 6, 7), strict=True):
        layer.load_state_dict({kind: state[f"layers.{number}.{kind}"] for kind in ("weight", "bias")})
    close(head(embeddings).numpy(), plain.double()(embeddings.double())[:, 0].tolist())


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_the_embedded_worlds_weights_are_sound(name: str) -> None:
    scorers.check(name)
    scorer = scorers.load(name)
    assert np.isfinite(scorer.score(images(), CAPTIONS)).all()


@pytest.mark.slow
def test_the_embedded_worlds_scorers_mean_something() -> None:
    judged = scorer_images.true_and_wrong(split_captions()["test"][:80], np.random.default_rng(0))
    for name in ("clip", "hpsv2", "hpsv2.1", "pickscore"):
        scores = judge_scorers.score_pairs(name, judged)
        assert (scores[:, 0] > scores[:, 1]).mean() > 0.8
    vivid = np.corrcoef(
        judge_scorers.score_pairs("aesthetics", judged).ravel(), scorer_images.vividness(judged.pixels).ravel()
    )
    assert vivid[0, 1] > 0.9


@pytest.mark.parametrize("name", WITH_WEIGHTS)
@pytest.mark.slow
def test_a_toy_judge_goes_under_no_famous_name_and_judges_its_own_world_alone(name: str, folder: Path) -> None:
    assert scorers.title(name, None) == scorers.title(name, "world") == f"{name} (embedded world)"
    assert scorers.title(name, "published") == scorers.title(name, str(folder / name)) == name
    own = split_captions()["test"][:3]
    scorers.check(name, None, own)
    with pytest.raises(UserError, match=rf"scorer {name}: its default weights know only .*'a cat' is no caption of it"):
        scorers.check(name, "world", [*own, "a cat"])
    scorers.check(name, str(folder / name), ["a cat"])
    assert scorers.title("oracle", None) == "oracle"


def test_fingerprints_tell_all_scorers_and_weights_apart(folder: Path) -> None:
    own = [name for name in scorers.SCORERS if name != "implicit"]  # which has no weights but a policy's
    made = [scorers.load(name) for name in own] + [scorers.load(n, str(folder / n)) for n in WITH_WEIGHTS]
    prints = [scorer.fingerprint for scorer in made]
    assert len(set(prints)) == len(prints)
    assert all(len(bytes.fromhex(print_)) == 32 for print_ in prints)
    assert prints == [scorer.fingerprint for scorer in made]


def test_long_captions_are_counted_and_still_scored(folder: Path) -> None:
    fits = "a red star " * 25  # 75 tokens, and two for start and end
    long = "a red star " * 26  # 78 and two
    for name in ("clip", "hpsv2", "pickscore"):
        scorer = scorers.load(name, str(folder / name))
        assert scorer.truncated(CAPTIONS) == 0  # type: ignore[attr-defined]
        assert scorer.truncated([long, fits, long]) == 2  # type: ignore[attr-defined]
        ended = "a red star<|endoftext|> on teal"  # read to its first end token
        assert scorer.truncated([ended, "a red star"]) == 1  # type: ignore[attr-defined]
        cut_off = scorer.score(images()[:1], [ended])
        whole = scorer.score(images()[:1], ["a red star"])
        assert np.allclose(cut_off, whole, rtol=1e-5)
        cut = scorer.score(images()[:2], [long, long + "and more"])
        assert np.isfinite(cut).all()
