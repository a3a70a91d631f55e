"""Entry point `dougong`: finds the subcommand, and turns every failure into one line.

Exit status: 0 done, 1 refused or failed, 2 a usage error, 130 interrupted, 141 the reader went
away. Set DOUGONG_TRACEBACK=1 to see where a failure came from.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from dougong import __version__
from dougong.cli.lazy import LazyGroup
from dougong.errors import DougongError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


MEMBERS = {
    "generate": ("dougong.cli.generate", "Answer one prompt, or a file of them."),
    "chat": ("dougong.cli.chat", "Talk with a model."),
    "serve": ("dougong.cli.serve", "Serve a model over HTTP, in OpenAI's form."),
    "model": ("dougong.cli.model", "Inspect a checkpoint or change its form."),
    "logits": ("dougong.cli.logits", "Write a model's logits for given token ids."),
    "train": ("dougong.cli.train", "Train a model from a configuration file."),
    "eval": ("dougong.cli.eval", "Measure what a model can do, on what training never saw."),
    "plan": ("dougong.cli.plan", "Compute speed, memory and cost on given hardware."),
    "report": ("dougong.cli.report", "Write the report: exhibits whose every figure is marked."),
    "bench": ("dougong.cli.bench", "Measure this machine and the number formats."),
    "verify": ("dougong.cli.verify", "Check that this machine computes what it should."),
    "doctor": ("dougong.cli.doctor", "Show what this machine has and can run."),
}


@click.group(
    cls=LazyGroup,
    members=MEMBERS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="dougong")
def cli() -> None:
    """DeepSeek-V4 and the machine, cut to fit.

    MODEL is a folder with a checkpoint, a shipped name (nano), a preset where no weights are needed
    (v4-flash, v4-pro, v3, v3.2, mini), or org/name in the local Hugging Face cache.

    \b
    Examples:
      dougong generate "Once upon a time"
      dougong chat --seed 7
      dougong model inspect v4-flash
    """


def one_line(error: BaseException) -> str:
    """The error's text on one line; an error without text is named by its class."""
    return " ".join(str(error).split()) or type(error).__name__


def usage_line(error: click.UsageError) -> str:
    """What was wrong with the words typed, and where the right ones are listed."""
    command = error.ctx.command_path if error.ctx else "dougong"
    return f"{' '.join(error.format_message().split())} See `{command} --help`."


def say(line: str) -> None:
    """One line on stderr; a closed stderr must not become a second failure."""
    try:
        print(f"dougong: {line}", file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; never raises, never prints a traceback.

    Args: argv: the words after `dougong`; None reads them from the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?"
    try:
        # Not cli.main(): it prints and exits by itself on Ctrl-C and on a broken pipe.
        with cli.make_context("dougong", words) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as end:  # --help and --version
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        say(usage_line(error))
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        say("interrupted.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`dougong ... | head`): its wish, not an error. Python flushes
        # stdout once more on exit, which would raise again, so the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except Exception as error:  # the outermost loop of the process
        if os.environ.get("DOUGONG_TRACEBACK"):
            raise
        say(failure_line(error))
        return EXIT_FAILED


def failure_line(error: Exception) -> str:
    """What to tell the user about an exception that ended a command."""
    if isinstance(error, click.ClickException):
        return " ".join(error.format_message().split())
    if isinstance(error, DougongError | OSError):
        return one_line(error)
    if isinstance(error, UnicodeDecodeError):
        return f"what was read is not valid {error.encoding} (byte {error.start})."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's words
        return "out of memory; try a smaller model, a shorter context or --dtype bfloat16."
    return (
        f"internal error ({type(error).__name__}: {one_line(error)[:300]}). "
        "This is a bug: set DOUGONG_TRACEBACK=1 to see where, and please report it."
    )


def main() -> None:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
