"""Judge a run and show it: `python pipelines/report.py ...` writes report.json and a self-contained report.html.

Beside them result.png, a strip of images to show elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from infra.base import begun, files, object_storage
from infra.base.config_files import save_config
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from pipelines.drawing.image_flags import summarise_image_flags
from pipelines.judging.comparison import Drawn, compare, read_drawn
from pipelines.judging.origin import find_origin
from pipelines.latents import store
from pipelines.reports import report_page
from pipelines.reports.judges import judge_titles
from pipelines.reports.report_config import ReportConfig
from training.checkpoints.run_folder import RESULT

SCHEMA_VERSION = 1


def build(config: ReportConfig, policy: Drawn, base: Drawn) -> dict[str, Any]:
    """Gather every figure of the report.

    Raises:
        UserError: if an input is missing or unfinished.
    """
    if (config.control is None) != (config.control_train is None):
        raise UserError("--control or --control-train is missing; the control needs both its images and its run folder")
    compared = compare(policy, base)
    if config.judge not in compared:
        raise UserError(
            f"--judge {config.judge}: it did not score both base and policy; "
            f"choose one that did ({', '.join(compared) or 'none yet'}) or run score.py"
        )
    compared = {config.judge: compared[config.judge]} | compared  # the headline's judge comes first
    manifest = store.read_manifest(files.resolve(config.store))
    facts = read_facts(config.train, manifest)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "judge": config.judge,
        "win_rate": {name: figures["win_rate"] for name, figures in compared.items()},
        "median": {name: figures["median"] for name, figures in compared.items()},
        "sets": {"base": base.judged, "policy": policy.judged},
        "origin": find_origin(files.join(config.train, RESULT)).in_report(list(compared)),
        "safety": summarise_image_flags({"base": base.folder, "policy": policy.folder}),
        "implicit_reward": facts.get("implicit_reward"),
        "store": asdict(manifest.counts) | {"content_hash": manifest.content_hash},
        "train": facts["train"] | {"best_step": facts["best_step"]},
        "config": {
            "train": facts["config"],
            "encode": dict(manifest.config),
            "generate": {"base": base.identity, "policy": policy.identity},
            "report": asdict(config),
        },
    }
    if config.control and config.control_train:
        control = read_drawn(config.control)
        control_facts = read_facts(config.control_train, manifest)
        report["control"] = _control(control, base, policy)
        report["control"]["differs_in"] = begun.differences(
            facts["config"], control_facts["config"], ignored={"output"}, exact=True
        )
        report["sets"]["control"] = control.judged
        report["config"]["control"] = control_facts["config"]
    return report


def _control(control: Drawn, base: Drawn, policy: Drawn) -> dict[str, Any]:
    over_base = compare(control, base)
    under_policy = compare(policy, control)
    return {
        "win_rate": {name: figures["win_rate"] for name, figures in over_base.items()},
        "policy_over_control": {name: figures["win_rate"] for name, figures in under_policy.items()},
        "median": {name: figures["median"]["policy"] for name, figures in over_base.items()},
    }


def read_facts(run: str, manifest: store.Manifest) -> dict[str, Any]:
    """Read the facts that a finished run wrote.

    Raises:
        UserError: if it is not finished, or was trained on another store.
    """
    path = files.join(files.resolve(run), RESULT, FACTS)
    if not files.is_file(path):
        raise UserError(f"{run}: this run is not finished, for {path} is missing; let train_dpo.py finish it")
    facts = files.read_json(path)
    if facts["store_hash"] != manifest.content_hash:
        raise UserError(f"--store: {run} was trained on another store; give the one that its config.json names")
    return facts


def main(config: ReportConfig) -> None:
    """Compare a trained model with its base and write report.json, report.html and result.png."""
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    policy = read_drawn(config.policy)
    base = read_drawn(config.base)
    report = build(config, policy, base)
    page = report_page.render(report, policy, base, config.train, config.control_train)
    content = json.dumps(report, indent=2, allow_nan=False) + "\n"  # NaN is no JSON
    save_config(output, config)
    files.write_bytes(files.join(output, "report.json"), content.encode())
    files.write_bytes(files.join(output, "report.html"), page.encode())
    files.write_bytes(files.join(output, "result.png"), report_page.picture(policy, base))
    won = report["win_rate"][config.judge]
    title = judge_titles(base.folder, [config.judge])[config.judge]
    print(
        f"win rate of the policy over the base, judged by {title}: {won['value']:.3f} "
        f"(95 % interval {won['low']:.3f} to {won['high']:.3f}, {won['n']} prompts)\n"
        f"report: {files.join(output, 'report.html')}",
        flush=True,
    )
