"""What a run tells: a line on stderr, a JSON line a step, and a curve as PNG."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dougong.errors import TrainingError

LOG_FILE, CURVE_FILE = "log.jsonl", "curve.png"
SMOOTHING = 0.98


def clock(seconds: float) -> str:
    """`1:02:03`."""
    minutes, rest = divmod(max(int(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk, or one that may not be written, in one sentence."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}); checkpoints are intact: make room and "
            "start the same command again"
        ) from error


class Progress:
    """The log of one run; `resume` cuts what lies beyond the checkpoint that is resumed from."""

    def __init__(self, folder: Path, total_steps: int, *, quiet: bool = False) -> None:
        self.path, self.total, self.quiet = folder / LOG_FILE, total_steps, quiet
        self.recent: deque[tuple[int, float]] = deque(maxlen=20)

    def resume(self, step: int) -> None:
        """Keeps the log's lines of the first `step` steps."""
        if self.path.exists():
            kept = [line for line in read_log(self.path) if line["step"] < step]
            with _writing(self.path):
                self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def losses(self, phase: int) -> list[float]:
        """The logged losses of a phase."""
        lines = read_log(self.path) if self.path.exists() else []
        return [line["loss"] for line in lines if line["phase"] == phase]

    def record(self, line: dict[str, Any], num_tokens: int, seconds: float, *, show: bool) -> None:
        """Appends one step's figures; shows loss, speed and time left."""
        self.recent.append((num_tokens, seconds))
        with _writing(self.path), self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        if self.quiet or not show:
            return
        spent = sum(s for _, s in self.recent)
        speed = sum(n for n, _ in self.recent) / max(spent, 1e-9)
        left = (self.total - line["step"] - 1) * spent / len(self.recent)
        text = (
            f"step {line['step'] + 1}/{self.total}  loss {line['loss']:.4f}  "
            f"mtp {line['mtp']:.4f}  {speed:,.0f} tok/s  {clock(left)} left"
        )
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's complete lines (a kill may have cut the last one)."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def draw_curve(folder: Path) -> Path:
    """Draws the losses of the run in `folder` into its curve.png."""
    return draw_losses(read_log(folder / LOG_FILE), folder / CURVE_FILE)


def draw_losses(lines: list[dict[str, Any]], path: Path) -> Path:
    """Draws the losses of a log's lines over tokens, smoothed and raw; returns `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in ("loss", "mtp"):
        points = [(line["tokens"] / 1e6, line[name]) for line in lines if line[name]]
        smooth, value = [], None
        for _, loss in points:
            value = loss if value is None else SMOOTHING * value + (1 - SMOOTHING) * loss
            smooth.append(value)
        tokens = [x for x, _ in points]
        axes.plot(tokens, [y for _, y in points], alpha=0.2)
        axes.plot(tokens, smooth, color=axes.lines[-1].get_color(), label=name)
    axes.set(xlabel="training tokens, millions", ylabel="loss, nats per trained token", ylim=(0, 5))
    axes.legend()
    figure.tight_layout()
    with _writing(path):
        figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
