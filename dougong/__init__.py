"""Dougong: DeepSeek-V4 and the machine, cut to fit.

    import dougong
    model = dougong.load("nano")
    print(model.generate("Once upon a time", max_tokens=40).text)

Many at once, each as if alone:

    with dougong.Engine("nano") as engine:
        answers = engine.generate(["Tell me a story.", "What is 2 + 3 ?"])

Importing this package is cheap: torch is imported when one of these names is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dougong.api import load
    from dougong.api_engine import Engine

__version__ = "0.1.0"
__all__ = ["Engine", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Imports what is exported on first use, so that `import dougong` does not import torch."""
    if name == "load":
        from dougong.api import load

        return load
    if name == "Engine":
        from dougong.api_engine import Engine

        return Engine
    raise AttributeError(f"module 'dougong' has no attribute {name!r}")
