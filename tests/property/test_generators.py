"""Generated tasks, whatever the seed: right answers, judges that know them, nothing reserved."""

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.chat.completion import parse
from dougong.chat.prompt import render
from dougong.train.data import arithmetic, needles, recall, stories, tool_calls, words
from dougong.train.data.families import FAMILIES
from dougong.train.data.problems import PROBLEMS
from dougong.train.data.stories import PRONOUNS, Character, grammar, pair_is_reserved, tell
from dougong.train.data.task import Task, reserved

seeds = st.integers(0, 2**32)
KINDS = [(name, kind) for name, family in FAMILIES.items() for kind in family.kinds]
EQUATION = re.compile(r"(\d+) ([-+x/]) (\d+) = (\d+)")
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "x": int.__mul__, "/": int.__floordiv__}
EVALUATION_NAMES = set(words.names(held_out=True))


def texts_of(task: Task) -> list[str]:
    """Every text of a conversation, answers and reasoning included."""
    fields = ("content", "reasoning_content")
    return [m[field] for m in (*task.messages, task.answer) for field in fields if m.get(field)]


def draw(family: str, seed: int, kind: str | None = None, held_out: bool = False) -> Task:
    rng = random.Random(seed)
    if kind is None:
        return FAMILIES[family](rng, held_out=held_out)
    return FAMILIES[family].draw(kind, rng, held_out=held_out)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_task_is_a_function_of_its_seed_and_its_judge_knows_the_answer(
    family: str, kind: str
) -> None:
    for held_out in (False, True):
        for seed in range(6):
            task, again = (draw(family, seed, kind, held_out) for _ in range(2))
            assert replace(task, judge=bool) == replace(again, judge=bool)
            assert (task.family, task.kind) == (family, kind)
            assert task.check(task.expected)


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=seeds, held_out=st.booleans())
def test_judge_accepts_the_answer_and_refuses_another(
    family: str, seed: int, held_out: bool
) -> None:
    task = draw(family, seed, held_out=held_out)
    assert task.check(task.expected)
    opening = "" if not task.thinking else "</think>"
    assert not task.check(opening)
    assert not task.check(opening + "Qwertz.")
    assert not task.thinking or not task.check(task.expected.partition("</think>")[2])


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=seeds)
def test_no_text_is_empty_or_has_an_open_field(family: str, seed: int) -> None:
    task = draw(family, seed)
    for text in texts_of(task):
        assert text.strip() == text != ""
        assert not re.search(r"\{[A-Za-z_]+\}", text)
        assert "  " not in text


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=seeds)
def test_names_for_evaluation_never_appear_in_training(family: str, seed: int) -> None:
    for text in texts_of(draw(family, seed)):
        assert not EVALUATION_NAMES & set(re.findall(r"\w+", text)), text


@pytest.mark.parametrize("family", ["arithmetic", "problems", "measures"])
@given(seed=seeds)
def test_every_equation_is_right(family: str, seed: int) -> None:
    for text in texts_of(draw(family, seed)):
        # `8 - 4 - 1 = 3` and `20 x 9 / 5 = 36` have two signs: look at those below
        for a, sign, b, result in re.findall(r"(?:^|[.,] )" + EQUATION.pattern, text):
            assert OPERATIONS[sign](int(a), int(b)) == int(result), text
        for a, plus, b, one, result in re.findall(r"(\d+) ([-+]) (\d+) [-+] (1) = (\d+)", text):
            carried = OPERATIONS[plus](OPERATIONS[plus](int(a), int(b)), int(one))
            assert carried == int(result), text


@given(a=st.integers(0, 999), b=st.integers(0, 999))
def test_column_work_reaches_the_result(a: int, b: int) -> None:
    a, b = max(a, b), min(a, b)
    assert arithmetic.addition_thought(a, b).endswith(f" {a} + {b} = {a + b}.")
    assert arithmetic.subtraction_thought(a, b).endswith(f" {a} - {b} = {a - b}.")
    # the digits written down, ones first, are the result's
    for thought, result in (
        (arithmetic.addition_thought(a, b), a + b),
        (arithmetic.subtraction_thought(a, b), a - b),
    ):
        columns = re.findall(r"= (\d+)[.,]", thought)[:-1]
        top = columns[-1] if len(columns) == len(str(a)) else "0"
        digits = "".join(column[-1] for column in columns[:-1])
        assert int(top + digits[::-1]) == result


@given(seed=seeds, held_out=st.booleans())
def test_operands_stay_on_their_side(seed: int, held_out: bool) -> None:
    kind = "three-digit sums, thinking"
    asked = draw("arithmetic", seed, kind, held_out).messages[-1]["content"]
    a, sign, b = re.search(r"(\d+) ([-+x]) (\d+)", asked).groups()
    assert arithmetic.is_kept(int(a), sign, int(b)) == held_out


@given(seed=seeds)
def test_word_problem_ends_on_its_last_equation(seed: int) -> None:
    task = PROBLEMS.draw("word problems, thinking", random.Random(seed))
    last = EQUATION.findall(task.answer["reasoning_content"])[-1][3]
    assert re.findall(r"\d+", task.answer["content"])[-1] == last
    first = EQUATION.search(task.answer["reasoning_content"])
    assert not arithmetic.is_kept(int(first[1]), first[2], int(first[3]))


@given(seed=seeds, held_out=st.booleans())
def test_story_pairs_stay_on_their_side(seed: int, held_out: bool) -> None:
    task = draw("stories", seed, "story with two words", held_out)
    asked = set(re.findall(r"\w+", task.messages[-1]["content"]))
    kinds = asked & {*grammar()["animals"], "boy", "girl"}
    things = asked & set(grammar()["objects"])
    pairs = [(a, b) for a in kinds for b in things]
    assert any(pair_is_reserved(*pair) == held_out for pair in pairs)


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
    assert not told & (foreign - snowman), text


@given(seed=seeds)
def test_every_sentence_of_a_story_begins_large_and_quotes_close(seed: int) -> None:
    text = stories.plain_story(random.Random(seed))
    assert text.count('"') % 2 == 0
    for sentence in re.split(r'(?<=[.!?]"|[^"][.!?]) ', text):
        assert re.match(r'"?[A-Z]', sentence) or re.match(r"\w+ \w+", sentence), sentence
    assert text[-1] in '.!?"'


@pytest.mark.parametrize("family", ["stories", "problems", "instructions", "recall", "needles"])
@given(seed=seeds)
def test_articles_fit_the_next_word(family: str, seed: int) -> None:
    for text in texts_of(draw(family, seed)):
        for article, word in re.findall(r"\b(an?) ([a-z]\w+)", text):
            assert (article == "an") == (word[0] in "aeiou"), f"{article} {word}"


@given(seed=seeds, keys=st.sampled_from([1, 2, 4, 8]), depth=st.sampled_from([0.0, 0.5, 1.0]))
def test_needle_stands_in_the_text_exactly_once(seed: int, keys: int, depth: float) -> None:
    task = needles.needle_task(
        random.Random(seed), keys=keys, characters=400, depth=depth, held_out=True
    )
    text = task.messages[0]["content"]
    assert text.count(task.answer["content"]) == 1
    others = [key for key in EVALUATION_NAMES if re.search(rf"\b{key}\b", text)]
    assert len(others) == keys


@pytest.mark.parametrize("family", ["needles", "haystacks"])
@given(seed=seeds, held_out=st.booleans())
def test_hidden_numbers_stay_on_their_side(family: str, seed: int, held_out: bool) -> None:
    text = draw(family, seed, "4 keys", held_out).messages[0]["content"]
    for number in re.findall(r"(?:number|code) of \w+ is (\w+)\.", text):
        assert reserved("code", number) == held_out


@given(seed=seeds)
def test_looked_up_values_are_read_off_the_text(seed: int) -> None:
    task = recall.RECALL.draw("people", random.Random(seed))
    text = task.messages[0]["content"]
    for message in (*task.messages, task.answer):
        if message["role"] == "assistant":
            assert message["content"] in text


@given(seed=seeds, held_out=st.booleans())
def test_tool_calls_parse_and_fit_their_schema(seed: int, held_out: bool) -> None:
    task = draw("tools", seed, "one call", held_out)
    declared = {tool["function"]["name"]: tool["function"] for tool in task.tools}
    completion = parse(task.expected, thinking=task.thinking)
    assert not completion.errors
    kinds = {"string": str, "integer": int, "boolean": bool}
    for made in task.answer["tool_calls"]:
        function = declared[made["function"]["name"]]
        arguments = tool_calls.json.loads(made["function"]["arguments"])
        properties = function["parameters"]["properties"]
        assert set(function["parameters"]["required"]) == set(arguments) == set(properties)
        for name, value in arguments.items():
            assert type(value) is kinds[properties[name]["type"]]


@given(seed=seeds)
def test_tools_for_evaluation_are_never_declared_in_training(seed: int) -> None:
    task = draw("tools", seed)
    for tool in task.tools:
        assert not reserved("tool", tool["function"]["name"])
    prompt = render(task.messages, **task.options)
    assert "You MUST strictly follow the above defined tool name" in prompt


@pytest.mark.parametrize("sort", ["any", "several", "names", "strangers"])
def test_many_names_of_training_cannot_be_known_by_heart(sort: str) -> None:
    def drawn(held_out: bool) -> list[str]:
        if sort == "any":
            return [words.draw_name(rng, held_out=held_out) for _ in range(1000)]
        if sort == "several":
            return [n for _ in range(200) for n in words.draw_names(rng, 5, held_out=held_out)]
        return [recall.draw_word(rng, sort, held_out) for _ in range(1000)]

    rng = random.Random(3)
    made_up = sum(name not in words.names() for name in drawn(False))
    # four standard deviations of 1,000 draws are 62; different ones of five repeat real names less
    assert abs(made_up - 1000 * words.MADE_UP_NAMES) < 70
    if sort != "any":
        assert set(drawn(True)) <= EVALUATION_NAMES


def test_many_tools_of_training_cannot_be_known_by_heart() -> None:
    rows = {name for row in words.table("tools")["tool"] for name in row["names"]}
    drawn = [draw("tools", seed).tools for seed in range(200)]
    named = [tool["function"]["name"] for tools in drawn for tool in tools]
    # RENAMED is 0.4; of some 400 names the share has a standard deviation of 0.025
    assert 0.3 < sum(name not in rows for name in named) / len(named) < 0.5
    held_out = draw("tools", 1, held_out=True).tools
    assert all(tool["function"]["name"] in rows for tool in held_out)


@given(seed=seeds)
def test_json_answers_have_the_keys_asked_for(seed: int) -> None:
    task = draw("json", seed, "record by schema")
    record = tool_calls.json.loads(task.answer["content"])
    assert list(record) == task.response_format["required"]
    assert set(record) == set(task.response_format["properties"])


def test_plots_and_stories_are_many() -> None:
    assert len(grammar()["plots"]) >= 40
    assert len({plot["name"] for plot in grammar()["plots"]}) == len(grammar()["plots"])
    rng = random.Random(0)
    assert len({stories.plain_story(rng) for _ in range(3000)}) == 3000


def test_about_one_in_ten_is_kept() -> None:
    kept = sum(arithmetic.is_kept(a, "+", b) for a in range(10, 110) for b in range(10, 110))
    assert 800 < kept < 1200
    every = words.names(False) + words.names(True)
    assert 0.06 < len(words.names(True)) / len(every) < 0.16


@pytest.mark.parametrize(("phrase", "wanted"), [("owl", "an owl"), ("red ball", "a red ball")])
def test_article(phrase: str, wanted: str) -> None:
    assert words.with_article(phrase) == wanted


@pytest.mark.parametrize(
    ("noun", "wanted"),
    [("box", "boxes"), ("cherry", "cherries"), ("toy", "toys"), ("wolf", "wolves")],
)
def test_plural(noun: str, wanted: str) -> None:
    assert words.plural(noun) == wanted
