"""Measured figures of the report, looked up by name among the records that `--record` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dougong.errors import InputError
from dougong.plan.records import RESULTS_FOLDER, Record, latest, read_records

from .cells import Cell, Parent
from .sources import gap
from .text import same


class Results:
    """The latest record of every name; a name that nobody measured gives an empty cell."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records: Mapping[str, Record] = latest(records)

    def cell(self, name: str, missing: str, *, scale: float = 1.0, unit: str = "") -> Cell:
        """The figure recorded under `name`, divided by `scale`; else the gap `missing`.

        `unit` replaces the record's own when the figure is scaled.
        """
        record = self.records.get(name)
        if record is None:
            return gap(missing)
        machine = str(record.machine.get("name", "unknown machine"))
        versions = " ".join(f"{key} {value}" for key, value in record.versions.items())
        parent = Parent(
            kind="measured",
            how=same(f"`{record.command}`"),
            source=f"{machine}; {versions}; commit {record.commit}",
            date=record.date[:10],
        )
        return Cell(parent=parent, value=record.value / scale, unit=same(unit or record.unit))

    def first(self, prefix: str, missing: str) -> Cell:
        """The first figure, by name, whose name starts with `prefix`."""
        names = sorted(name for name in self.records if name.startswith(prefix))
        return self.cell(names[0], missing) if names else gap(missing)


def load_results(folder: Path | None) -> Results:
    """Records of a folder of *.jsonl files; without one, bench/results of a source tree if any.

    Raises: InputError if the folder that was asked for does not exist, or a line is no record.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"--results {folder}: there is no such folder; give the folder of *.jsonl files that "
            "`--record` wrote"
        )
    return Results(read_records(folder or RESULTS_FOLDER))
