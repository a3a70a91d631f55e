"""The state store on disk: damage is a miss, kills leave whole files, budgets hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dougong.engine import disk_store
from dougong.engine.disk_store import HEADER, KEY_BYTES, DiskStore, Kind, Place
from dougong.engine.scheduler import BLOCK_TOKENS
from dougong.engine.store_writer import MOST_PENDING, StoreWriter
from dougong.errors import InputError

MODEL = bytes(range(32))
PAYLOAD = 1000


def ids_of(seed: int, blocks: int) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(129_280) for _ in range(blocks * BLOCK_TOKENS)]


def payload(place: Place, kind: Kind = Kind.BLOCK) -> bytes:
    """What belongs to a place, so that anybody can check what comes back."""
    return (place.key + bytes([kind])) * (PAYLOAD // 33) + bytes(PAYLOAD % 33)


def fill(store: DiskStore, ids: list[int], tenant: str = "") -> list[Place]:
    places = store.places(tenant, ids)
    for place in places:
        store.write(Kind.BLOCK, place, payload(place))
    return places


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    made = DiskStore(tmp_path / "state", MODEL, 10**9)
    yield made
    made.close()


def test_what_was_written_is_found_after_a_restart(store: DiskStore) -> None:
    ids = ids_of(1, 3)
    places = fill(store, ids)
    store.write(Kind.RESUME, places[1], payload(places[1], Kind.RESUME))
    store.close()
    again = DiskStore(store.folder, MODEL, 10**9)
    assert again.find(again.places("", ids + ids_of(2, 1))) == (3, [2])
    assert again.read(Kind.BLOCK, places[2], PAYLOAD) == payload(places[2])
    assert again.read(Kind.RESUME, places[1], PAYLOAD) == payload(places[1], Kind.RESUME)


def test_another_tenant_model_or_store_finds_nothing(store: DiskStore, tmp_path: Path) -> None:
    ids = ids_of(1, 2)
    places = fill(store, ids, "one")
    assert store.find(store.places("two", ids)) == (0, [])
    other = DiskStore(store.folder, bytes(32), 10**9)
    assert other.find(other.places("one", ids)) == (0, [])
    assert other.read(Kind.BLOCK, places[0], PAYLOAD) is None  # by its very name
    foreign = DiskStore(tmp_path / "foreign", MODEL, 10**9)
    fill(foreign, ids, "one")
    path = foreign._path(Kind.BLOCK, places[1].key)
    path.write_bytes(store._path(Kind.BLOCK, places[1].key).read_bytes())
    assert foreign.read(Kind.BLOCK, places[1], PAYLOAD) is None  # written with another secret


damages = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 8 * (HEADER.size + PAYLOAD + KEY_BYTES) - 1)),
    st.tuples(st.just("cut"), st.integers(0, HEADER.size + PAYLOAD + KEY_BYTES - 1)),
    st.tuples(st.just("add"), st.integers(1, 100)),
    st.tuples(st.just("splice"), st.integers(1, HEADER.size + PAYLOAD + KEY_BYTES - 1)),
    st.tuples(st.just("version"), st.integers(0, 2**32 - 1).filter(lambda v: v != 1)),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damages)
def test_a_damaged_file_is_a_miss_and_is_removed(store: DiskStore, damage: tuple[str, int]) -> None:
    first, second = fill(store, ids_of(1, 2))
    path = store._path(Kind.BLOCK, first.key)
    data, (what, number) = bytearray(path.read_bytes()), damage
    if what == "flip":
        data[number // 8] ^= 1 << number % 8
    elif what == "cut":
        del data[number:]
    elif what == "add":
        data += bytes(number)
    elif what == "splice":
        other = store._path(Kind.BLOCK, second.key).read_bytes()
        data[number:] = other[number:]
    else:
        data[8:12] = number.to_bytes(4, "little")
    path.write_bytes(data)
    assert store.read(Kind.BLOCK, first, PAYLOAD) is None
    assert not path.exists()
    assert store.find([first, second]) == (0, [])
    assert store.read(Kind.BLOCK, second, PAYLOAD) == payload(second)


def test_a_file_larger_than_asked_for_is_a_miss(store: DiskStore) -> None:
    (place,) = fill(store, ids_of(1, 1))
    assert store.read(Kind.BLOCK, place, PAYLOAD + 5) == payload(place)
    assert store.read(Kind.BLOCK, place, PAYLOAD - 1) is None


def test_a_link_is_not_followed(store: DiskStore, tmp_path: Path) -> None:
    (place,) = fill(store, ids_of(1, 1))
    path = store._path(Kind.BLOCK, place.key)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert store.read(Kind.BLOCK, place, PAYLOAD) is None


def test_files_are_their_owner_s_alone(store: DiskStore) -> None:
    (place,) = fill(store, ids_of(1, 1))
    path = store._path(Kind.BLOCK, place.key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_the_budget_holds_and_a_prefix_loses_its_end_first(tmp_path: Path) -> None:
    size = HEADER.size + PAYLOAD + KEY_BYTES
    store = DiskStore(tmp_path / "state", MODEL, 5 * size)
    old, new = ids_of(1, 3), ids_of(2, 3)
    fill(store, old)
    fill(store, new)
    assert store.num_bytes <= 5 * size
    assert sum(f.stat().st_size for f in store.folder.glob("??/*")) == store.num_bytes
    assert store.find(store.places("", old))[0] == 2
    assert store.find(store.places("", new))[0] == 3
    store.find(store.places("", old))  # used last
    fill(store, ids_of(3, 3))
    assert store.find(store.places("", old))[0] == 2


def test_a_lost_or_broken_index_is_built_from_the_files(store: DiskStore) -> None:
    ids = ids_of(1, 3)
    fill(store, ids)
    store.close()
    for damage in (b"", b"not a database at all" * 300):
        (store.folder / "index.sqlite").write_bytes(damage)
        for beside in store.folder.glob("index.sqlite-*"):
            beside.unlink()
        again = DiskStore(store.folder, MODEL, 10**9)
        assert again.find(again.places("", ids))[0] == 3
        again.close()


def test_a_full_or_read_only_disk_ends_writing_but_not_reading(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of(1, 2)
    first, second = store.places("", ids)
    store.write(Kind.BLOCK, first, payload(first))

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_store, "_write_whole", refuse)
    assert not store.write(Kind.BLOCK, second, payload(second))
    assert store.problem is not None
    assert "No space left" in store.problem
    assert store.read(Kind.BLOCK, first, PAYLOAD) == payload(first)


def test_a_folder_that_is_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="choose another folder"):
        DiskStore(tmp_path / "file", MODEL, 10**6)


WRITER = """
import sys
from pathlib import Path
from tests.property.test_engine_disk_store import MODEL, fill, ids_of
from dougong.engine.disk_store import DiskStore
store = DiskStore(Path(sys.argv[1]), MODEL, 60_000)
print("ready", flush=True)
for seed in range(10**9):
    fill(store, ids_of(seed % 40, 4))
"""


def test_two_killed_writers_leave_only_whole_files(tmp_path: Path) -> None:
    root, folder, rng = Path(__file__).parents[2], tmp_path / "state", Random(5)
    for _ in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder)], cwd=root, stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.1 + 0.3 * rng.random())
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    store, seen = DiskStore(folder, MODEL, 60_000), 0
    assert not list(folder.glob("??/.*"))  # what the killed left half written
    assert store.num_bytes == sum(f.stat().st_size for f in folder.glob("??/*"))
    for seed in range(40):
        for place in store.places("", ids_of(seed, 4)):
            path = store._path(Kind.BLOCK, place.key)
            if path.exists():
                assert store.read(Kind.BLOCK, place, PAYLOAD) == payload(place)
                seen += 1
    assert seen > 0


def test_a_writer_that_meets_the_unforeseen_keeps_nobody_waiting(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: Kind, place: Place, data: bytes) -> bool:
        raise ValueError("nobody thought of this")

    writer = StoreWriter(store)
    (place,) = store.places("", ids_of(1, 1))
    monkeypatch.setattr(store, "write", fail)
    for _ in range(2 * MOST_PENDING):
        writer.put(Kind.BLOCK, place, b"")
    writer.flush()
    writer.close()
    assert store.problem is not None
    assert "nobody thought of this" in store.problem
