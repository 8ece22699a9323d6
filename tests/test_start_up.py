"""A command imports what it runs: flags and help load no network's libraries, and every function it names is there."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.judging_material import score_folders, write_images
from support.material import MODEL, rendered_pairs, write_pairs

from infra.base import engines
from infra.base.files import ROOT
from labelers.labels import relabel
from labelers.labels.relabel_config import RelabelConfig
from training.run import train_dpo
from training.settings.config import TrainConfig

FOLDERS = ("pipelines", "training", "labelers", "infra")
COMMANDS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")
HEAVY = (  # each takes 0.1 to 3 s of CPU
    *("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "open_clip"),
    *("ray", "datasets", "pandas", "scipy", "matplotlib", "boto3", "PIL", "jinja2", "pydantic"),
)
RUN = """
import contextlib, io, json, runpy, sys
heavy, commands = json.loads(sys.argv[1])
report = []
for command in commands:
    before = set(sys.modules)
    sys.argv = command
    said = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stopped:
            code = stopped.code or 0
    report.append([code, said.getvalue(), sorted((set(sys.modules) - before) & set(heavy))])
print(json.dumps(report))
"""


@dataclass(frozen=True)
class Ran:
    """What a command ended with, and what it alone imported of HEAVY."""

    code: int
    said: str
    imported: list[str]


def run_all(commands: Sequence[Sequence[str]], heavy: Sequence[str] = HEAVY) -> list[Ran]:
    """Run commands one after the other in one process that has imported nothing yet."""
    words = [sys.executable, "-c", RUN, json.dumps([heavy, commands])]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [Ran(*one) for one in json.loads(done.stdout)]


def test_help_imports_no_heavy_library() -> None:
    ran = dict(zip(map(str, COMMANDS), run_all([[str(path), "--help"] for path in COMMANDS]), strict=True))
    assert {path for path, one in ran.items() if one.code or "usage:" not in one.said} == set()
    assert {path: one.imported for path, one in ran.items() if one.imported} == {}


# A refused command may read tables and images; a network's libraries it does not need.
NETWORKS = ("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "open_clip", "ray")
REFUSED = [
    (["training/train_dpo.py", "--no-such-flag"], "no-such-flag"),
    (["training/train_dpo.py", "--beta", "-1"], "--beta -1: must be above 0"),
    (["training/train_dpo.py", "--store", "/none"], "/none: no latent store here"),
    (["pipelines/encode_latents.py", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["pipelines/encode_latents.py", "--source", "/none"], "--source /none: /none does not exist"),
    (["pipelines/generate.py", "--prompts", "/none"], "/none: no such file of captions"),
    (["pipelines/score.py", "--images", "/none"], "/none: no finished images here"),
    (["pipelines/rank_pairs.py", "--images", "/none"], "/none: no finished images here"),
    (["pipelines/import_pairs.py", "--table", "/none", "--images", "/none"], "--table /none: no such file"),
    (["pipelines/rounds.py", "--rounds", "0"], "--rounds 0: must be at least 1"),
    (["pipelines/arena.py", "--images", "/none", "/none"], "/none: no finished images here"),
    (["labelers/relabel.py", "--store", "/none"], "/none: no latent store here"),
    (["labelers/accuracy.py", "--scorers", "none"], "scorer 'none': unknown"),
]


def test_a_refusal_loads_no_network() -> None:
    for (words, told), ran in zip(REFUSED, run_all([words for words, _ in REFUSED], NETWORKS), strict=True):
        assert (words, ran.code, ran.imported) == (words, 2, [])
        assert told in ran.said


def changed_model(folder: Path, file: str, values: dict[str, object]) -> str:
    """Copy the embedded world's model with other settings in one of its files."""
    path = Path(shutil.copytree(MODEL, folder)) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


@pytest.mark.slow
def test_what_a_model_s_files_state_outright_is_refused_without_a_library(tmp_path: Path) -> None:
    tiny = changed_model(tmp_path / "class", "model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]})
    guided = changed_model(tmp_path / "lcm", "unet/config.json", {"time_cond_proj_dim": 8})
    sample = changed_model(tmp_path / "sample", "scheduler/scheduler_config.json", {"prediction_type": "sample"})
    fused = changed_model(tmp_path / "fused", "model_index.json", {})
    weights = tmp_path / "fused" / "text_encoder" / "model.safetensors"
    shutil.copy(write_names(tmp_path / "names", ["a.q_proj.base_layer.weight"]), weights)
    lokr = write_names(tmp_path / "x.safetensors", ["unet.a.lokr_w1"])
    pairs = ["--source", str(write_pairs(tmp_path / "raw", rendered_pairs(1))), "--store", str(tmp_path / "store")]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat")
    draw = ["pipelines/generate.py", "--prompts", str(prompts), "--output", str(tmp_path / "images")]
    refused = [
        (["pipelines/encode_latents.py", *pairs, "--model", tiny], "its vae is of class AutoencoderTiny"),
        (["pipelines/encode_latents.py", *pairs, "--model", guided], "distilled to be told its guidance"),
        (["pipelines/encode_latents.py", *pairs, "--model", sample], "its prediction_type is sample"),
        (["pipelines/encode_latents.py", *pairs, "--model", fused], "a LoRA was fused and not unloaded"),
        ([*draw, "--model", fused], "a LoRA was fused and not unloaded"),
        ([*draw, "--lora", str(lokr)], "holds LyCORIS"),
    ]
    for (words, told), ran in zip(refused, run_all([words for words, _ in refused], NETWORKS), strict=True):
        assert told in ran.said
        assert (words, ran.code, ran.imported) == (words, 2, [])


def write_names(path: Path, names: Sequence[str]) -> Path:
    """Write a file of weights with tensors of these names."""
    save_file({name: np.ones(1, np.float32) for name in names}, path)
    return path


@pytest.mark.slow
def test_a_finished_run_loads_no_network(
    config: TrainConfig, raw_pairs: Path, copied_store: Path, tmp_path: Path
) -> None:
    images = write_images(
        tmp_path / "images", {"a small blue triangle on a purple background": [(200, 0, 0), (0, 0, 200)]}
    )
    label = ["labelers/relabel.py", "--source", str(raw_pairs), "--store", str(copied_store), "--scorer", "oracle"]
    score = ["pipelines/score.py", "--images", images, "--scorers", "oracle"]
    encode = ["pipelines/encode_latents.py", "--source", str(raw_pairs), "--store", str(copied_store)]
    short = replace(config, steps=1, checkpoint_every=1, data=replace(config.data, held_out_store=None))
    with engines.asking("local"):
        relabel.main(RelabelConfig(scorer=("oracle",), source=str(raw_pairs), store=str(copied_store)))
        score_folders(images, names=("oracle",))
        train_dpo.main(short)
    train = ["training/train_dpo.py", "--config", f"{short.output}/config.json"]
    again = run_all([encode, label, score, train], NETWORKS)
    assert [(one.code, one.imported) for one in again] == [(0, [])] * 4
    assert ["already finished" in one.said or "already scored" in one.said for one in again] == [True] * 4


@pytest.mark.slow
def test_a_dry_run_of_what_the_table_holds_loads_no_network(encoded_store: Path) -> None:
    """infra/benchmarks/counts.py writes that table."""
    encode = ["pipelines/encode_latents.py", "--dry-run", "--store", "/none"]
    train = ["training/train_dpo.py", "--dry-run", "--output", "/none", "--store", str(encoded_store)]
    planned = run_all([encode, train], NETWORKS)
    assert [(one.code, one.imported) for one in planned] == [(0, [])] * 2
    assert all("TFLOP per pair" in one.said for one in planned)


WITHOUT_RAY = """
import importlib, sys
from infra.base import garbage
garbage.search_seldom()
for module in sys.argv[1:]:
    importlib.import_module(module)
print([name for name in ("ray", "pipelines.engine.on_ray", "pipelines.engine.ray_cluster") if name in sys.modules])
"""


@pytest.mark.slow
def test_what_runs_in_one_process_imports_no_ray() -> None:
    named = [function.partition(":")[0] for path in COMMANDS for function in named_functions(path)]
    modules = sorted({*named, "training.run.alone"} - {"pipelines.experiments.sweep"})  # whose trials are Ray's tasks
    command = [sys.executable, "-c", WITHOUT_RAY, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


IMPORTED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("pipelines.latents.decoding", NETWORKS),  # tasks that decode are processes of their own
        pytest.param("training.run.workers", ("diffusers", "transformers", "peft"), marks=pytest.mark.slow),  # a driver
        pytest.param("pipelines.engine.own_copies", ("torch", "ray.data", "pandas"), marks=pytest.mark.slow),
    ],
)
def test_a_process_beside_the_model_s_loads_no_network(module: str, left_out: Sequence[str]) -> None:
    command = [sys.executable, "-c", IMPORTED, module, *left_out]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "\n"


def named_functions(path: Path) -> list[str]:
    """List the strings that a command gives to cli.run."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    given = [
        value
        for call in calls
        if ast.unparse(call.func) == "cli.run"
        for value in (call.args[0], *(keyword.value for keyword in call.keywords if keyword.arg == "plan"))
    ]
    return [ast.literal_eval(value) for value in given]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_functions_that_a_command_names_exist(path: Path) -> None:
    named = named_functions(path)
    assert named
    for one in named:
        module, _, function = one.partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
