"""What a mix looks like: samples of every family with the trained parts marked, shares, lengths."""

from __future__ import annotations

import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from dougong.config import load_config
from dougong.train.config import PhaseConfig, RunConfig
from dougong.train.data.corpus import load_corpus
from dougong.train.data.encode import Encoded, Encoder, encode_sample
from dougong.train.data.mixture import Draw, families_of, needed_sources
from dougong.train.data.tokenizer import run_tokenizer

MEASURED = 100  # samples that lengths are told from


@dataclass(frozen=True)
class FamilyShown:
    """One family: its share of the tokens in each phase, lengths, and a few samples.

    mean_tokens, longest: of MEASURED samples, whatever the phases' lengths.  trained: the share of
    tokens with a loss.  samples: whole conversations, trained parts between [[ and ]].
    """

    family: str
    shares: list[float]
    mean_tokens: float
    longest: int
    trained: float
    samples: list[str]

    def to_dict(self) -> dict[str, object]:
        """The same by its fields' names."""
        return asdict(self)


def show_mix(config: RunConfig, samples: int) -> list[FamilyShown]:
    """Every family of the run's phases, with so many samples of each.

    The run's own tokenizer is used where it has one already; else one is trained for the occasion.
    """
    data = config.data
    sources = needed_sources(config.families, full=data.full)
    corpus = load_corpus(Path(data.folder).expanduser(), sources)
    run_folder = Path(config.output.folder).expanduser()
    with tempfile.TemporaryDirectory() as scratch:
        folder = run_folder if (run_folder / "tokenizer").is_dir() else Path(scratch)
        tokenizer, _ = run_tokenizer(
            folder, data.tokenizer, load_config(config.model).vocab_size, corpus, config.families,
            data.seed,
        )  # fmt: skip
    families = families_of(corpus, max(phase.max_length for phase in config.phases))
    return [
        show_family(name, families[name], config.phases, tokenizer, samples=samples, seed=data.seed)
        for name in config.families
    ]


def show_family(
    name: str,
    draw: Draw,
    phases: tuple[PhaseConfig, ...],
    tokenizer: Encoder,
    *,
    samples: int,
    seed: int,
) -> FamilyShown:
    """Draws from one family; a pure function of the seed."""
    rng = random.Random(f"{seed}/show/{name}")
    encoded = [encode_sample(draw(rng), tokenizer) for _ in range(max(samples, MEASURED))]
    lengths = [len(one.ids) for one in encoded]
    trained = sum(weight > 0 for one in encoded for weight in one.weights)
    return FamilyShown(
        family=name,
        shares=[phase.mix.get(name, 0.0) / sum(phase.mix.values()) for phase in phases],
        mean_tokens=sum(lengths) / len(lengths),
        longest=max(lengths),
        trained=trained / sum(lengths),
        samples=[marked(one, tokenizer) for one in encoded[:samples]],
    )


def marked(encoded: Encoded, tokenizer: Encoder) -> str:
    """The text of a sample, trained stretches between [[ and ]]."""
    parts: list[str] = []
    run: list[int] = []
    inside = False
    for token, weight in zip(encoded.ids, encoded.weights, strict=True):
        if (weight > 0) != inside:
            parts += [tokenizer.decode(run), "]]" if inside else "[["]
            run, inside = [], not inside
        run.append(token)
    return "".join([*parts, tokenizer.decode(run), "]]" if inside else ""])


def as_text(shown: list[FamilyShown]) -> str:
    """A table of the families, then their samples."""
    phases = range(len(shown[0].shares))
    head = f"{'family':<16}" + "".join(f"  phase {i + 1}" for i in phases)
    lines = [f"{head}  tokens  longest  trained"]
    for one in shown:
        shares = "".join(f"{share:>9.1%}" for share in one.shares)
        lines.append(
            f"{one.family:<16}{shares}{one.mean_tokens:>8.0f}{one.longest:>9}{one.trained:>9.0%}"
        )
    for one in shown:
        for i, text in enumerate(one.samples):
            lines += ["", f"--- {one.family} {i + 1} ---", text]
    return "\n".join(lines)
