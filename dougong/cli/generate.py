"""`dougong generate`: one prompt, one answer; or a file of requests, a file of answers."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dougong.cli import options
from dougong.errors import InputError

# What goes with --batch; each line of the file says the rest for itself.
_WITH_BATCH = {
    "batch", "out", "memory_tokens", "trace", "as_json", "model", "backend", "no_fallback", "dtype",
    "rounding", "memory", "threads", "profile",
}  # fmt: skip
_ONLY_BATCH = {"out", "memory_tokens", "trace"}


@click.command("generate")
@click.argument("prompt", required=False)
@options.model_options
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text instead of answering it.")
@options.asking_options
@click.option(
    "--batch",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE.jsonl",
    help="Answer every request of this file, in OpenAI's batch layout, instead of PROMPT.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE.jsonl",
    help="Where the answers to --batch go. Answers that it holds already are kept.",
)
@options.memory_tokens_option
@options.trace_option
@options.json_option
def command(prompt: str | None, as_json: bool, **words: Any) -> None:
    """Answer PROMPT; `-` reads it from stdin.

    The answer goes to stdout as it is written; reasoning and speed go to stderr. With --batch, each
    line of a file is a request and becomes a line of another; a run that was interrupted or killed
    goes on where it stopped. The format of the lines: docs/serving.md.

    \b
    Examples:
      dougong generate "Tell me a story about a fox." --seed 3
      echo "Once upon a time" | dougong generate - --raw --temperature 0
      dougong generate --batch requests.jsonl --out answers.jsonl

    \b
    JSON: model, backend, dtype, rounding, text, reasoning, finish_reason (stop, length), ids,
    prompt_tokens, reused_tokens, prefill_s, decode_s, tokens_per_s, experts (with --memory: slots,
    experts, uses, reads, bytes_read, disk_bytes_per_s, read_s, waited_s); with --batch: model,
    backend, dtype, rounding, out, requests, kept, answered, failed, prompt_tokens, cached_tokens,
    completion_tokens, seconds
    """
    batch, out = words.pop("batch"), words.pop("out")
    engine = {name: words.pop(name) for name in ("memory_tokens", "trace")}
    _check_words(batch, out, prompt)
    if batch is not None:
        run_batch(batch, out, engine, as_json, words)
        return
    if prompt == "-":
        prompt = sys.stdin.read().removesuffix("\n")
    if not prompt:
        raise InputError("PROMPT is empty; write what the model should answer or continue.")
    how = options.chosen(words)
    model = options.load(words)
    from dougong.cli.show import as_report, ask, summary

    answer = ask(model, prompt, silent=as_json, **words)
    if as_json:
        click.echo(json.dumps({**how, **as_report(answer)}, ensure_ascii=False))
    else:
        click.echo(summary(answer), err=True)


def _check_words(batch: Path | None, out: Path | None, prompt: str | None) -> None:
    """One prompt, or a file of requests with a file for the answers; not something of both."""
    context = click.get_current_context()
    typed = {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if batch is None:
        wrong, why = typed & _ONLY_BATCH, "belongs to --batch"
        if prompt is None and not wrong:
            raise click.UsageError("Missing argument 'PROMPT', or --batch.", context)
    else:
        wrong, why = typed - _WITH_BATCH, "does not go with --batch, whose lines say that"
        if out is None:
            raise click.UsageError("--batch needs --out, the file for the answers.", context)
    if wrong:
        name = sorted(wrong)[0]
        spelled = "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"
        raise click.UsageError(f"{spelled} {why}.", context)


def run_batch(
    batch: Path, out: Path, settings: dict[str, Any], as_json: bool, words: dict[str, Any]
) -> None:
    """Answers a file of requests into another, with progress on stderr; `settings` of `Engine`."""
    how, profile = options.chosen(words), words["profile"]
    model = options.load(words)
    from dougong.api_engine import Engine
    from dougong.server.batch import BatchRun

    name = options.served_name(how["model"])
    progress, start_s = options.Progress("answering", "requests"), time.monotonic()
    try:
        with Engine(model, **settings) as engine:
            run = BatchRun(engine, name, batch, out, profile=profile)
            totals = run.run(progress.update)
    finally:
        progress.close()
    options.mention_fault(engine)
    seconds = time.monotonic() - start_s
    report = {**how, "out": str(out), **vars(totals), "seconds": round(seconds, 3)}
    kept = f", {totals.kept:,} kept from before" if totals.kept else ""
    text = (
        f"{out}: {totals.answered:,} of {totals.requests:,} requests answered, {totals.failed:,} "
        f"refused or failed{kept}; {totals.completion_tokens:,} tokens written in {seconds:.1f} s"
    )
    options.emit(report, as_json, text)
