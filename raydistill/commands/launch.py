"""From settings to a running pipeline: picks the executor and the display.

Comes in: a Config. Goes out: the finished run folder, or text about its plan.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raydistill.data.arrays import open_examples
from raydistill.display import Display, format_seconds, open_display
from raydistill.errors import ConfigError
from raydistill.execution.jobs import Executor
from raydistill.pipeline import run_pipeline
from raydistill.settings.cluster import WORKERS
from raydistill.settings.config import Config
from raydistill.stages.groups import describe_plan
from raydistill.stages.growth import decide_specialists, describe_decisions
from raydistill.stages.networks import read_training
from raydistill.stages.roles import count_workers
from raydistill.storage.run_folder import RunFolder
from raydistill.tracking.watch import watch

SHOWN_GROUPS = 40


def launch(
    config: Config,
    *,
    on_change: str = "refuse",
    start_from: Path | str | None = None,
    verbose: bool = False,
    until: str = "report",
    display: Display | None = None,
) -> RunFolder:
    """Run the pipeline, or its stages up to `until`. on_change, start_from: see RunFolder.open."""
    shown = watch(config, display or open_display())

    def start_executor(run: RunFolder) -> Executor:
        return open_executor(config, run, verbose, shown.note)

    return run_pipeline(
        config,
        display=shown,
        start_executor=start_executor,
        until=until,
        on_change=on_change,
        start_from=start_from,
    )


def open_executor(
    config: Config, run: RunFolder, verbose: bool, note: Callable[[str], None], node_seconds: float | None = None
) -> Executor:
    """Ray, or this process alone. note: is told why the executor waits; node_seconds: how long, if not as usual.

    Raises ConfigError at what it cannot do.
    """
    cluster = config.cluster
    if cluster.backend == "none":
        for role, workers in count_workers(config).items():
            if workers > 1:
                raise ConfigError(f"{WORKERS[role]}: {workers} need Ray; take 1, or --cluster.backend ray")
        from raydistill.execution.in_process import InProcess

        return InProcess()
    from raydistill.on_ray.executor import RayExecutor

    return RayExecutor(
        scratch=run.path / "ray",
        address=cluster.address,
        verbose=verbose,
        cluster=cluster,
        workers=count_workers(config),
        note=note,
        node_seconds=node_seconds,
    )


def format_plan(run: RunFolder) -> str:
    """The groups with names, gain and cost, and what all of them together could gain."""
    plan = describe_plan(run)
    lines = [f"{'group':>5} {'classes':>7} {'examples/pass':>13} {'gain at most':>12}  names"]
    for index, group in list(enumerate(plan["groups"]))[:SHOWN_GROUPS]:
        figures = f"{group['classes']:>7} {group['examples_an_epoch']:>13,} {group['fixable']:>12.2%}"
        lines.append(f"{index:>5} {figures}  {group['name']}")
    if len(plan["groups"]) > SHOWN_GROUPS:
        lines.append(f"      … and {len(plan['groups']) - SHOWN_GROUPS} more in {run.stage_folder('groups')}")
    stability = plan["stability"]
    passes = read_training(run.stage_folder("generalist"))["history"][-1]["epoch"]
    lines += [
        "",
        f"The groups hold {plan['mass_covered']:.0%} of the confusion,"
        f" and a class is in {plan['groups_per_class']:.2f} groups.",
        f"Perfect specialists would lift accuracy from {plan['accuracy']:.1%}"
        f" to at most {plan['accuracy'] + plan['fixable']:.1%}.",
        f"One pass of every specialist sees {sum(group['examples_an_epoch'] for group in plan['groups']):,} examples.",
    ]
    if stability:
        lines.append(
            f"Stability of the groups under resampling: adjusted Rand index {sum(stability) / len(stability):.2f}."
        )
    config = run.read_config()
    lines += describe_decisions(decide_specialists(run, config, open_examples(run)))
    seconds = run.read_manifest()["stages"]["generalist"]["seconds"]
    return "\n".join([*lines, f"The generalist took {format_seconds(seconds)} for {passes} passes."])
