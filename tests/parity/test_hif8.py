"""HiF8 against en_dtypes, the data types package of Huawei's stack (recorded; see the file)."""

import json
from pathlib import Path

import numpy as np

from dougong.formats.hif8 import HIF8, VALUES

GOLDEN = json.loads((Path(__file__).parent / "formats" / "hif8.json").read_text(encoding="utf-8"))


def test_every_code_has_the_value_that_en_dtypes_gives_it() -> None:
    theirs = np.array(GOLDEN["value_bits"], np.uint32).view(np.float32)
    assert theirs.size == 256
    assert np.array_equal(VALUES, theirs, equal_nan=True)


def test_every_tie_its_neighbours_and_the_ends_of_the_range_encode_as_in_en_dtypes() -> None:
    bits, codes = np.array(GOLDEN["encoded"], np.uint32).T
    assert bits.size > 700
    assert HIF8.encode(bits.copy().view(np.float32)).tolist() == codes.tolist()
