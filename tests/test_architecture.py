"""The shape of the package: who imports whom, where torch may appear, how long a file may be.

Everything is read from the syntax tree, function bodies included, so that an import hidden in a
function counts like one at the top of the file.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dougong"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXTS = sorted(
    path
    for folder in ("dougong", "tests", "bench", "tools")
    for path in (ROOT / folder).rglob("*.py")
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

# Part -> the parts it may import (docs/architecture.md draws the same table).
GROUND = {"errors", "strict_json", "config", "formats"}
MODEL = GROUND | {"kernels", "checkpoint", "parallel"}
ENGINE = MODEL | {"model", "chat"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "strict_json": {"errors"},
    "config": {"errors", "strict_json"},
    "formats": {"errors", "config"},
    "machine": {"errors"},
    "chat": GROUND,
    "checkpoint": GROUND,
    "plan": GROUND,
    "kernels": GROUND,
    "parallel": GROUND | {"kernels"},
    "model": MODEL,
    "engine": ENGINE,
    "train": ENGINE,
    "api": ENGINE | {"engine", "machine"},
    "server": ENGINE | {"engine", "api"},
    "conform": ENGINE | {"engine", "api", "server"},
    "cli": ENGINE | {"engine", "train", "api", "server", "conform", "plan", "machine"},
    "__init__": {"api"},
}
TORCH_FREE = {"errors", "strict_json", "config", "formats", "machine", "plan", "chat"}
HEAVY = {"torch", "numpy", "matplotlib", "transformers", "tokenizers", "safetensors"}
# Packages that may be missing or are slow to import and rarely needed: a function may import them.
OPTIONAL = {
    "huggingface_hub", "matplotlib", "rich", "triton", "torch_npu", "xgrammar", "transformers",
}  # fmt: skip
# Code from data: none of these, anywhere in the package.
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def part_of(path: Path) -> str:
    """The part a file belongs to: a folder of the package, or a module at its top."""
    return part_named(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def part_named(module: str) -> str:
    """config_checks, config_dialects and so on are one part, the configuration; so is api_*."""
    whole, _, rest = module.partition("_")
    return whole if rest and whole in {"config", "api"} else module


def imported_names(node: ast.AST, path: Path) -> list[str]:
    """Full dotted names that an import statement asks for; relative ones are resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module or ""
    if node.level:
        package = ["dougong", *path.relative_to(PACKAGE).parts[:-1]]
        base = package[: len(package) - node.level + 1]
        module = ".".join([*base, module] if module else base)
    if module == "dougong":
        attributes = {"Engine", "__version__", "load"}
        return [f"dougong.{a.name}" if a.name not in attributes else module for a in node.names]
    return [module]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree_of(path)):
        for name in imported_names(node, path):
            yield getattr(node, "lineno", 0), name


def forbidden_edges(path: Path) -> list[str]:
    part = part_of(path)
    found = []
    for line, name in imports(path):
        top, *rest = name.split(".")
        if top != "dougong":
            continue
        target = part_named(rest[0]) if rest else "__init__"
        known = target in MAY_IMPORT and target != "__init__"
        if known and target != part and target not in MAY_IMPORT.get(part, set()):
            found.append(f"{path.relative_to(ROOT)}:{line}: {part} may not import {name}")
    return found


def test_every_part_of_the_package_has_an_import_rule() -> None:
    assert {part_of(path) for path in SOURCES} <= set(MAY_IMPORT)


def test_imports_point_one_way() -> None:
    assert [edge for path in SOURCES for edge in forbidden_edges(path)] == []


def test_the_import_rule_notices_an_edge_hidden_in_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "plan").mkdir()
    source = tmp_path / "plan" / "sly.py"
    source.write_text("def f():\n    from ..model import loading\n    import dougong.kernels\n")
    assert len(forbidden_edges(source)) == 2


def test_parts_without_torch_never_import_it() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if part_of(path) in TORCH_FREE
        for line, name in imports(path)
        if name.split(".")[0] == "torch"
    ]
    assert found == []


def module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run on import: not function bodies, not `if TYPE_CHECKING`."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        pending.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def test_the_command_line_imports_heavy_modules_in_bodies_only() -> None:
    light = {"dougong.cli", "dougong.errors"}
    found = []
    for path in SOURCES:
        if part_of(path) not in {"cli", "__init__"}:
            continue
        for node in module_level(tree_of(path)):
            for name in imported_names(node, path):
                ours = name.startswith("dougong.") and ".".join(name.split(".")[:2]) not in light
                if ours or name.split(".")[0] in HEAVY:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert found == []


def test_functions_outside_the_command_line_import_nothing_but_optional_packages() -> None:
    found = []
    for path in SOURCES:
        if part_of(path) in {"cli", "__init__"}:
            continue
        for function in ast.walk(tree_of(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                for name in imported_names(node, path):
                    if name.split(".")[0] not in OPTIONAL:
                        found.append(f"{path.relative_to(ROOT)}:{function.lineno}: {name}")
    assert found == []


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring left out: a long explanation is no fault."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        doc = function.body[0]
        lines -= (doc.end_lineno or doc.lineno) - doc.lineno + 1
    return lines


def test_files_and_functions_stay_short() -> None:
    found = []
    for path in TEXTS:
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            found.append(f"{path.relative_to(ROOT)}: {num_lines} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = code_lines(node)
                if length > MAX_FUNCTION_LINES:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}, {length}")
    assert found == []


def dangers(path: Path) -> list[str]:
    """Every way in `path` by which data could become code."""
    found = []
    for node in ast.walk(tree_of(path)):
        line = getattr(node, "lineno", 0)
        for name in imported_names(node, path):
            if name.split(".")[0] in FORBIDDEN_MODULES:
                found.append(f"{path.name}:{line}: imports {name}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS or called == "torch.load":
                found.append(f"{path.name}:{line}: calls {called}")
            for keyword in node.keywords:
                switched_on = not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                )
                if keyword.arg in {"shell", "trust_remote_code", "allow_pickle"} and switched_on:
                    found.append(f"{path.name}:{line}: passes {keyword.arg}")
    return found


def test_no_code_comes_from_data() -> None:
    assert [danger for path in SOURCES for danger in dangers(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from marshal import loads",
        "torch.load('x')",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
        "np.load('x', allow_pickle=flag)",
    ],
)
def test_the_scan_notices_code_from_data(line: str, tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text(line)
    assert len(dangers(source)) == 1


def test_importing_dougong_and_its_command_line_loads_no_heavy_module() -> None:
    program = (
        "import sys, dougong, dougong.cli.main\n"
        f"print(sorted(set({sorted(HEAVY)!r}) & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
