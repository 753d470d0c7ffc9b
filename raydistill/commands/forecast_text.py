"""What --dry-run prints.

Comes in: a Forecast. Goes out: text: the facts, the stages with their reasons, the networks, what would be refused.
"""

from __future__ import annotations

from raydistill.commands.dry_run import Forecast
from raydistill.commands.estimate import NetworkForecast


def format_forecast(forecast: Forecast) -> str:
    """All of it."""
    width = max(map(len, forecast.facts))
    blocks = ["\n".join(f"{name:{width}}  {text}" for name, text in forecast.facts.items())]
    lines = [f"  {stage.name:12} {'runs' if stage.runs else 'skipped'}: {stage.reason}" for stage in forecast.stages]
    blocks.append("\n".join(["stages", *lines]))
    if forecast.networks:
        blocks.append(format_networks(forecast.networks))
    if forecast.obstacles:
        blocks.append("\n".join(f"would be refused: {obstacle}" for obstacle in forecast.obstacles))
    elif any(stage.runs for stage in forecast.stages):
        blocks.append("nothing stands in the way\nnext:   the same command without --dry-run")
    else:
        blocks.append("there is nothing to do: every stage is finished")
    return "\n\n".join(blocks)


def format_networks(networks: list[NetworkForecast]) -> str:
    """A table; all figures are the most that there can be."""
    head = f"  {'to train, at most':22}{'networks':>9}{'passes':>8}{'examples a pass':>17}{'examples in all':>18}"
    lines = [
        f"  {line.what:22}{line.networks:>9,}{line.passes:>8,}{line.examples:>17,}{line.passes * line.examples:>18,}"
        for line in networks
    ]
    total = sum(line.passes * line.examples for line in networks)
    return "\n".join([head, *lines, f"  {'together':22}{sum(line.networks for line in networks):>9,}{total:>43,}"])
