"""How fast a training step is, ours and transformers': each in a process of its own, taking turns.

A step is forward, backward and AdamW (torch's fused one, in both) on random tokens, the loss that
of the next token everywhere. `python -m dougong.train.speed TASK` makes a step for every line that
it reads, and answers with its figures; `Stepper` talks to such a process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dougong.config import V4Config, load_config
from dougong.errors import ConfigError, TrainingError
from dougong.kernels.recompute import recomputation
from dougong.model.initialize import initialize
from dougong.model.transformer import Transformer
from dougong.train.heap import keep_freed_memory
from dougong.train.memory import LiveBytes
from dougong.train.run import training_backend

SYSTEMS = ("dougong", "transformers")
LossOf = Callable[[Tensor], Tensor]  # of ids [samples, tokens]


@dataclass(frozen=True)
class Task:
    """What one process does; `products` is the dtype of products, all that is kept is float32."""

    system: str
    model: str
    samples: int
    tokens: int
    products: str
    threads: int
    recompute: str = "none"


@dataclass(frozen=True)
class Figures:
    """One step. Bytes: the most that its tensors took, gradients included; that of the process."""

    seconds: float
    step_bytes: int
    peak_bytes: int


class Stepper:
    """A process that makes one training step whenever it is asked to."""

    def __init__(self, task: Task) -> None:
        self.task, self.errors = task, tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = dict(os.environ, OMP_NUM_THREADS=str(task.threads))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dougong.train.speed", json.dumps(asdict(task))],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            text=True,
        )  # fmt: skip

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # no more lines to come: it ends
        self.errors.close()

    def step(self) -> Figures:
        """Waits for one step.

        Raises:  TrainingError with the last thing it said, if it fails.
        """
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said on its way out is told below
        if line := self.process.stdout.readline():
            return Figures(**json.loads(line))
        self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        raise TrainingError(f"{self.task.system} makes no step: {said[-1] if said else 'killed'}")


def take_turns(tasks: list[Task], steps: int) -> list[list[Figures]]:
    """Each task's figures: one step of each, then the next, after one of each that warms up."""
    with ExitStack() as stack:
        steppers = [stack.enter_context(Stepper(task)) for task in tasks]
        for stepper in steppers:
            stepper.step()
        rounds = [[stepper.step() for stepper in steppers] for _ in range(steps)]
    return [list(figures) for figures in zip(*rounds, strict=True)]


def serve(task: Task) -> None:
    """Makes a step for every line of standard input. The first one counts memory."""
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    build = our_loss if task.system == "dougong" else their_loss
    model, loss_of = build(task)
    vocab_size = model.get_parameter("head.weight" if build is our_loss else "lm_head.weight")
    ids = torch.randint(2, vocab_size.shape[0], (task.samples, task.tokens))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    unit, step_bytes = (1 if sys.platform == "darwin" else 1024), 0
    for _ in sys.stdin:
        began = time.perf_counter()
        if step_bytes:
            loss_of(ids).backward()
        else:
            with LiveBytes() as live:
                loss_of(ids).backward()
            step_bytes = live.peak
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        print(json.dumps(asdict(Figures(seconds, step_bytes, peak))), flush=True)  # noqa: T201


def our_loss(task: Task) -> tuple[nn.Module, LossOf]:
    """Our model with random weights, and its loss."""
    config = load_config(task.model)
    if not isinstance(config, V4Config):
        raise ConfigError(f"{task.model} is no V4 model; only those are trained")
    backend = training_backend(torch.device("cpu"), task.products)
    model = initialize(Transformer(config, backend=backend), 0)

    def loss_of(ids: Tensor) -> Tensor:
        samples, tokens = ids.shape
        flat = ids.flatten()
        rows = torch.arange(samples * tokens).unflatten(0, (samples, tokens))[:, :-1].flatten()
        with recomputation(task.recompute, config):
            x_TD = model.logit_input(model(flat, [tokens] * samples))
            loss: Tensor = model.build.ops.cross_entropy(
                x_TD[rows], model.head.weight, flat[rows + 1], torch.ones(len(rows))
            )
        return loss

    return model, loss_of


def their_loss(task: Task) -> tuple[nn.Module, LossOf]:
    """The same of transformers' DeepseekV4ForCausalLM, BF16 products by autocast."""
    try:
        from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
    except ImportError as error:
        raise ConfigError("transformers is missing: pip install 'dougong[bench]'") from error
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(load_config(task.model).to_dict()))
        config = DeepseekV4Config.from_pretrained(folder)
    build: Any = DeepseekV4ForCausalLM
    model = build(config).float()
    for name, table in model.named_buffers():
        if name.endswith("tid2eid"):  # left at 0, every token would go to one expert
            table.copy_(torch.rand(len(table), config.n_routed_experts).topk(table.shape[1])[1])

    def loss_of(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=task.products == "bfloat16"):
            loss: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return loss

    return model, loss_of


if __name__ == "__main__":
    serve(Task(**json.loads(sys.argv[1])))
