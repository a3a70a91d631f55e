"""An evaluation as rows for people: the same rows on the screen and in the model's card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line: of which suite, what was measured, the figure, and what to read it with."""

    suite: str
    what: str
    figure: str
    beside: str = ""


DISTANCES = ((64, "0 to 64"), (128, "65 to 128"), (512, "129 to 512"), (2048, "513 to 2,048"))
FURTHER = "2,049 and more"  # the window is 128 tokens; what lies behind it is seen compressed
FORMS = ("json", "tools")  # whose answers programs read
HEAD = Row("suite", "what", "result", "beside")


def rows(results: dict[str, Any]) -> list[Row]:
    """All lines of an evaluation (the dictionary of `suites.evaluate`), left-out suites last."""
    found: list[Row] = []
    for name, figures in results["suites"].items():
        found += SPECIAL.get(name, _kinds)(name, figures)
    found += [Row(name, "left out", "", why) for name, why in results["left_out"].items()]
    return found


def markdown(results: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [_line(HEAD), "|---|---|---|---|"]
    lines += [_line(row) for row in rows(results)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = (row.suite, row.what, row.figure, row.beside)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def percent(share: float) -> str:
    """`0.954` -> `95 %`."""
    return f"{100 * share:.0f} %"


def _kinds(suite: str, figures: dict[str, Any]) -> Iterator[Row]:
    """Shares of right answers; how many were well formed, where not all are or a form is asked."""
    for kind in figures["kinds"]:
        beside = f"{100 * kind['low']:.0f} to {percent(kind['high'])}, {kind['asked']} asked"
        if kind.get("well_formed", 1) < 1 or suite in FORMS:
            beside += f", well formed {percent(kind['well_formed'])}"
        yield Row(suite, name_of(kind), percent(kind["share"]), beside)


def name_of(kind: dict[str, Any]) -> str:
    """The kind of question, and whether it was asked thinking."""
    said = not kind["thinking"] or "think" in kind["kind"]
    return str(kind["kind"]) + ("" if said else ", thinking")


def _text(suite: str, figures: dict[str, Any]) -> Iterator[Row]:
    for domain in figures["domains"]:
        yield Row(
            suite,
            f"{domain['name']}, {domain['characters']:,} characters",
            f"{domain['bits_per_character']:.2f} bits per character",
            f"xz {domain['xz']:.2f}, 3-gram {domain['trigram']:.2f}",
        )


def _position(suite: str, figures: dict[str, Any]) -> Iterator[Row]:
    for bucket in figures["buckets"]:
        if bucket["first"] >= 64 or bucket["first"] == 0:
            what = f"tokens {bucket['first']:,} to {bucket['last']:,} of the novel"
            error = f"± {bucket['standard_error']:.2f} over {figures['windows']} windows"
            yield Row(suite, what, f"{bucket['nats']:.2f} nats", error)


def by_length(cells: list[dict[str, Any]], filler: str, keys: int) -> dict[int, tuple[int, int]]:
    """Right and asked at each length, over all depths."""
    found: dict[int, tuple[int, int]] = {}
    for cell in cells:
        if (cell["filler"], cell["keys"]) == (filler, keys):
            right, asked = found.get(cell["length"], (0, 0))
            found[cell["length"]] = right + cell["right"], asked + cell["asked"]
    return found


def by_distance(cells: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Right and asked of single needles, by about how many tokens they stand before the end."""
    found: dict[str, tuple[int, int]] = {}
    for cell in cells:
        if cell["depth"] is None:
            continue
        distance = (1 - cell["depth"]) * cell["length"]
        name = next((name for most, name in DISTANCES if distance <= most), FURTHER)
        right, asked = found.get(name, (0, 0))
        found[name] = right + cell["right"], asked + cell["asked"]
    order = [*(name for _, name in DISTANCES), FURTHER]
    return {name: found[name] for name in order if name in found}


def _needle(suite: str, figures: dict[str, Any]) -> Iterator[Row]:
    sorts = dict.fromkeys((cell["filler"], cell["keys"]) for cell in figures["cells"])
    for filler, keys in sorted(sorts, key=lambda sort: (-len(sort[0]), sort[1])):
        lengths = by_length(figures["cells"], filler, keys)
        shares = " / ".join(f"{100 * right / asked:.0f}" for right, asked in lengths.values())
        counts = sorted({asked for _, asked in lengths.values()})
        tokens = " / ".join(f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths)
        what = f"{keys} number{'s' * (keys > 1)} hidden in {'the ' * (filler == 'novel')}{filler}"
        yield Row(suite, what, f"{shares} %", f"in {tokens} tokens, {counts[0]} asked each")
    for name, (right, asked) in by_distance(figures["cells"]).items():
        what = f"1 number, about {name} tokens before the question"
        yield Row(suite, what, percent(right / asked), f"{asked} asked, of the above")


def _memorization(suite: str, figures: dict[str, Any]) -> Iterator[Row]:
    for name, sort in figures["sorts"].items():
        beside = f'"{sort["longest_text"]}"; {sort["mean_words"]:.1f} in the mean text'
        yield Row(suite, f"longest run, {name}", f"{sort['longest_words']} words", beside)


SPECIAL: dict[str, Callable[[str, dict[str, Any]], Iterator[Row]]] = {
    "text": _text,
    "position": _position,
    "needle": _needle,
    "memorization": _memorization,
    "samples": lambda _suite, _figures: iter(()),  # nothing is scored
}
