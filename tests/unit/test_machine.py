"""What the system tells about the machine, and what is said where it tells nothing."""

from pathlib import Path

from dougong import machine


def test_this_machine_has_cores_and_a_name() -> None:
    here = machine.this_machine()
    assert here.num_cores >= 1
    assert here.processor
    assert here.system.startswith("Linux")


def test_a_missing_proc_file_gives_no_fields() -> None:
    assert machine._fields(Path("/no/such/file")) == {}


def test_proc_values_are_kib_and_only_the_first_of_a_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  16 kB\nMemTotal:  17 kB\nflags\n")
    fields = machine._fields(path)
    assert machine._kib(fields["MemTotal"]) == 16 * 1024
    assert machine._kib(fields["flags"]) is None
    assert machine._kib(None) is None
