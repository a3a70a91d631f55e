"""`dougong generate`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from dougong.cli import options
from dougong.errors import InputError


@click.command("generate")
@click.argument("prompt")
@options.model_options
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text instead of answering it.")
@options.asking_options
@options.json_option
def command(prompt: str, as_json: bool, **words: Any) -> None:
    """Answer PROMPT; `-` reads it from stdin.

    The answer goes to stdout as it is written; reasoning and speed go to stderr.

    \b
    Examples:
      dougong generate "Tell me a story about a fox." --seed 3
      echo "Once upon a time" | dougong generate - --raw --temperature 0

    \b
    JSON: model, backend, dtype, rounding, text, reasoning, finish_reason (stop, length), ids,
    prompt_tokens, reused_tokens, prefill_s, decode_s, tokens_per_s, experts (with --memory: slots,
    experts, uses, reads, bytes_read, disk_bytes_per_s, read_s, waited_s)
    """
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
