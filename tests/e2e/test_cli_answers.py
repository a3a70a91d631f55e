"""`generate`, `chat` and `dougong.load` on a tiny random model: same seed, same words."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_tiny_checkpoint

import dougong
from dougong.api import Model
from dougong.chat import special
from dougong.cli import chat as chat_command
from dougong.cli import show
from dougong.cli.main import run
from dougong.errors import InputError
from dougong.machine import this_machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return dougong.load(folder)


@pytest.fixture(scope="module")
def served(folder: Path) -> Model:
    """As the command line loads it: fast and in the release's number type."""
    return dougong.load(folder, backend="cpu", dtype="bfloat16", fallback=False)


def printed(argv: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert run(argv) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    return out, err


def test_the_pieces_of_a_stream_are_the_answer(model: Model) -> None:
    stream = model.stream("Hello", max_tokens=20, seed=5)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == stream.answer.text != ""
    assert {piece.kind for piece in pieces} == {"content"}
    assert len(stream.answer.ids) == 20
    assert stream.answer.finish_reason == "length"


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(model: Model) -> None:
    answers = [model.generate("Hello", max_tokens=20, seed=seed).ids for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_an_answer_ends_at_the_end_of_sentence(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = model.generate("Hello", max_tokens=20, seed=1)
    stop = free.ids[7]
    first = free.ids.index(stop)
    monkeypatch.setattr(model.tokenizer, "eos_id", stop)
    ended = model.generate("Hello", max_tokens=20, seed=1)
    assert ended.finish_reason == "stop"
    assert ended.ids == free.ids[: first + 1]
    assert ended.text == model.tokenizer.decode(free.ids[:first])


def test_text_up_to_the_end_of_thinking_is_reasoning(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [model.tokenizer.encode(text) for text in ("a fox", special.END_THINK, "5")]
    drawn = [token for ids in words for token in ids]
    monkeypatch.setattr(Model, "_tokens", lambda *_: iter(drawn))
    stream = model.stream("What is 2+3?", thinking=True)
    kinds = [piece.kind for piece in stream]
    assert kinds == sorted(kinds, reverse=True)  # "reasoning" first, then "content"
    assert (stream.answer.reasoning, stream.answer.text) == ("a fox", "5")


def test_a_character_in_several_tokens_comes_out_whole(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = model.tokenizer.encode("é🦊")
    assert len(ids) > 2
    monkeypatch.setattr(Model, "_tokens", lambda *_: iter([*ids, ids[-1]]))
    assert [piece.text for piece in model.stream("x")] == ["é", "🦊", "\ufffd"]


def test_a_raw_prompt_is_continued_behind_one_beginning_of_sentence(model: Model) -> None:
    plain = model.encode("Once", raw=True)
    assert plain == [model.tokenizer.bos_id, *model.tokenizer.encode("Once")]
    assert model.encode(special.BOS + "Once", raw=True) == plain


def test_a_conversation_continues_from_the_last_answer(model: Model) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    answer = model.generate(messages, max_tokens=8, seed=3)
    messages += [
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "And then?"},
    ]
    again = model.generate(messages, max_tokens=8, seed=3)
    assert again.reused_tokens >= answer.prompt_tokens
    fresh = Model(model.transformer, model.folder)
    assert fresh.generate(messages, max_tokens=8, seed=3).ids == again.ids


def test_an_answer_that_was_cut_off_leaves_nothing_behind(model: Model) -> None:
    whole = model.generate("Hello", max_tokens=9, seed=4).ids
    cut = model.stream("Something else", max_tokens=9)
    next(cut)
    del cut
    assert model.generate("Hello", max_tokens=9, seed=4).ids == whole


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 2000}, "context of 1024"),
        ({"effort": "high"}, "switch thinking on"),
        ({"effort": "enormous", "thinking": True}, "enormous"),
        ({"raw": True, "thinking": True}, "raw"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_options_that_cannot_be_served_are_refused(
    model: Model, options: dict[str, object], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        model.stream("Hello", **options)  # type: ignore[arg-type]


def test_a_conversation_cannot_be_raw(model: Model) -> None:
    with pytest.raises(InputError, match="raw"):
        model.stream([{"role": "user", "content": "Hello"}], raw=True)


def test_an_unknown_number_type_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="float8"):
        dougong.load(folder, dtype="float8")


def test_generate_prints_the_answer_on_stdout_and_its_speed_on_stderr(
    folder: Path, served: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "Hello", "-m", str(folder), "--seed", "5", "--max-tokens", "12"]
    out, err = printed(argv, capfd)
    assert out == served.generate("Hello", max_tokens=12, seed=5).text + "\n"
    assert "12 written" in err
    assert "tokens/s" in err
    assert "cut off at --max-tokens" in err


def test_generate_json_is_one_object_with_the_keys_of_its_help(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon\n"))
    out, err = printed(
        ["generate", "-", "-m", str(folder), "--raw", "--max-tokens", "3", "--json"], capfd
    )
    assert err == ""
    report = json.loads(out)
    assert set(report) == {
        "model", "backend", "dtype", "rounding", "text", "reasoning", "finish_reason", "ids",
        "prompt_tokens", "reused_tokens", "prefill_s", "decode_s", "tokens_per_s", "experts",
    }  # fmt: skip
    assert len(report["ids"]) == 3


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ((), ("cpu", "bfloat16", "none")),
        (("--dtype", "float32"), ("cpu", "float32", "none")),
        (("--dtype", "float64"), ("reference", "float64", "none")),
        (("--backend", "reference"), ("reference", "float32", "none")),
        (("--rounding", "release", "--no-fallback"), ("cpu", "bfloat16", "release")),
    ],
)
def test_what_is_left_open_is_chosen_for_speed_and_said(
    words: tuple[str, ...], how: tuple[str, ...], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "Hello", "-m", str(folder), "--max-tokens", "2", "--json", *words]
    report = json.loads(printed(argv, capfd)[0])
    assert (report["backend"], report["dtype"], report["rounding"]) == how


def test_an_empty_prompt_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", ""]) == 1
    assert "PROMPT is empty" in capfd.readouterr().err


def test_chat_answers_every_line_of_a_pipe_and_forgets_when_asked(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["chat", "-m", str(folder), "--max-tokens", "6", "--system", "Be brief.", "--json"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n\n/new\nHello\nAnd then?\n"))
    report = json.loads(printed(argv, capfd)[0])
    roles = [message["role"] for message in report["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    first, again, next_turn = report["answers"]
    assert first["ids"] == again["ids"]
    assert next_turn["prompt_tokens"] > first["prompt_tokens"]


def test_chat_on_a_pipe_prints_one_answer_after_another(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nHello\n"))
    out, err = printed(["chat", "-m", str(folder), "--max-tokens", "4"], capfd)
    assert out.endswith("\n")
    assert err.count("tokens/s") == 2


def test_reasoning_is_kept_apart_on_the_screen_and_in_the_conversation(
    model: Model, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [model.tokenizer.encode(text) for text in ("2+3 is 5", special.END_THINK, "It is 5.")]
    monkeypatch.setattr(Model, "_tokens", lambda *_: iter([i for ids in words for i in ids]))
    answer = show.ask(model, "What is 2+3?", silent=False, thinking=True)
    out, err = capfd.readouterr()
    assert (out, err) == ("It is 5.\n", "2+3 is 5\n\n")
    assert chat_command.turn(answer) == {
        "role": "assistant", "content": "It is 5.", "reasoning_content": "2+3 is 5",
    }  # fmt: skip


def test_a_terminal_is_shown_no_control_characters(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show.write("a\x1b[31mb\tc\n\x9b2J\r", reasoning=False)
    assert capfd.readouterr().out == "a[31mb\tc\n2J"


def test_a_terminal_is_asked_for_each_line_and_ctrl_c_cuts_only_the_answer(
    model: Model, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["Hello", "  ", "And then?"])

    def type_line(asked: str) -> str:
        assert asked == "> "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    presses = iter([True, False])
    ask = show.ask

    def interrupted_once(*args: Any, **options: Any) -> Any:
        if next(presses):
            raise KeyboardInterrupt
        return ask(*args, **options)

    monkeypatch.setattr(show, "ask", interrupted_once)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", type_line)
    messages, answers = chat_command.converse(model, [], silent=True, asking={"max_tokens": 3})
    assert [message["content"] for message in messages if message["role"] == "user"] == [
        "And then?"
    ]
    assert len(answers) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_input_that_is_not_utf_8_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    assert run(["generate", "-"]) == 1
    assert capfd.readouterr().err == "dougong: what was read is not valid utf-8 (byte 1).\n"


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(this_machine(), available_bytes=2**16)
    monkeypatch.setattr("dougong.machine.this_machine", lambda: small)
    with pytest.raises(InputError, match=r"needs 0\.0 GiB of memory .* try bfloat16"):
        dougong.load(folder)
