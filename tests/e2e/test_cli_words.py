"""The grammar of the command line: help without torch, one line for every refusal, no traceback."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dougong.cli import main as entry
from dougong.cli import options
from dougong.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "safetensors", "tokenizers", "matplotlib")


def commands(
    group: click.Group = entry.cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())
LEAVES = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}


def refused(argv: list[str], capfd: pytest.CaptureFixture[str], status: int = 1) -> str:
    """Runs a command that must fail with one line on stderr; returns the line."""
    assert entry.run(argv) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("dougong: ")
    assert err.count("\n") == 1
    return err


def test_help_of_every_command_loads_no_heavy_module() -> None:
    # One process asks for every help in turn: a module that any of them loads is found at the end.
    program = (
        "import sys\n"
        "from dougong.cli.main import run\n"
        f"for words in {[[*path, '--help'] for path in ALL]!r} + [['--help'], ['--version']]:\n"
        "    assert run(words) == 0, words\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_help_shows_an_example(path: tuple[str, ...]) -> None:
    assert re.search(rf"^ *.*dougong {' '.join(path)}\b", ALL[path].help or "", re.MULTILINE)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_takes_json_and_says_what_is_in_it(path: tuple[str, ...]) -> None:
    assert any("--json" in option.opts for option in LEAVES[path].params)
    assert "JSON:" in (LEAVES[path].help or "")


def test_short_helps_in_the_list_are_the_commands_own() -> None:
    for path, command in ALL.items():
        parent = ALL[path[:-1]] if len(path) > 1 else entry.cli
        assert getattr(parent, "members")[path[-1]][1].endswith(".")  # noqa: B009
        assert command.name == path[-1]


def test_the_page_about_the_command_line_is_what_help_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "write_cli_docs.py"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0


def examples() -> Iterator[str]:
    """Every command line of ours in a help text, the README or a page of docs."""
    texts = [command.help or "" for command in [entry.cli, *ALL.values()]]
    texts += [path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    for text in texts:
        for line in text.splitlines():
            found = re.match(r"^(?:\.venv/bin/| {2,}| {2,}.*\| )(?:\.venv/bin/)?dougong (.*)", line)
            if found:
                yield re.split(r" [|#>] |  +", found[1])[0]


@pytest.mark.parametrize("line", sorted(set(examples())))
def test_every_example_in_help_and_pages_is_accepted(line: str) -> None:
    command: click.Command = entry.cli
    words = shlex.split(line)
    while isinstance(command, click.Group) and words[0] != "--help":
        child = command.get_command(click.Context(command), words.pop(0))
        assert child is not None, line
        command = child
    if words[:1] != ["--help"]:
        command.make_context("dougong", words)  # parses, and raises UsageError for a wrong word


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["sing"], "No such command 'sing'"),
        (["model", "sing"], "No such command 'sing'"),
        (["--loud"], "No such option '--loud'"),
        (["doctor", "--loud"], "No such option '--loud'"),
        (["doctor", "much"], "unexpected extra argument"),
        (["generate"], "Missing argument 'PROMPT'"),
        (["generate", "x", "--temperature", "-1"], "'--temperature'"),
        (["generate", "x", "--temperature", "warm"], "'--temperature'"),
        (["generate", "x", "--top-p", "0"], "'--top-p'"),
        (["generate", "x", "--seed", "-1"], "'--seed'"),
        (["generate", "x", "--max-tokens", "0"], "'--max-tokens'"),
        (["generate", "x", "--threads", "0"], "'--threads'"),
        (["generate", "x", "--dtype", "float8"], "'--dtype'"),
        (["generate", "x", "--rounding", "up"], "'--rounding'"),
        (["logits", "nano", "--out", "x"], "Missing option '--tokens'"),
        (
            ["logits", "nano", "--tokens", "x", "--out", "y", "--chunks", "1,0"],
            "'0': at least one token",
        ),
        (["logits", "nano", "--tokens", "x", "--out", "y", "--chunks", ""], "''"),
        (["model", "inspect"], "Missing argument 'MODEL'"),
        (["model", "inspect", "nano", "--context", "0"], "'--context'"),
    ],
)
def test_wrong_words_are_a_usage_error_with_the_way_out(
    argv: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refused(argv, capfd, status=2)
    assert expected in line
    assert "--help`" in line


def test_no_words_at_all_show_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert entry.run([]) == 2
    assert "Commands:" in capfd.readouterr().err


GOLDEN = ROOT / "tests" / "parity" / "golden" / "s1_sliding"
TOKENS = str(GOLDEN / "expected" / "vectors.safetensors")


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "x", "-m", "no/such"],
        ["chat", "-m", "no/such"],
        ["logits", "no/such", "--tokens", TOKENS, "--out", "out"],
        ["model", "inspect", "no/such"],
        ["model", "convert", "no/such", "out", "--layout", "official"],
    ],
    ids=lambda argv: argv[0] if argv[0] != "model" else argv[1],
)
def test_a_model_that_nobody_knows_is_refused(
    argv: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no model 'no/such'" in refused(argv, capfd)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_backend_names_those_that_exist(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["logits", str(GOLDEN), "--tokens", TOKENS, "--out", str(tmp_path / "out")]
    assert "reference" in refused([*argv, "--backend", "abacus"], capfd)


class Failing:
    """Stands in for a command's body; raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CheckpointError("first\nsecond"), 1, "dougong: first second\n"),
        (
            OSError(28, "No space left on device"),
            1,
            "dougong: [Errno 28] No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "dougong: interrupted.\n"),
        (MemoryError(), 1, "dougong: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "dougong: out of memory"),
        (UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "bad"), 1, "dougong: what was read is not"),
        (RuntimeError("a\nb"), 1, "dougong: internal error (RuntimeError: a b). This is a bug"),
    ],
)
def test_whatever_goes_wrong_is_told_in_one_line(
    error: BaseException, status: int, line: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("DOUGONG_TRACEBACK", raising=False)
    monkeypatch.setattr(entry.cli, "invoke", Failing(error))
    assert entry.run(["doctor"]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TRACEBACK", "1")
    monkeypatch.setattr(entry.cli, "invoke", Failing(RuntimeError("where")))
    with pytest.raises(RuntimeError, match="where"):
        entry.run(["doctor"])


def test_a_reader_that_goes_away_ends_the_command_in_silence() -> None:
    command = [sys.executable, "-m", "dougong.cli.main", "--help"]
    read_end, write_end = os.pipe()
    os.close(read_end)  # nobody reads: the first write fails
    with os.fdopen(write_end, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 141
    assert done.stderr == b""


def test_ctrl_c_is_one_line() -> None:
    program = (
        "import os, signal, sys, time\n"
        "class Stdin:\n"
        "    def read(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(30)\n"
        "sys.stdin = Stdin()\n"
        "from dougong.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "generate", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "dougong: interrupted.\n"


def test_doctor_reports_the_machine_as_json_and_as_text(capfd: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["doctor", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["machine"]["num_cores"] >= 1
    assert set(report["backends"]["reference"].values()) == {"native"}
    assert entry.run(["doctor"]) == 0
    assert "backend reference: " in capfd.readouterr().out


def test_progress_keeps_silent_for_two_seconds_and_then_tells_how_far(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    progress = options.Progress("reading")
    told = []
    for seconds in (1.0, 2.5, 4.0, 12.4, 12.6):
        now[0] = 100.0 + seconds
        progress.update(1, 4)
        told.append(capfd.readouterr().err)
    assert told == [
        "", "reading: 1 of 4 tokens, 8 s left\n", "", "", "reading: 1 of 4 tokens, 38 s left\n",
    ]  # fmt: skip
