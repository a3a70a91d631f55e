"""The reader's test: the report alone answers ten questions, in both languages.

Expected answers are not taken from the report's own code: they stand in the published sources or
follow from them by the arithmetic beside them.
"""

from __future__ import annotations

import re

import pytest
from justhtml import JustHTML

QUESTIONS = {
    # codesota: 13.0 + 12.7 + 9.5 + 6.3 + 6.0 + 4.8 % of tokens; 9.0 + 4.6 + 2.1 + 0.9 + 5.2 + 0.4 %
    "What share of OpenRouter's tokens and dollars do the Chinese labs have?": (
        r"carried 52\.3% of the tokens but only 22\.2% of the dollars",
        r"承載了 52\.3% 的 token，卻只拿到 22\.2% 的金額",
    ),
    # 864,704,792,696 bytes; 1,572,997,201,763 parameters x 2 bytes
    "How large is V4-Pro as released, and how large in BF16?": (
        r"fit 865\s?GB; converted to BF16 .* take 3,150\s?GB",
        r"僅占 865\s?GB；.*則需 3,150\s?GB",
    ),
    # 48,068 B x 2^20 = 50.4 GB; 5,031 and 3,514 B a token and the fixed states
    "How much cache does a request of a million tokens hold?": (
        r"V3\.2 request holds 50\.4\s?GB of cache; V4-Pro needs 10\.5% .* V4-Flash 7\.3\d%",
        r"50\.4\s?GB 快取；V4-Pro 只需其 10\.5%，V4-Flash 只需 7\.3\d%",
    ),
    # the technical report: 27 % and 10 %
    "What does a decoded token cost at a million tokens, against V3.2?": (
        r"costs 26\.7% \(Pro\) and 10\.1% \(Flash\) of V3\.2’s FLOPs",
        r"V3\.2 的 26\.7%（Pro）與 10\.1%（Flash）",
    ),
    # 2d with d = 3,072; 1,978.9 TFLOP/s over 200 GB/s = 9,894 FLOP/B; 6,144 / 9,894 = 62.1 %
    "Which chip cannot hide V4-Pro's expert traffic at peak, and when can it?": (
        r"the H800 needs to run below 62\.1% of its peak",
        r"H800 則須低於峰值的 62\.1%",
    ),
    # x = 5,000 / 6,144 = 0.814: 3x / (2x - 1) = 3.89, so four
    "How many waves does a B200 need to beat the two-stage overlap?": (
        r"B200 5,000 1\.22 0\.814 1\.50× 1\.65× 1\.73× 4 100% 732\s?GB/s",
    )
    * 2,
    # 11,200 / (8 + 1) = 1,244 against 1,727
    "Is a GB300 really six times as fast as a 950DT?": (
        r"looks 6\.48× as fast as a 950DT; in the same unit it is 0\.720×",
        r"看似是 950DT 的 6\.48×；換成相同單位則為 0\.720×",
    ),
    # (3 x 0.435 + 0.87) / (3 x 5 + 25) = 5.44 %; 80.6 / 80.8 = 99.8 %
    "What does V4-Pro give for which price, against the closed leader?": (
        r"reaches 99\.8% of the closed leader’s score at 5\.44% of its token price",
        r"領先者得分的 99\.8%，token 價格僅其 5\.44%",
    ),
    # 0.28 x 6,017.7 x 3,600 / 10^6 = 6.07; 0.28 x 159.49 x 3,600 / 10^6 = 0.161
    "At which rental does decoding V4-Flash break even at list price?": (
        r"breaks even at 6\.07\s?US\$/h per 950DT-hour, at batch 16 at 0\.161\s?US\$/h",
        r"每 950DT 小時 6\.07\s?US\$/h，批次 16 時僅 0\.161\s?US\$/h",
    ),
    # 1 - 129.7 / 159.49
    "What does going from 8K to 1M context cost on sixteen 950DT?": (
        r"going from 8K to 1M context costs V4-Flash only 18\.7%",
        r"由 8K 增至 1M，僅損失 18\.7%",
    ),
}


@pytest.mark.parametrize("language", [0, 1], ids=["en", "zh-Hant"])
@pytest.mark.parametrize("question", list(QUESTIONS))
def test_the_report_alone_answers(
    question: str, language: int, page: JustHTML, words: type
) -> None:
    text = words.read(page.query("article")[language])
    assert re.search(QUESTIONS[question][language], text), question


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) == 10
