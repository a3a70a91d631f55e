"""The golden files are the ones that were made: nobody has touched an expected value."""

import hashlib
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def test_every_golden_file_has_its_recorded_hash() -> None:
    lines = (GOLDEN / "SHA256SUMS").read_text().splitlines()
    recorded = {name: digest for digest, name in (line.split() for line in lines)}
    found = {
        str(path.relative_to(GOLDEN)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in GOLDEN.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert found == recorded
