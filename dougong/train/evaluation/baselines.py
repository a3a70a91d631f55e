"""What is known without a model: how well xz and a character 3-gram predict the same text.

Both start from nothing and learn from the text they have already seen, so they need no training
text; a long text is to their advantage.
"""

from __future__ import annotations

import lzma
import math
from collections import Counter, defaultdict

ALPHABET = 256  # bytes of UTF-8
ORDER = 3  # each byte is predicted from the two before it


def xz_bits_per_character(text: str) -> float:
    """Size of the text as a raw LZMA2 stream (xz's largest preset, no container) over its length.

    Raises:  ZeroDivisionError for an empty text.
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    packed = lzma.compress(text.encode(), format=lzma.FORMAT_RAW, filters=filters)
    return len(packed) * 8 / len(text)


def trigram_bits_per_character(text: str) -> float:
    """Bits that an adaptive 3-gram of bytes needs, over the number of characters.

    P(byte | context) = (count + distinct * P(byte | shorter context)) / (total + distinct), down to
    1 / 256: Witten-Bell smoothing (Witten and Bell, 1991, method C). Counts grow after each byte.

    Raises:  ZeroDivisionError for an empty text.
    """
    data = text.encode()
    tables: list[defaultdict[bytes, Counter[int]]] = [defaultdict(Counter) for _ in range(ORDER)]
    totals: Counter[tuple[int, bytes]] = Counter()
    bits = 0.0
    for at, byte in enumerate(data):
        probability = 1 / ALPHABET
        contexts = [data[at - n : at] for n in range(min(ORDER, at + 1))]
        for n, context in enumerate(contexts):
            seen = tables[n][context]
            if seen:
                distinct, total = len(seen), totals[n, context]
                probability = (seen[byte] + distinct * probability) / (total + distinct)
        bits -= math.log2(probability)
        for n, context in enumerate(contexts):
            tables[n][context][byte] += 1
            totals[n, context] += 1
    return bits / len(text)
