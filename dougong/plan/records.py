"""Measured figures: how `--record` writes them and how report and planner read them back.

One JSON object a line in `bench/results/<machine>_<date>_<what>.jsonl`, with exactly the keys of
`Record`. The file only grows: a figure measured again is a new line, and readers take the latest.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from dougong.errors import InputError

RESULTS_FOLDER = Path("bench/results")
VERSIONED = ("dougong", "torch", "numpy", "transformers", "triton")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]*")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured figure with everything needed to measure it again.

    `name` is dotted and lower-case (`model.m97.decode_2048`), `value` is in `unit`, `command` is
    what to type, `machine` and `versions` are flat, `commit` is the tree's (or "unknown"), `date`
    is ISO 8601 in UTC.
    """

    name: str
    value: float
    unit: str
    command: str
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    commit: str
    date: str


def validate(row: Mapping[str, object], where: str) -> Record:
    """Returns the record that `row` holds, or raises InputError naming `where` and the bad key."""
    wanted = [field.name for field in fields(Record)]
    wrong = sorted(set(wanted) ^ set(row))
    if wrong:
        raise InputError(
            f"{where}: keys {', '.join(wrong)} are missing or unknown; "
            f"a record has exactly {', '.join(wanted)}"
        )
    value = row["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: value is {value!r}; a finite number is wanted")
    strings = {key: row[key] for key in ("name", "unit", "command", "commit", "date")}
    for key, text in strings.items():
        if not isinstance(text, str) or not text:
            raise InputError(f"{where}: {key} is {text!r}; a non-empty string is wanted")
    if not _NAME.fullmatch(str(row["name"])):
        raise InputError(
            f"{where}: name {row['name']!r} must be lower-case words joined by '.', '_' or '-'"
        )
    try:
        datetime.fromisoformat(str(row["date"]))
    except ValueError:
        raise InputError(f"{where}: date {row['date']!r} is not an ISO 8601 date") from None
    machine, versions = row["machine"], row["versions"]
    for key, mapping in (("machine", machine), ("versions", versions)):
        if not isinstance(mapping, dict) or not mapping:
            raise InputError(f"{where}: {key} is {mapping!r}; a non-empty object is wanted")
    assert isinstance(machine, dict)
    assert isinstance(versions, dict)
    return Record(
        name=str(row["name"]),
        value=float(value),
        unit=str(row["unit"]),
        command=str(row["command"]),
        machine=machine,
        versions=versions,
        commit=str(row["commit"]),
        date=str(row["date"]),
    )


def read_file(path: Path) -> list[Record]:
    """All records of a file, in order; a line that is none raises InputError with its number."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: one JSON object a line is wanted")
        records.append(validate(row, where))
    return records


def read_records(folder: Path = RESULTS_FOLDER) -> list[Record]:
    """All records of a folder's *.jsonl files; a folder that does not exist holds none."""
    return [record for path in sorted(folder.glob("*.jsonl")) for record in read_file(path)]


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """For each name the record with the latest date; of equal dates the later line."""
    newest: dict[str, Record] = {}
    for record in records:
        known = newest.get(record.name)
        if known is None or _when(record) >= _when(known):
            newest[record.name] = record
    return newest


def _when(record: Record) -> datetime:
    when = datetime.fromisoformat(record.date)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def make_record(
    name: str, value: float, unit: str, command: str, accelerator: str = "none"
) -> Record:
    """A record of something measured now, here: machine, versions, commit and date filled in."""
    row = {
        "name": name,
        "value": value,
        "unit": unit,
        "command": command,
        "machine": describe_machine(accelerator),
        "versions": installed_versions(),
        "commit": current_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return validate(row, f"record {name!r}")


def append_records(
    records: Iterable[Record], what: str, folder: Path = RESULTS_FOLDER
) -> list[Path]:
    """Appends records to `<machine>_<day>_<what>.jsonl` in `folder`; returns the files touched."""
    touched: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        machine = _slug(str(record.machine.get("name", "machine")))
        path = folder / f"{machine}_{record.date[:10]}_{_slug(what)}.jsonl"
        line = json.dumps(asdict(record), ensure_ascii=False, sort_keys=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if path not in touched:
            touched.append(path)
    return touched


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "machine"


def describe_machine(accelerator: str = "none") -> dict[str, str | int | float]:
    """What a reader needs to know of this machine; no host name, no paths."""
    cpu = platform.processor() or platform.machine()
    memory_gib = 0.0
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8"))
        cpu = found.group(1).strip() if found else cpu
    if meminfo.exists():
        found = re.search(r"MemTotal:\s*(\d+) kB", meminfo.read_text(encoding="utf-8"))
        memory_gib = round(int(found.group(1)) / 2**20, 1) if found else 0.0
    name = cpu if accelerator == "none" else accelerator
    return {
        "name": name,
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "memory_gib": memory_gib,
        "accelerator": accelerator,
        "system": platform.system(),
    }


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages whose speed a figure depends on."""
    versions = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def current_commit() -> str:
    """The short commit of the tree we run in, with "+changes" when it is not clean."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
