"""`dougong doctor`: what is here, and which operators run on it."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib import metadata
from typing import Any

import click

from dougong.cli import options

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "deepseek-recipe", "transformers")


@click.command("doctor")
@options.json_option
def command(as_json: bool) -> None:
    """Show what this machine has and can run.

    A backend is a table from operators to implementations: `native` is its own, `fallback` is the
    torch reference, which defines what every operator computes. `dougong verify kernels` notes how
    each native one was last verified on this machine.

    \b
    Example:
      dougong doctor

    \b
    JSON: dougong, python, packages, machine, torch, models, hub_cache, native_path, backends,
    verified (operator: date, cases, worst, ok)
    """
    report = examine()
    options.emit(report, as_json, describe(report))


def examine() -> dict[str, Any]:
    """Every fact, under the keys of `--json`."""
    import torch

    from dougong import __version__
    from dougong.checkpoint.locate import hub_cache, shipped_names
    from dougong.kernels.registry import BACKENDS, coverage
    from dougong.machine import this_machine

    cuda = torch.cuda.is_available()
    return {
        "dougong": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": asdict(this_machine()),
        "torch": {
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            if cuda
            else [],
        },
        "models": shipped_names(),
        "hub_cache": str(hub_cache()),
        "native_path": _native_path(),
        "backends": {name: coverage(name) for name in BACKENDS},
        "verified": _verified(),
    }


def _native_path() -> str | None:
    """The instruction set that backend cpu runs on here; None if its library is not built."""
    from dougong.errors import BackendError
    from dougong.kernels.cpu.library import instruction_path

    try:
        return instruction_path()
    except BackendError:
        return None


def _verified() -> dict[str, Any]:
    """How backend cpu's operators were last verified; nothing if its library is not built."""
    from dougong.conform.verified import recall
    from dougong.errors import BackendError
    from dougong.machine import this_machine

    try:
        found = recall("cpu", this_machine().processor)
    except BackendError:
        return {}
    return {name: asdict(one) for name, one in found.items()}


def _version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _when(verified: dict[str, Any] | None) -> str:
    """When an operator was verified, on how many cases, and what came out."""
    if verified is None:
        return ""
    verdict = "right" if verified["ok"] else "WRONG"
    return f"{verdict} on {verified['date'][:10]} in {verified['cases']} cases"


def describe(report: dict[str, Any]) -> str:
    """The report as text."""
    machine, torch = report["machine"], report["torch"]
    packages = ", ".join(f"{name} {version or '-'}" for name, version in report["packages"].items())
    gib = [
        "unknown" if machine[key] is None else f"{machine[key] / 2**30:.1f} GiB"
        for key in ("memory_bytes", "available_bytes")
    ]
    lines = [
        f"dougong    {report['dougong']}, Python {report['python']}",
        f"packages   {packages}",
        f"system     {machine['system']}",
        f"processor  {machine['processor']}, {machine['num_cores']} cores",
        f"features   {' '.join(machine['features']) or 'none that matter here'}",
        f"memory     {gib[0]}, {gib[1]} available",
        f"torch      {torch['cpu_capability']}, {torch['threads']} threads, "
        f"CUDA: {', '.join(torch['cuda']) or 'none'}",
        f"models     {', '.join(report['models']) or 'none shipped'}",
        f"hub cache  {report['hub_cache']}",
    ]
    lines.append(f"native     {report['native_path'] or 'not built: backend cpu cannot run'}")
    for name, operators in report["backends"].items():
        native = [operator for operator, how in operators.items() if how == "native"]
        lines += ["", f"backend {name}: {len(native)} of {len(operators)} operators native"]
        verified = report["verified"] if name == "cpu" else {}
        if name == "cpu" and not verified:
            lines.append("  not verified on this machine: dougong verify kernels")
        for operator, how in operators.items():
            lines.append(f"  {operator:<20} {how:<10}{_when(verified.get(operator))}".rstrip())
    return "\n".join(lines)
