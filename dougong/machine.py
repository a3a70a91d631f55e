"""What this machine is: processor, its instructions, memory. Read from the system, no torch."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from dougong.errors import InputError

# Instructions that change which arithmetic is fast here, in the kernel's own spelling.
FEATURES = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "sve", "bf16", "i8mm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Processor and memory; a fact that the system does not tell is None or empty."""

    system: str
    processor: str
    num_cores: int
    features: tuple[str, ...]
    memory_bytes: int | None
    available_bytes: int | None


def this_machine() -> Machine:
    """Describes the machine that this process runs on."""
    cpu = _fields(Path("/proc/cpuinfo"))
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    memory = _fields(Path("/proc/meminfo"))
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=cpu.get("model name") or platform.processor() or platform.machine(),
        num_cores=_usable_cores(),
        features=tuple(name for name in FEATURES if name in flags),
        memory_bytes=_kib(memory.get("MemTotal")),
        available_bytes=_kib(memory.get("MemAvailable")),
    )


def require_memory(num_bytes: int, what: str, way_out: str) -> None:
    """Refuses what cannot fit, before the system's own way of refusing: killing the process.

    Raises InputError if `num_bytes` exceed the memory that is available now.
    """
    available = this_machine().available_bytes
    if available is not None and num_bytes > available:
        raise InputError(
            f"{what} needs {num_bytes / 2**30:,.1f} GiB of memory and {available / 2**30:,.1f} GiB "
            f"are available; {way_out}."
        )


def _usable_cores() -> int:
    """Cores that this process may run on, which a container can make fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fields(path: Path) -> dict[str, str]:
    """`name : value` lines of a /proc file, the first of each name; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _kib(value: str | None) -> int | None:
    """Bytes of "123 kB" (which in /proc means KiB)."""
    number = (value or "").split(" ")[0]
    return int(number) * 1024 if number.isdecimal() else None
