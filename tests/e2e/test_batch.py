"""`dougong generate --batch`: every line answered once, whatever it holds and whatever happens."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dougong
from dougong.cli.main import run
from dougong.errors import InputError
from dougong.server.batch import BatchRun


@pytest.fixture(scope="module")
def engine() -> Iterator[dougong.Engine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dougong.Engine("nano") as started:
        yield started
    torch.set_num_threads(threads)


def line(custom_id: str, text: str = "Tell me a story.", **body: Any) -> str:
    request = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **body}
    return json.dumps(
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": request,
        }
    )


def rows(path: Path) -> dict[Any, dict[str, Any]]:
    found = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["id"] for row in found}) == len(found)
    return {row["custom_id"] or row["id"].split("_")[2]: row for row in found}


def choices(path: Path) -> dict[Any, Any]:
    return {key: row["response"]["body"]["choices"] for key, row in rows(path).items()}


def test_each_line_gets_the_answer_that_it_gets_alone(
    engine: dougong.Engine, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        "\n".join(line(f"r{i}", f"What is {i} + 3 ?", seed=i, n=2, logprobs=True) for i in range(9))
    )
    totals = BatchRun(engine, "nano", source, out).run()
    assert (totals.requests, totals.answered, totals.failed) == (9, 9, 0)
    found = choices(out)
    for i in range(9):
        alone = engine.generate([f"What is {i} + 3 ?"], max_tokens=8, seed=i, n=2, logprobs=0)
        assert [choice["message"]["content"] for choice in found[f"r{i}"]] == [
            answer.text for answer in alone
        ]
        assert [
            [entry["logprob"] for entry in choice["logprobs"]["content"]]
            for choice in found[f"r{i}"]
        ] == [[entry.logprob for entry in answer.logprobs if entry.token != 1] for answer in alone]


BAD = {
    "{": "not valid JSON",
    "[1]": "expected an object",
    '{"custom_id": 3}': "custom_id must be a string",
    line("good"): "is line 1's already",
    line("stream", stream=True): "a batch is not streamed",
    line("model", model="gpt-9"): "this is 'nano'",
    line("field", wisdom=3): "'wisdom' is no field",
    line("long", max_tokens=10**7): "do not fit",
    line("bias", logit_bias={"99999999": 1}): "logit_bias names id 99999999",
    line("stops", stop_token_ids=[-1]): "stop_token_ids names id -1",
    line("hot", temperature="high"): "temperature is 'high'",
    line("role").replace('"user"', '"poet"'): "use one of",
    line("url").replace("/v1/chat", "/v2/chat"): "expected POST /v1/chat/completions",
}


def test_a_bad_line_gets_one_clear_error_and_costs_no_other_its_answer(
    engine: dougong.Engine, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([line("good"), *BAD, "", line("last")]))
    totals = BatchRun(engine, "nano", source, out).run()
    assert (totals.requests, totals.answered, totals.failed) == (len(BAD) + 2, 2, len(BAD))
    found = rows(out)
    assert len(found) == len(BAD) + 2
    by_number = {int(row["id"].split("_")[2]): row for row in found.values()}
    for number, sentence in enumerate(BAD.values(), 2):
        row = by_number[number]
        error = row["error"] or row["response"]["body"]["error"]
        assert error["message"].startswith(f"line {number}: ")
        assert sentence in error["message"]
        assert row["response"] is None or row["response"]["status_code"] == 400


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.binary(max_size=30)
        | st.sampled_from([line("a", max_tokens=1).encode(), line("b", max_tokens=1).encode()]),
        max_size=6,
    )
)
def test_any_bytes_give_one_line_for_each_line(
    engine: dougong.Engine, tmp_path: Path, lines: list[bytes]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(lines))
    out.unlink(missing_ok=True)
    expected = [text for text in source.read_bytes().split(b"\n") if text.strip()]
    totals = BatchRun(engine, "nano", source, out).run()
    assert totals.answered + totals.failed == totals.requests == len(expected)
    written = out.read_bytes()
    assert written.count(b"\n") == len(expected)
    again = BatchRun(engine, "nano", source, out).run()
    assert (again.kept, again.answered, again.failed) == (len(expected), 0, 0)
    assert out.read_bytes() == written


def test_after_kill_9_answers_are_kept_and_the_others_get_the_same_tokens(tmp_path: Path) -> None:
    source, out, whole = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "whole.jsonl"))
    source.write_text("\n".join(line(f"r{i}", seed=i, max_tokens=8 + 20 * i) for i in range(8)))
    argv = ["generate", "--batch", str(source), "--threads", "1", "--out"]
    process = subprocess.Popen([sys.executable, "-m", "dougong.cli.main", *argv, str(out)])
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = [text for text in out.read_bytes().splitlines(keepends=True) if text.endswith(b"\n")]
    with out.open("ab") as file:  # what a kill in the middle of a line leaves
        file.write(b'{"id": "batch_req_')
    assert run([*argv, str(out)]) == 0
    assert run([*argv, str(whole)]) == 0
    assert out.read_bytes().startswith(b"".join(before))
    assert 2 <= len(before) < 8
    assert choices(out) == choices(whole)
    assert len(rows(out)) == 8


def test_answers_of_other_requests_are_never_mixed(engine: dougong.Engine, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    BatchRun(engine, "nano", source, out).run()
    with (
        dougong.Engine("nano", dtype="float32") as other,
        pytest.raises(InputError, match="computes otherwise"),
    ):
        BatchRun(other, "nano", source, out).run()
    source.write_text(line("a", seed=2))
    with pytest.raises(InputError, match="answers to other requests"):
        BatchRun(engine, "nano", source, out).run()
    with out.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            BatchRun(engine, "nano", source, out).run()


def test_words_that_do_not_go_together_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (["--batch", "in.jsonl"], "--batch needs --out"),
        (["hi", "--out", "x"], "--out belongs to --batch"),
        (["--batch", "in.jsonl", "--out", "x", "--seed", "3"], "--seed does not go with --batch"),
        (["hi", "--batch", "in.jsonl", "--out", "x"], "PROMPT does not go with --batch"),
        ([], "Missing argument 'PROMPT'"),
    ):
        assert run(["generate", *words]) == 2
        assert sentence in capfd.readouterr().err
