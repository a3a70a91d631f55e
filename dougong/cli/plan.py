"""`dougong plan`: the group of commands about speed, memory and cost on given hardware."""

from __future__ import annotations

import click

from dougong.cli.lazy import LazyGroup

MEMBERS = {
    "run": ("dougong.cli.plan_run", "One model on one kind of chip: does it fit, how fast, why."),
    "compare": ("dougong.cli.plan_compare", "Chips side by side at one operating point."),
    "search": ("dougong.cli.plan_search", "The best deployments over formats, layouts, policies."),
    "train": ("dougong.cli.plan_train", "Recomputation and overlap policies in training."),
    "fleet": ("dougong.cli.plan_fleet", "Simulate traffic with prefix reuse over replicas."),
    "evaluate": ("dougong.cli.plan_evaluate", "Predicted against measured on published rows."),
    "chips": ("dougong.cli.plan_chips", "What is published about chips, and what is not."),
    "web": ("dougong.cli.plan_web", "The planner as a page in your browser."),
}


@click.group("plan", cls=LazyGroup, members=MEMBERS)
def command() -> None:
    """Compute speed, memory and cost of a model on given hardware.

    MODEL is a preset (v4-flash, v4-pro, v3.2, v3, mini, nano, m97) or a folder with a config.json.
    CHIP is an id or a part of a name, such as 950dt, h20, gb300; `dougong plan chips` lists them.

    \b
    Example:
      dougong plan run v4-flash --chip 950dt --count 16 --context 8192 --batch 1536
    """
