"""From a run to a model that others load: the published layout, FP4 experts and FP8 linears."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

from dougong.checkpoint import write_checkpoint
from dougong.checkpoint.writer import DEFAULT_SHARD_BYTES
from dougong.model.loading import published_tensors
from dougong.model.transformer import Transformer
from dougong.train.card import write_card
from dougong.train.run import Run

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def export_run(run: Run, shard_bytes: int = DEFAULT_SHARD_BYTES) -> Path:
    """Writes the run's model (the last weights or their average) into model/, with its card."""
    averaged = run.config.schedule.export == "average"
    folder = run.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier end of this run
    with run.average.applied() if averaged else nullcontext():
        export_model(run.model, run.tokenizer_folder, folder, shard_bytes)
    write_card(run, folder)
    return folder


def export_model(
    model: Transformer,
    tokenizer_folder: Path,
    folder: Path,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Path:
    """Writes weights (files of at most `shard_bytes`), config.json, tokenizer and
    generation_config.json; returns `folder`.

    After quantization-aware steps the stored values are the trained ones; otherwise they are
    rounded here.
    """
    write_checkpoint(
        folder,
        model.config,
        published_tensors(model),
        layout="official",
        quantize="fp4+fp8",
        shard_bytes=shard_bytes,
    )
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_folder / name, folder / name)
    generation = {
        "bos_token_id": model.config.bos_token_id,
        "eos_token_id": model.config.eos_token_id,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    text = json.dumps(generation, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return folder
