"""A run with everything that moves while it trains, opened from its folder and saved into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dougong.config import V4Config, load_config
from dougong.errors import ConfigError, TrainingError
from dougong.kernels.cpu.library import is_built
from dougong.kernels.training.library import set_products
from dougong.model.initialize import initialize
from dougong.model.transformer import Transformer
from dougong.train.anticipatory import Anticipation
from dougong.train.average import Average
from dougong.train.checkpoint import (
    drop_old_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dougong.train.config import PhaseConfig, RunConfig
from dougong.train.data.corpus import load_corpus
from dougong.train.data.mixture import Mixture, PackedBatch, needed_sources
from dougong.train.data.reader import BatchReader
from dougong.train.data.tokenizer import run_tokenizer
from dougong.train.optimizer import Optimizer
from dougong.train.parallel import Group, join_group
from dougong.train.progress import Progress
from dougong.train.schedule import Step, plan_steps
from dougong.train.stability import SpikeWatch


@dataclass
class Run:
    """A run at some step; `step` counts the steps done, `reader` gives each step's batch."""

    config: RunConfig
    folder: Path
    steps: list[Step]
    model: Transformer
    optimizer: Optimizer
    average: Average
    tokenizer_folder: Path
    reader: BatchReader
    progress: Progress
    group: Group
    watch: SpikeWatch
    anticipation: Anticipation
    step: int = 0
    rollbacks: int = 0

    @property
    def done(self) -> bool:
        """Whether all steps of the schedule are done."""
        return self.step >= len(self.steps)

    @property
    def phase(self) -> PhaseConfig:
        """The phase of the next step."""
        return self.config.phases[self.steps[self.step].phase]

    @property
    def tokens(self) -> int:
        """Tokens of the steps done."""
        done = self.steps[: self.step]
        return done[-1].tokens + done[-1].batch_tokens if done else 0

    def batch(self, step: int) -> PackedBatch:
        """The batch of a step."""
        return self.reader(step)

    def save(self) -> None:
        """Writes a checkpoint and drops old ones; every process returns when it is there.

        Raises:  TrainingError if it cannot be written; older ones stay.
        """
        if self.group.leads:
            tensors: dict[str, Tensor] = {"random_state": torch.get_rng_state()}
            for part, state in self._states().items():
                tensors |= {f"{part}/{name}": tensor for name, tensor in state.items()}
            values = {
                "step": self.step,
                "rollbacks": self.rollbacks,
                "anticipate_until": self.anticipation.until,
                "run": self.config.to_dict(),
            }
            save_checkpoint(self.folder, self.step, tensors, values)
            drop_old_checkpoints(self.folder, self.config.output.keep)
        self.group.wait()

    def restore(self, path: Path) -> None:
        """Puts back the state of a checkpoint, and the log as it was then.

        Raises:  TrainingError if it does not fit this model.
        """
        tensors, values = load_checkpoint(path)
        torch.set_rng_state(tensors.pop("random_state"))
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in self._states()}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor.to(self.model.device)
        self._put_weights(parts["model"], path)
        self.optimizer.state = parts["optimizer"]
        self.average.state = parts["average"]
        self.anticipation.state = parts["anticipation"]
        self.anticipation.until = int(values.get("anticipate_until", 0))
        self.step, self.rollbacks = int(values["step"]), int(values.get("rollbacks", 0))

    def load_weights(self, folder: Path) -> None:
        """Begins with the newest weights of another run; all else is as at any run's beginning.

        Raises:  ConfigError if there are none; TrainingError if they do not fit this model.
        """
        if (newest := latest_checkpoint(folder)) is None:
            raise ConfigError(f"start = {str(folder)!r} holds no checkpoint; give a run's folder")
        tensors, _ = load_checkpoint(newest)
        named = {
            name.removeprefix("model/"): tensor.to(self.model.device)
            for name, tensor in tensors.items()
            if name.startswith("model/")
        }
        self._put_weights(named, newest)

    def _put_weights(self, tensors: dict[str, Tensor], path: Path) -> None:
        own = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if own != {name: tensor.shape for name, tensor in tensors.items()}:
            raise TrainingError(
                f"{path}: holds another model's weights; choose another folder, or the model that "
                "they were trained as"
            )
        self.model.load_state_dict(tensors)

    def _states(self) -> dict[str, dict[str, Tensor]]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state,
            "average": self.average.state,
            "anticipation": self.anticipation.state,
        }

    def recall(self) -> None:
        """Cuts the log to the steps done, and lets the spike watch know their losses."""
        if self.group.leads:
            self.progress.resume(self.step)
        self.group.wait()
        if not self.done:
            phase = self.steps[self.step].phase
            self.watch.restart(phase, self.progress.losses(phase))


def open_run(config: RunConfig, *, quiet: bool = False) -> Run:
    """Prepares data, tokenizer and model, and restores the newest checkpoint if there is one.

    Raises:  ConfigError or TrainingError if the run cannot start or go on.
    """
    model_config = load_config(config.model)
    if not isinstance(model_config, V4Config):
        raise ConfigError(f"model = {config.model!r} is not a DeepSeek-V4 configuration")
    device = training_device(config.device)
    group = join_group(device)
    folder = Path(config.output.folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    steps, stability = plan_steps(config), config.stability
    with group.one_first():
        reader, tokenizer_folder = _open_data(config, steps, folder, model_config.vocab_size)
    torch.manual_seed(config.seed)
    backend = training_backend(device, config.products)
    model = initialize(Transformer(model_config, backend=backend), config.seed).to(device)
    run = Run(
        config,
        folder,
        steps,
        model,
        Optimizer(
            dict(model.named_parameters()), model_config.o_groups, native=backend == "training"
        ),
        Average(model, config.schedule.average),
        tokenizer_folder,
        reader,
        Progress(folder, len(steps), quiet=quiet or not group.leads),
        group,
        SpikeWatch(stability),
        Anticipation(stability.lag),
    )
    if (newest := latest_checkpoint(folder)) is not None:
        run.restore(newest)
    elif config.start:
        run.load_weights(_start_folder(config))
    if stability.anticipate == "always":
        run.anticipation.until = len(steps)
    run.recall()
    return run


def training_backend(device: torch.device, products: str) -> str:
    """`training` on the CPU where it is built: the same mathematics in a third of the time.

    Its matrix products take operands as `products` says from now on.
    Raises:  ConfigError for BF16 products without it.
    """
    if device.type == "cpu" and is_built():
        set_products(torch.bfloat16 if products == "bfloat16" else torch.float32)
        return "training"
    if products != "float32":
        raise ConfigError(
            f"products = {products!r} needs the native library on the CPU; build it with "
            "`pip install -e .`, or choose float32"
        )
    return "reference"


def _start_folder(config: RunConfig) -> Path:
    return Path(config.start).expanduser()


def training_device(name: str) -> torch.device:
    """The device of this process: `cpu` or `cuda` (with torchrun, the one of its local rank).

    Raises:  ConfigError for a device that is not there.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    raise ConfigError(f"device = {name!r} should be cpu, or cuda on a machine that has one")


def _open_data(
    config: RunConfig, steps: list[Step], folder: Path, vocab_size: int
) -> tuple[BatchReader, Path]:
    """What gives each step's batch (equal phases share a mixture), and the tokenizer's folder."""
    data = config.data
    corpus = load_corpus(
        Path(data.folder).expanduser(), needed_sources(config.families, full=data.full)
    )
    given = data.tokenizer or (str(_start_folder(config) / "tokenizer") if config.start else "")
    tokenizer, tokenizer_folder = run_tokenizer(
        folder, given, vocab_size, corpus, config.families, data.seed
    )
    mixtures: list[Mixture] = []
    for i, phase in enumerate(config.phases):
        before = config.phases[i - 1] if i else None
        if before and (before.mix, before.max_length) == (phase.mix, phase.max_length):
            mixtures.append(mixtures[-1])
            continue
        mixtures.append(
            Mixture(phase.mix, tokenizer, corpus, seed=data.seed, max_length=phase.max_length)
        )

    def make(step: int) -> PackedBatch:
        plan = steps[step]
        return mixtures[plan.phase].batch(step, plan.batch_tokens)

    return BatchReader(make, len(steps), data.workers), tokenizer_folder
