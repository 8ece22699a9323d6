"""A model is loaded once however many scorers use it, a caption embedded once, and no token that nobody reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.scorer_material import CAPTIONS, images, write_all

from infra.base import (
    torchvision_guard,  # noqa: F401  (before open_clip)
)

from open_clip.transformer import ResidualAttentionBlock, VisionTransformer  # isort: skip
from transformers import CLIPVisionConfig  # isort: skip
from transformers.models.clip.modeling_clip import CLIPEncoderLayer  # isort: skip

from labelers.clips import open_clip_files, towers, transformers_clip
from labelers.clips.open_clip_files import OpenClipFiles, reads_class_token
from labelers.clips.towers import CaptionCache
from labelers.clips.transformers_clip import TransformersFiles
from labelers.scoring import scorers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("scorers"))


def numbered(calls: list[list[str]], captions: list[str]) -> torch.Tensor:
    calls.append(captions)
    return torch.tensor([[float(len(caption)), 1.0] for caption in captions])


def test_a_caption_is_embedded_once_and_the_oldest_is_forgotten() -> None:
    calls: list[list[str]] = []
    cache = CaptionCache(lambda captions: numbered(calls, captions), bound=2)
    assert cache(["a", "bb", "a"]).tolist() == [[1, 1], [2, 1], [1, 1]]
    assert cache(["bb", "a"]).tolist() == [[2, 1], [1, 1]]
    assert calls == [["a", "bb"]]
    cache(["ccc"])  # bb is the least recently used
    cache(["a", "ccc", "bb"])
    assert calls == [["a", "bb"], ["ccc"], ["bb"]]
    assert len(cache.kept) == 2


def test_a_batch_may_hold_more_captions_than_the_cache() -> None:
    cache = CaptionCache(lambda captions: numbered([], captions), bound=2)
    assert cache(["a", "bb", "ccc", "a"])[:, 0].tolist() == [1, 2, 3, 1]
    assert list(cache.kept) == ["ccc", "a"]


def test_scorers_over_one_checkpoint_share_its_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Path] = []

    def count(kind: type[OpenClipFiles] | type[TransformersFiles]) -> None:
        load = kind.load

        def counted(files: Any) -> towers.Tower:
            loads.append(files.paths()[0])
            return load(files)

        monkeypatch.setattr(kind, "load", counted)

    count(OpenClipFiles)
    count(TransformersFiles)
    checkpoint = folder / "hpsv2" / "HPS_v2_compressed.pt"
    made = [scorers.load(name, str(checkpoint)) for name in ("hpsv2", "hpsv2.1", "clip")]
    made += [
        scorers.load("pickscore", str(folder / "aesthetics")),
        scorers.load("aesthetics", str(folder / "aesthetics")),
    ]
    scored = [scorer.score(images(), CAPTIONS) for scorer in made]
    assert loads == [checkpoint, folder / "aesthetics" / "config.json"]
    assert (scored[0] == scored[1]).all()
    assert (scored[0] != scored[2]).any()  # the same weights behind another preprocessing


def test_an_overwritten_checkpoint_is_another_model(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "clip"
    copied.mkdir()
    for path in (folder / "clip").iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    before = scorers.load("clip", str(copied))
    first = before.score(images(), CAPTIONS)
    state = torch.load(folder / "hpsv2" / "HPS_v2_compressed.pt", weights_only=True)["state_dict"]
    save_file(state, copied / "open_clip_model.safetensors")
    assert (scorers.load("clip", str(copied)).score(images(), CAPTIONS) != first).any()


def test_many_images_are_embedded_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorers.load("clip", str(folder / "clip"))
    whole = scorer.score(images(), CAPTIONS)
    monkeypatch.setattr(towers, "IMAGES_AT_ONCE", 3)
    assert scorer.score(images(), CAPTIONS) == pytest.approx(whole, abs=1e-6)


def test_the_last_layer_gives_the_class_token_that_the_librarys_gives() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 12)
    config = CLIPVisionConfig(hidden_size=12, num_attention_heads=3, intermediate_size=16, attn_implementation="sdpa")
    by_transformers = CLIPEncoderLayer(config)
    by_open_clip = ResidualAttentionBlock(12, 3, ls_init_value=0.5)
    for layer in (by_transformers, by_open_clip):
        for parameter in layer.parameters():  # biases and norms too, which begin as zeros and ones
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        for layer, alone in (
            (by_transformers, transformers_clip.class_token(by_transformers)),
            (by_open_clip, open_clip_files.class_token(by_open_clip)),
        ):
            whole = layer(tokens, attention_mask=None) if layer is by_transformers else layer(tokens)
            torch.testing.assert_close(alone(tokens), whole[:, :1], atol=1e-5, rtol=1e-5)


def test_towers_that_read_other_tokens_keep_their_last_layer() -> None:
    shape = {"image_size": 4, "patch_size": 2, "width": 8, "layers": 1, "heads": 2, "mlp_ratio": 2.0}
    assert reads_class_token(VisionTransformer(**shape))
    assert not reads_class_token(VisionTransformer(**shape, pool_type="avg"))
    assert not reads_class_token(VisionTransformer(**shape, attentional_pool=True))
    assert not reads_class_token(VisionTransformer(**shape, block_type="custom"))


def test_pixels_are_normalised_by_channel() -> None:
    image = Image.new("RGB", (2, 1), (0, 51, 255))
    pixels = towers.normalised([image], mean=[0.5, 0.2, 0.0], std=[0.5, 1.0, 2.0])
    assert pixels.shape == (1, 3, 1, 2)
    torch.testing.assert_close(pixels[0, :, 0], torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="several sizes"):
        towers.stacked([image, Image.new("RGB", (1, 2))])
