"""From samples to token ids with a loss weight per token, by the real prompt encoder.

Conversations are rendered by dougong.chat; the loss falls on what the model itself must write: each
answer, its reasoning and the end-of-sentence token. In running text every token counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from dougong.chat import special
from dougong.chat.pieces import Piece
from dougong.chat.prompt import render_pieces
from dougong.train.data.task import Sample, Task, Text


class Encoder(Protocol):
    """What this module needs of a tokenizer."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of `text`; with `special` off, special strings are ordinary text."""

    def special_id(self, text: str) -> int:
        """The id of a special string."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""


@dataclass(frozen=True)
class Encoded:
    """Token ids and, for each, the weight of the loss for predicting it (0: not trained on)."""

    ids: list[int]
    weights: list[float]


def pieces_of(task: Task) -> list[Piece]:
    """The whole conversation, answer included, as the prompt encoder writes it."""
    return render_pieces((*task.messages, task.answer), **task.options)


def encode_sample(sample: Sample, tokenizer: Encoder, prompt_weight: float = 0.0) -> Encoded:
    """Ids and loss weights of one sample, from BOS to EOS; BOS has weight 0.

    Args:    prompt_weight: of the tokens that the user or the template writes.
    """
    if isinstance(sample, Text):
        ids = tokenizer.encode(sample.text, special=False)
        bos, eos = tokenizer.special_id(special.BOS), tokenizer.special_id(special.EOS)
        return Encoded([bos, *ids, eos], [0.0] + [1.0] * (len(ids) + 1))
    ids, weights = [], []
    answering = opening = False
    for piece in pieces_of(sample):
        if piece.is_special:
            new = [tokenizer.special_id(piece.text)]
        else:
            new = tokenizer.encode(piece.text, special=False)
        # The tag right behind <Assistant> is written by the template, all later ones by the model.
        template = not answering or (opening and piece.is_special)
        ids += new
        weights += [prompt_weight if template else 1.0] * len(new)
        opening = piece.is_special and piece.text == special.ASSISTANT
        answering = opening or (answering and piece.text != special.EOS)
    return Encoded(ids, [0.0, *weights[1:]])
