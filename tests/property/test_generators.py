"""Training data, whatever the seed: right sums, stories as asked for, nothing reserved."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.train.data.arithmetic import arithmetic, sum_or_difference, word_problem
from dougong.train.data.mixture import OWN_FAMILIES
from dougong.train.data.retrieval import EVAL_NAMES, list_work, needle, who_has_what
from dougong.train.data.sample import Turn, is_reserved
from dougong.train.data.stories import (
    PRONOUNS,
    Character,
    grammar,
    pair_is_reserved,
    story,
    tell,
    with_article,
)
from dougong.train.data.talk import simple_facts, small_talk

seeds = st.integers(0, 2**32)
EQUATION = re.compile(r"(\d+) ([-+x]) (\d+) = (\d+)")
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "x": int.__mul__}


def turn_of(generator, seed):
    return generator(random.Random(seed)).turns[-1]


@pytest.mark.parametrize("name", OWN_FAMILIES)
def test_sample_is_a_function_of_its_seed(name: str) -> None:
    generator = OWN_FAMILIES[name]
    drawn = [generator(random.Random(seed)) for seed in range(40)]
    assert drawn == [generator(random.Random(seed)) for seed in range(40)]
    assert len({repr(sample) for sample in drawn}) > 20


@pytest.mark.parametrize("name", OWN_FAMILIES)
@given(seed=seeds)
def test_no_text_is_empty_or_has_an_open_field(name: str, seed: int) -> None:
    sample = OWN_FAMILIES[name](random.Random(seed))
    assert bool(sample.turns) != bool(sample.text)
    for turn in sample.turns or (Turn("-", sample.text),):
        for text in (turn.question, turn.answer, turn.thinking or "-"):
            assert text.strip() == text != ""
            assert not set(text) & set("{}|_")
            assert "  " not in text


@given(seed=seeds)
def test_every_equation_is_right(seed: int) -> None:
    turn = turn_of(arithmetic, seed)
    for a, sign, b, result in EQUATION.findall(f"{turn.thinking} {turn.answer}"):
        assert OPERATIONS[sign](int(a), int(b)) == int(result)


@given(seed=seeds)
def test_sums_answer_what_was_asked_and_reserve_operands(seed: int) -> None:
    turn = turn_of(sum_or_difference, seed)
    asked = re.search(r"(\d+) ([-+]) (\d+)", turn.question).groups()
    answered = EQUATION.fullmatch(turn.answer.rstrip(".")).groups()
    assert answered[:3] == asked
    assert not is_reserved("sum", *asked)
    if turn.thinking is not None:
        assert turn.thinking.endswith(f"= {answered[3]}.")


@given(seed=seeds)
def test_word_problem_counts_right(seed: int) -> None:
    turn = turn_of(word_problem, seed)
    a, b = map(int, re.findall(r"\d+", turn.question))
    gains = re.search(r"gets|finds|buys", turn.question)
    sign = "+" if gains else "-"
    assert int(re.search(r"\d+", turn.answer)[0]) == OPERATIONS[sign](a, b)
    assert not is_reserved("sum", a, sign, b)


@given(seed=seeds)
def test_story_uses_the_words_of_its_request(seed: int) -> None:
    turn = turn_of(story, seed)
    asked = re.findall(r"\ban? (\w+)", turn.question.replace("a story", "").replace("a short", ""))
    nouns = set(grammar()["animals"]) | set(grammar()["objects"]) | {"boy", "girl"}
    told = set(re.findall(r"\w+", turn.answer))
    assert set(asked) & nouns <= told


@given(seed=seeds)
def test_story_never_pairs_reserved_words(seed: int) -> None:
    """The main character comes first; the object is the only one of the objects named."""
    text = turn_of(story, seed).answer
    hero = re.search(r"\ban? \w+ (\w+)", text, re.IGNORECASE)[1]
    things = [thing for thing in grammar()["objects"] if re.search(rf"\b{thing}\b", text)]
    assert any(not pair_is_reserved(hero, thing) for thing in things)


@given(seed=seeds, genders=st.sampled_from([("boy", "girl"), ("girl", "boy")]))
def test_pronouns_agree_with_their_character(seed: int, genders: tuple[str, str]) -> None:
    """Told about two heroes of one gender, only that gender's pronouns appear."""
    gender, other = genders
    a = Character("fox", None, gender, "small")
    b = Character("owl", None, gender, "kind")
    text = tell(random.Random(seed), a, b, "drum")
    # an old king and a snowman are no characters
    text = re.sub(r'" (he|she) said|the king gave|"He needs a \w+,"', "", text)
    foreign = set(PRONOUNS[other].values()) - set(PRONOUNS[gender].values())
    told = {word.lower() for word in re.findall(r"\w+", text)}
    snowman = {"him"} if "snowman" in told else set()
    assert not told & (foreign - snowman)


@given(seed=seeds)
def test_articles_fit_the_next_word(seed: int) -> None:
    turn = turn_of(story, seed)
    for article, word in re.findall(r"\b([Aa]n?) (\w+)", f"{turn.question} {turn.answer}"):
        assert (article.lower() == "an") == (word[0].lower() in "aeiou"), f"{article} {word}"


@given(seed=seeds)
def test_numbers_asked_for_stand_in_the_text(seed: int) -> None:
    turn = turn_of(needle, seed)
    name, code = re.search(r"of (\w+) is (\d{4})\.$", turn.answer).groups()
    assert f"of {name} is {code}." in turn.question
    assert turn.question.endswith(f"of {name}?")
    assert not set(EVAL_NAMES) & set(re.findall(r"\w+", turn.question))


@given(seed=seeds)
def test_who_has_what_is_read_off_the_text(seed: int) -> None:
    turn = turn_of(who_has_what, seed)
    name, thing = re.search(r"^(\w+) has (?:an?|the)(?: \w+)? (\w+)\.$", turn.answer).groups()
    assert re.search(rf"\b{name} has an? \w+ {thing}\.", turn.question)


@given(seed=seeds)
def test_list_answers_hold_only_words_of_the_list(seed: int) -> None:
    turn = turn_of(list_work, seed)
    words = set(re.findall(r"\w+", turn.question))
    fixed = {"The", "is", "word"}
    assert {word.lower() for word in re.findall(r"\w+", turn.answer)} - {"the"} <= words | fixed


@given(seed=seeds)
def test_talk_answers_in_sentences(seed: int) -> None:
    for generator in (small_talk, simple_facts):
        for turn in generator(random.Random(seed)).turns:
            assert turn.answer[-1] in ".!?"
            assert turn.answer[0].isupper()


def test_plots_and_stories_are_many() -> None:
    plots = grammar()["plots"]
    assert len(plots) >= 20
    texts = {turn_of(story, seed).answer for seed in range(3000)}
    assert len(texts) == 3000


def test_reserved_share_is_one_in_ten() -> None:
    reserved = sum(is_reserved("sum", a, "+", b) for a in range(100) for b in range(100))
    assert 900 < reserved < 1100


@pytest.mark.parametrize(("phrase", "wanted"), [("owl", "an owl"), ("red ball", "a red ball")])
def test_article(phrase: str, wanted: str) -> None:
    assert with_article(phrase) == wanted
