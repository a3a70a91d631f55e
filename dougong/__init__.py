"""Dougong: DeepSeek-V4 and the machine, cut to fit.

    import dougong
    model = dougong.load("nano")
    print(model.generate("Once upon a time", max_tokens=40).text)

Importing this package is cheap: torch is imported when `load` is first called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dougong.api import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Imports `load` on first use, so that `import dougong` does not import torch."""
    if name == "load":
        from dougong.api import load

        return load
    raise AttributeError(f"module 'dougong' has no attribute {name!r}")
