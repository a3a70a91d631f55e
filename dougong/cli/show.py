"""An answer on the screen: content on stdout as it is written, reasoning dim on stderr."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options

if TYPE_CHECKING:
    from dougong.api import Answer, Model, Prompt
    from dougong.model.expert_cache import Traffic

# A model's words must not move the cursor or recolour the terminal: no control characters.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def ask(model: Model, prompt: Prompt, *, silent: bool, **asking: Any) -> Answer:
    """Streams the answer to the screen (or nowhere, if `silent`) and returns it when it is whole.

    Ctrl-C raises KeyboardInterrupt after the line has been ended.
    """
    progress = options.Progress("reading the prompt")
    stream = model.stream(prompt, report=progress.update, **asking)
    last_kind = None
    try:
        for piece in stream:
            progress.close()
            if silent:
                continue
            if last_kind == "reasoning" and piece.kind == "content":
                click.echo("\n", err=True)
            write(piece.text, reasoning=piece.kind == "reasoning")
            last_kind = piece.kind
    finally:
        progress.close()
        if last_kind is not None:
            click.echo(err=last_kind == "reasoning")
    return stream.answer


def write(text: str, *, reasoning: bool) -> None:
    """Writes a piece at once. A terminal gets no control characters, a pipe gets every byte."""
    if (sys.stderr if reasoning else sys.stdout).isatty():
        text = _CONTROL.sub("", text)
    click.echo(click.style(text, dim=True) if reasoning else text, nl=False, err=reasoning)


def summary(answer: Answer) -> str:
    """How much was read and written, how fast, and why it ended."""
    read = answer.prompt_tokens - answer.reused_tokens
    kept = f" ({answer.reused_tokens} kept from before)" if answer.reused_tokens else ""
    ended = ", cut off at --max-tokens" if answer.finish_reason == "length" else ""
    return (
        f"[{read} tokens read{kept} in {answer.prefill_s:.2f} s, {len(answer.ids)} written "
        f"at {answer.tokens_per_s:.1f} tokens/s{ended}{disk(answer.experts)}]"
    )


def disk(experts: Traffic | None) -> str:
    """What a memory budget cost: bytes read for missing experts, and how fast they came."""
    if experts is None:
        return ""
    return (
        f"; {experts.reads:,} of {experts.uses:,} experts read, {experts.bytes_read / 1e6:,.1f} MB "
        f"at {experts.disk_rate / 1e9:.2f} GB/s, waited {experts.waited_s:.2f} s for them"
    )


def traffic_report(experts: Traffic | None) -> dict[str, Any] | None:
    """The same under the keys of `--json`; null without a budget."""
    if experts is None:
        return None
    return {
        "slots": experts.slots,
        "experts": experts.experts,
        "uses": experts.uses,
        "reads": experts.reads,
        "bytes_read": experts.bytes_read,
        "disk_bytes_per_s": round(experts.disk_rate),
        "read_s": round(experts.read_s, 3),
        "waited_s": round(experts.waited_s, 3),
    }


def as_report(answer: Answer) -> dict[str, Any]:
    """The answer under the keys of `--json`."""
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "finish_reason": answer.finish_reason,
        "ids": answer.ids,
        "prompt_tokens": answer.prompt_tokens,
        "reused_tokens": answer.reused_tokens,
        "prefill_s": round(answer.prefill_s, 3),
        "decode_s": round(answer.decode_s, 3),
        "tokens_per_s": round(answer.tokens_per_s, 1),
        "experts": traffic_report(answer.experts),
    }
