"""Both languages complete: the same figures in the same order, and no sentence left in English."""

from __future__ import annotations

import re

import pytest
from justhtml import JustHTML

from dougong.errors import InputError
from dougong.plan.report.exhibit import Prose
from dougong.plan.report.text import Text, content, phrase

SENTENCE = re.compile(r"(?:\b[a-z]{3,}\b[ ,;]+){3}\b[a-z]{3,}\b")
CJK = re.compile(r"[\u4e00-\u9fff]")
# Words of mainland usage that a reader in Taiwan would notice first.
MAINLAND = ("軟件", "硬件", "內存", "帶寬", "芯片", "緩存", "推理服務", "數據", "默認", "視頻")


def test_both_languages_show_the_same_figures_in_the_same_order(
    page: JustHTML, words: type
) -> None:
    english, chinese = page.query("article")
    kinds = [
        [sorted(words.classes(cell)) for cell in article.query("td .cell, p .cell, dd .cell")]
        for article in (english, chinese)
    ]
    assert len(kinds[0]) > 1000
    assert kinds[0] == kinds[1]


def test_no_sentence_of_the_chinese_article_is_english(page: JustHTML, words: type) -> None:
    chinese = page.query("article")[1]
    text = "\n".join(words.pieces(chinese, {"mark", "name", "languages"}))
    assert len(CJK.findall(text)) > 8000
    assert [m.group() for m in SENTENCE.finditer(text)] == []


def test_every_prose_block_of_the_english_article_is_english(page: JustHTML, words: type) -> None:
    english = page.query("article")[0]
    text = "".join(words.pieces(english, {"languages"}))
    assert CJK.findall(text) == []


def test_the_chinese_is_traditional_and_taiwan_s(page: JustHTML, words: type) -> None:
    text = "".join(words.pieces(page.query("article")[1], {"mark"}))
    # Big5, Taiwan's own character set, holds no simplified form.
    simplified = [c for c in set(CJK.findall(text)) if not c.encode("big5", "ignore")]
    assert simplified == []
    assert [word for word in MAINLAND if word in text] == []


def test_a_string_in_one_language_only_is_refused() -> None:
    with pytest.raises(InputError, match="lacks a language"):
        Text("words", "")


def test_languages_that_name_different_figures_are_refused() -> None:
    with pytest.raises(InputError, match="different figures"):
        Text("{a} of {b}", "{a} 之")


def test_prose_whose_figures_are_missing_is_refused() -> None:
    with pytest.raises(InputError, match="is given"):
        Prose(Text("{a}", "{a}"), {})


def test_a_cited_phrase_without_translation_is_refused_and_a_name_is_not() -> None:
    with pytest.raises(InputError, match=r"vocabulary\.csv"):
        phrase("nobody has translated this sentence")
    assert phrase("MXFP4") == Text("MXFP4", "MXFP4")


def test_wrapped_lines_join_with_spaces_in_english_and_without_in_chinese() -> None:
    both = content("frame")["disclaimer"]
    assert "\n" not in both.en + both.zh
    assert "  " not in both.en
    assert "解答。我們" in both.zh
