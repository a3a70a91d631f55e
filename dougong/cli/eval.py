"""`dougong eval`: what a model can do, measured on texts and tasks that training never saw."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options

PIPE_WIDTH = 140  # columns of the table where no terminal says how wide it is

if TYPE_CHECKING:
    from dougong.train.evaluation.subject import Subject


@click.command("eval")
@click.argument("model", metavar="MODEL", default="nano")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="Run this suite only; may be given several times. [default: all]",
)
@click.option("--quick", is_flag=True, help="Ask a small part, for a first look.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws other tasks of the same kinds.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for evaluation.json and evaluation.png, one page of plots.",
)
@click.option(
    "--card",
    is_flag=True,
    help="Write both into the model's folder, and table, failures and samples into its card.",
)
@click.option(
    "--data",
    default="~/.cache/dougong/data",
    show_default=True,
    help="Where `dougong train` keeps the texts that it fetched.",
)
@options.serving_backend_option
@options.fallback_option
@options.serving_dtype_option
@options.serving_rounding_option
@options.threads_option
@options.json_option
def command(
    suites: tuple[str, ...],
    quick: bool,
    seed: int,
    out: Path | None,
    card: bool,
    data: str,
    as_json: bool,
    **words: Any,
) -> None:
    """Evaluate a model: held-out text, loss by position, needles, tasks of every trained family,
    problems of reasoning-gym, memorization; samples of what it says.

    Answers are greedy; the same model, seed and backend give the same figures. A suite that needs
    something which is not here says what, and the others run. docs/evaluation.md explains every
    suite and key.

    \b
    Examples:
      dougong eval nano --quick
      dougong eval runs/nano/model --suite needle --suite position --out runs/nano/evaluation
      dougong eval nano --card

    \b
    JSON: version, seed, quick, model (model, backend, dtype, rounding, parameters,
    weights_sha256), suites (by name), left_out (suite and reason), seconds, files
    """
    from dougong.checkpoint.locate import find_checkpoint
    from dougong.train.evaluation.card import update_card, write_files
    from dougong.train.evaluation.suites import check_names, evaluate

    names = check_names(suites)
    folder = find_checkpoint(words["model"])
    how = options.chosen(words)
    subject = prepare(words, quick=quick, seed=seed, data=data)
    began = time.perf_counter()
    results = {**evaluate(subject, names), "model": {**how, **described(folder)}}
    seconds = round(time.perf_counter() - began, 1)
    files = [] if out is None else write_files(results, out)
    if card:
        files += [*write_files(results, folder), update_card(folder)]
    report = {**results, "seconds": seconds, "files": [path.as_posix() for path in files]}
    if as_json:
        options.emit(report, as_json, "")
    else:
        show(report)


def described(folder: Path) -> dict[str, Any]:
    """What the results say of the weights."""
    from dougong.checkpoint import parameters
    from dougong.config import load_config
    from dougong.train.evaluation.suites import weights_sha256

    count = sum(parameter.count for parameter in parameters(load_config(folder)))
    return {"parameters": count, "weights_sha256": weights_sha256(folder)}


def prepare(words: dict[str, Any], *, quick: bool, seed: int, data: str) -> Subject:
    """Loads the model that `words` name."""
    from dougong.train.evaluation.subject import Subject

    model = options.load(words)
    progress = options.Progress("", "done")

    def say(what: str, done: int, total: int) -> None:
        nonlocal progress
        if what != progress.what:  # another thing is being done: the same line goes on with it
            shown_s = progress.shown_s
            progress = options.Progress(what, "done")
            progress.shown_s = shown_s
        progress.update(done, total)

    return Subject(
        model=model.transformer,
        tokenizer=model.tokenizer,
        context_tokens=model.config.max_position_embeddings,
        folder=Path(data).expanduser(),
        seed=seed,
        quick=quick,
        say=say,
    )


def show(report: dict[str, Any]) -> None:
    """The table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dougong.train.evaluation.table import HEAD, rows

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (HEAD.suite, HEAD.what, HEAD.figure, HEAD.beside):
        table.add_column(name)
    last = ""
    for row in rows(report):
        suite = "" if row.suite == last else row.suite
        table.add_row(*(Text(cell) for cell in (suite, row.what, row.figure, row.beside)))
        last = row.suite
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)
    files = f"; written: {', '.join(report['files'])}" if report["files"] else ""
    console.print(Text(f"{report['seconds']} s{files}"))
