"""Runs the native library's tests under g++'s sanitizers; fails on any report.

    python tools/sanitize_native.py memory     bad addresses, undefined behaviour
    python tools/sanitize_native.py threads    data races (needs Debian's libomp-dev)

The library is built in a temporary folder; DOUGONG_NATIVE_FOLDER tells the loader to take it. First
a mistake is planted for each sanitizer: one that overlooks it would overlook others.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "dougong/kernels/native"
# Where pip put cmake and ninja, beside this interpreter.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
EQUAL_BITS = "tests/property/test_cpu_equal_bits.py"
TRAINING = "tests/property/test_training_operators.py"


@dataclass(frozen=True)
class Check:
    """Sanitizers, their run-time libraries, the mistakes planted for them, and what is run."""

    sanitizers: str
    libraries: tuple[str, ...]
    planted: tuple[str, ...]
    tests: tuple[str, ...]


CHECKS = {
    "memory": Check(
        "address,undefined",
        ("libasan.so", "libubsan.so"),
        ("address", "undefined"),
        (
            EQUAL_BITS,
            TRAINING,
            "tests/property/test_cpu_operators.py",
            "tests/property/test_cpu_rounding.py",
            "tests/property/test_cpu_products.py",
        ),
    ),
    "threads": Check(
        "thread",
        ("libtsan.so",),
        ("race",),
        (
            f"{EQUAL_BITS}::test_threads_and_instruction_sets_change_no_bit",
            f"{TRAINING}::test_bits_do_not_depend_on_threads_or_instruction_set",
            "tests/e2e/test_cpu_processes.py::test_operators_keep_their_bits_in_several_python_threads",
        ),
    ),
}


def build(folder: str, sanitizers: str) -> None:
    """Builds the library in `folder`."""
    options = (f"-DDOUGONG_SANITIZE={sanitizers}", "-DCMAKE_CXX_COMPILER=g++", "-GNinja")
    environment = dict(os.environ, PATH=PATH)
    for command in (["-S", SOURCE, "-B", folder, *options], ["--build", folder, "-j2"]):
        subprocess.run(["cmake", *command], check=True, env=environment, stdout=subprocess.DEVNULL)


def settings(check: Check, folder: str) -> dict[str, str]:
    """The environment in which Python loads the library built in `folder`.

    Every report ends its process, so that no caller can pass over it.
    """
    preloaded = [runtime(name) for name in check.libraries]
    environment = dict(
        os.environ,
        DOUGONG_NATIVE_FOLDER=folder,
        ASAN_OPTIONS="detect_leaks=0",  # leaks: Python's own
        UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
        TSAN_OPTIONS="halt_on_error=1:ignore_noninstrumented_modules=1",  # Python's and torch's
        OMP_NUM_THREADS="1",
    )
    if "libtsan.so" in check.libraries:
        # libgomp's barriers are unknown to the sanitizer: all would be a race. LLVM's OpenMP takes
        # g++'s calls as well, and tells it where threads meet through a tool that it loads.
        archer = openmp_tool()
        environment["OMP_TOOL_LIBRARIES"] = str(archer)
        preloaded.append(str(archer.with_name("libomp.so")))
    return environment | {"LD_PRELOAD": " ".join(preloaded)}


def runtime(name: str) -> str:
    """Where g++ keeps a sanitizer's library."""
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()


def openmp_tool() -> Path:
    """Archer, of the newest LLVM installed."""
    found = sorted(Path("/usr/lib").glob("llvm-*/lib/libarcher.so"))
    if not found:
        sys.exit("threads: LLVM's OpenMP is missing; run `apt-get install libomp-dev`.")
    return found[-1]


def run(check: Check) -> int:
    """pytest's exit status, or 1 if a sanitizer overlooks the mistake planted for it."""
    with tempfile.TemporaryDirectory() as folder:
        build(folder, check.sanitizers)
        environment = settings(check, folder)
        for mistake in check.planted:
            if not reported(mistake, environment):
                print(f"the planted mistake was not reported: {mistake}")
                return 1
        # nothing captured: the report of a process that ended is seen
        command = [sys.executable, "-m", "pytest", "-q", "-n2", "--capture=no", *check.tests]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def reported(mistake: str, environment: dict[str, str]) -> bool:
    """Whether the process that makes the mistake ends with its report."""
    command = [sys.executable, __file__, "planted", mistake]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, text=True, capture_output=True, check=False
    )
    return done.returncode != 0 and PLANTED[mistake].report in done.stderr


@dataclass(frozen=True)
class Mistake:
    """A wrong call of the library, and words of its report."""

    report: str
    make: Callable[[], None]


def look_up(count: int, shift: int) -> None:
    """dg_lookup of `count` of eight ids that begin `shift` bytes too late."""
    import torch

    from dougong.kernels.cpu.library import Lookup, library

    ids, out = torch.zeros(8, dtype=torch.int64), torch.empty(64, dtype=torch.int64)
    arguments = Lookup(
        table=out.data_ptr(), ids=ids.data_ptr() + shift, out=out.data_ptr(), count=count, width=1
    )
    library().dg_lookup(ctypes.byref(arguments))


def norm_in_place() -> None:
    """dg_norm_rope on several threads, each row's result written over the next row's input."""
    import torch

    from dougong.kernels.cpu.library import NormRope, library

    torch.set_num_threads(4)
    rows, size = 4096, 64
    x = torch.ones(rows + 1, size)
    arguments = NormRope(x=x.data_ptr(), y=x[1:].data_ptr(), rows=rows, size=size, eps=1e-6)
    library().dg_norm_rope(ctypes.byref(arguments))


PLANTED = {
    "address": Mistake("heap-buffer-overflow", lambda: look_up(count=9, shift=0)),
    "undefined": Mistake("misaligned address", lambda: look_up(count=4, shift=1)),
    "race": Mistake("data race", norm_in_place),
}


def main() -> int:
    """Runs the check that was asked for."""
    match sys.argv[1:]:
        case ["planted", name] if name in PLANTED:
            PLANTED[name].make()
            return 0
        case [name] if name in CHECKS:
            return run(CHECKS[name])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
