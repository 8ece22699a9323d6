"""The encoder's filter: how words match, what is quarantined and counted, and that another filter is another store."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from support.material import MODEL, Submit, rendered_pairs, write_pairs
from support.prometheus import scrape, values
from support.safety_material import BLUE, GREEN, RED, RED_CONCEPT, write_checker

from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError
from infra.base.models import Model
from pipelines.latents import encode_config, encode_latents, encode_plan, safety, store
from pipelines.latents.decoding import CheckAndDecode
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encoders import LatentEncoder
from pipelines.latents.safety import make_filter, read_blocklist
from pipelines.latents.safety_config import SafetyConfig
from pipelines.raw import raw_table, source
from pipelines.raw.raw_pairs import SCHEMA

LIST = "# a comment\n\nnude\nSelf-Harm\nstraße\nété\n"


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checker(tmp_path_factory.mktemp("checker"))


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "words.txt").write_text(LIST)
    return str(tmp_path / "words.txt")


@pytest.mark.parametrize(
    ("caption", "line"),
    [
        ("a nude, sitting", 3),
        ("NUDE", 3),
        ("ｎｕｄｅ portrait", 3),  # full width
        ("n\u200bu\u200dd\ufeffe", 3),  # zero-width space, joiner, no-break space
        ("nu\u00adde and nu\ufe0fde", 3),  # soft hyphen, variation selector
        ("n\x00ude", 3),
        ("𝓷𝓾𝓭𝓮", 3),  # mathematical letters
        ("1girl, nude_woman", 3),  # tags with underscores
        ("self harm", 4),
        ("SELF—HARM", 4),
        ("STRASSE", 5),  # folded, not lowered
        ("e\u0301te\u0301", 6),  # letters and accents apart
        ("denuded hills", None),  # whole words only
        ("nudes", None),
        ("his self does no harm", None),  # a phrase's words stand side by side
        ("self, then harm", None),
        ("ete", None),
        ("", None),
    ],
)
def test_words_match_whole_whatever_their_form(words: str, caption: str, line: int | None) -> None:
    assert read_blocklist(words).find(caption) == line


def test_a_reason_names_the_line_and_no_word(words: str) -> None:
    assert read_blocklist(words).reason("a nude") == "prompt: word list, line 3"
    assert read_blocklist(words).reason("a hat") is None


def test_the_list_that_is_shipped() -> None:
    found = read_blocklist("default")
    assert found.find("explicit PORN") is not None
    for caption in ("a cockatoo in Essex", "Scunthorpe at night", "sextant and analysis", "a big red circle", "canape"):
        assert found.find(caption) is None
    text = safety.DEFAULT_LIST.read_text()
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(entries) == len(found.lines)  # none twice


def test_a_list_that_says_nothing_is_refused(tmp_path: Path) -> None:
    for content, told in (
        (b"# nothing\n\n", "no word in it"),
        (b"nude\n***\n", "line 2 has no letter or digit"),
        (b"\xff\xfe", "not UTF-8 text"),
    ):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match=told):
            read_blocklist(str(tmp_path / "list.txt"))
    with pytest.raises(UserError, match=r"--prompt-blocklist .*nowhere\.txt"):
        read_blocklist(str(tmp_path / "nowhere.txt"))
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# written by Notepad\r\nnude\r\n")
    assert read_blocklist(str(tmp_path / "list.txt")).lines == {("nude",): 2}


def jpeg(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def pairs_of(*rows: tuple[str, tuple[int, int, int], tuple[int, int, int], float]) -> list[dict[str, Any]]:
    """Lay out raw pairs of one-coloured images: caption, both colours, label_0."""
    drawn = rendered_pairs(len(rows))
    changed = [
        {"caption": caption, "jpg_0": jpeg(one), "jpg_1": jpeg(other), "label_0": label, "label_1": 1 - label}
        for caption, one, other, label in rows
    ]
    return [row | change for row, change in zip(drawn, changed, strict=True)]


FILTERED = (
    ("a blue thing", GREEN, BLUE, 1.0),  # kept
    ("a nude", GREEN, BLUE, 1.0),
    ("a thing", RED, BLUE, 1.0),  # the winner
    ("another", GREEN, RED, 1.0),  # the loser: both slots alike
    ("a nude tie", RED, RED, 0.5),  # a tie is dropped before anything looks at it
)


def test_flagged_pairs_are_quarantined_whichever_slot(words: str, checker: Path) -> None:
    chosen = make_filter(SafetyConfig(words, str(checker)))
    raw = pa.Table.from_pylist(pairs_of(*FILTERED), schema=SCHEMA)
    decoded = CheckAndDecode(64, strict_labels=False, blocklist=chosen.blocklist)(raw)
    encode = LatentEncoder(Model(str(MODEL)), 64, "mean", False, 0, 4, "float32", chosen.checker)
    found = encode(decoded).to_pylist()
    assert [row["status"] for row in found] == ["kept", "quarantined", "quarantined", "quarantined", "tie"]
    assert [(row["stage"], row["reason"]) for row in found[1:4]] == [
        ("safety", "prompt: word list, line 3"),
        ("safety", f"image: safety concept {RED_CONCEPT}"),
        ("safety", f"image: safety concept {RED_CONCEPT}"),
    ]
    assert all((row["latents_0"] is None) is (row["status"] != "kept") for row in found)
    without = LatentEncoder(Model(str(MODEL)), 64, "mean", False, 0, 4, "float32")(decoded).to_pylist()
    assert found[0] == without[0]  # what is kept is what it was
    nothing = encode(decoded.slice(4))  # no pair left to look at
    assert nothing["status"].to_pylist() == ["tie"]


def test_a_filter_is_known_by_what_its_files_hold(words: str, checker: Path, tmp_path: Path) -> None:
    one = make_filter(SafetyConfig(words, str(checker)))
    (tmp_path / "copy.txt").write_text(LIST)
    assert make_filter(SafetyConfig(str(tmp_path / "copy.txt"), str(checker))).identity == one.identity
    (tmp_path / "copy.txt").write_text(LIST + "other\n")
    other = make_filter(SafetyConfig(str(tmp_path / "copy.txt"), str(checker))).identity
    assert [name for name in one.identity if one.identity[name] != other[name]] == ["prompt_blocklist"]
    assert make_filter(SafetyConfig()).identity == {}
    with pytest.raises(UserError, match="--safety-revision main: has no meaning without --safety-checker"):
        make_filter(SafetyConfig(safety_revision="main"))


def begun_with(config: EncodeConfig, before: dict[str, Any]) -> None:
    encode_config.refuse_other_settings("store", before, config, make_filter(config.safety))


def test_another_filter_is_refused_and_stores_older_than_filters_go_on(words: str, tmp_path: Path) -> None:
    plain, filtered = EncodeConfig(), EncodeConfig(safety=SafetyConfig(words))
    older = asdict(plain)
    del older["safety"]
    begun_with(plain, older)
    begun_with(plain, asdict(plain))
    with pytest.raises(UserError, match=r"prompt_blocklist was None, now '[0-9a-f]{64}'"):
        begun_with(filtered, older)
    told = encode_config.store_identity(filtered, make_filter(filtered.safety))
    begun_with(filtered, told)
    with pytest.raises(UserError, match=r"\(prompt_blocklist was '[0-9a-f]{64}', now None\); give another --store"):
        begun_with(plain, told)
    (tmp_path / "moved.txt").write_text(LIST)
    begun_with(replace(filtered, safety=SafetyConfig(str(tmp_path / "moved.txt"))), told)


def test_the_dry_run_counts_the_filter(words: str, checker: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "raw", pairs_of(*FILTERED))
    chosen = make_filter(SafetyConfig(words, str(checker)))
    rows = encode_plan.read_source(
        raw_table.open_source(source.parquet_files(str(tmp_path / "raw"), "train")), False, chosen.blocklist
    )
    assert (rows.rows, rows.ties, rows.blocked, rows.kept) == (5, 1, 1, 3)
    networks = encode_plan.Networks(
        vae_parameters=10,
        image=3e12,
        activations=7,
        captions={},
        embeddings={},
        checker_parameters=5,
        checked_image=1e12,
    )
    stored = encode_plan.Stored(latent_shape=(4, 8, 8), posterior="sample", flip=False)
    told = encode_plan.plan_rows(stored, DryRunConfig(), rows, networks, 1, "bfloat16")
    found = {name.strip(): value for name, value in told}
    assert found["refused by the word list"] == "1"
    assert found["TFLOP per pair"] == "8"  # two images, 3 by the VAE and 1 by the checker
    assert found["TFLOP of all"] == "24"


def test_the_encoder_counts_by_reason_and_prometheus_finds_it(
    submit: Submit, ray_environment: dict[str, str], words: str, checker: Path, tmp_path: Path
) -> None:
    rows = pairs_of(*FILTERED)
    nameless = rendered_pairs(len(rows) + 1)[-1] | {"caption": None}
    source = write_pairs(tmp_path / "raw", [*rows, nameless])
    flags = ["--source", str(source), "--store", str(tmp_path / "store"), "--batch-size", "4"]
    flags += ["--max-bad-fraction", "0.2"]  # one of six
    chosen = ["--prompt-blocklist", words, "--safety-checker", str(checker)]
    done = submit("pipelines/encode_latents.py", *flags, *chosen)
    manifest = store.read_manifest(str(tmp_path / "store"))
    assert (manifest.counts.kept, manifest.counts.quarantined, manifest.counts.ties) == (1, 4, 1)
    assert manifest.reasons == {
        "caption: caption is null": 1,
        f"safety: image: safety concept {RED_CONCEPT}": 2,
        "safety: prompt: word list, line 3": 1,
    }
    assert f"safety: image: safety concept {RED_CONCEPT}" in done.stdout
    assert set(manifest.safety) == {"prompt_blocklist", "safety_checker"}

    deadline = time.monotonic() + 240  # a process reports every ten seconds, and when it ends
    page = scrape(ray_environment)
    while values(page, "ray_dpo_quarantined_total", 'stage="safety"') < 3:  # no other encoding has a filter
        assert time.monotonic() < deadline
        page = scrape(ray_environment)
    assert values(page, "ray_dpo_pairs_total", 'status="kept"') >= 1
    assert values(page, "ray_dpo_images_total", "") >= 2
    assert values(page, "ray_dpo_quarantined_total", 'reason="caption is null"') >= 1
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ray_environment['RAY_API_SERVER_ADDRESS']}/api/prometheus/sd", timeout=30)

    config = EncodeConfig(source=str(source), store=str(tmp_path / "store"), batch_size=4)
    encode_latents.main(replace(config, safety=SafetyConfig(words, str(checker))))  # nothing to do
    with pytest.raises(UserError, match=r"prompt_blocklist was '.*safety_checker was '[0-9a-f]{64}', now None"):
        encode_latents.main(config)
    told = json.loads((tmp_path / "store/manifest.json").read_text())
    del told["safety"]  # as a store has it that is older than filters
    (tmp_path / "store/manifest.json").write_text(json.dumps(told))
    assert store.read_manifest(str(tmp_path / "store")).safety == {}
