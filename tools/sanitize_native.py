"""Builds the native library with sanitizers and runs its tests on it; fails on any report.

The library is built in a temporary folder; DOUGONG_NATIVE_FOLDER tells the loader to take it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "dougong/kernels/native"
TESTS = ("tests/property/test_cpu_operators.py", "tests/property/test_cpu_equal_bits.py")


def main() -> int:
    """Returns pytest's exit status, or 1 if a sanitizer spoke."""
    with tempfile.TemporaryDirectory() as folder:
        options = ("-DDOUGONG_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Release")
        subprocess.run(["cmake", "-S", SOURCE, "-B", folder, *options], check=True)
        subprocess.run(["cmake", "--build", folder, "-j2"], check=True)
        environment = dict(
            os.environ,
            DOUGONG_NATIVE_FOLDER=folder,
            LD_PRELOAD=" ".join(runtime(name) for name in ("libasan.so", "libubsan.so")),
            ASAN_OPTIONS="detect_leaks=0",  # Python's own
            OMP_NUM_THREADS="1",
        )
        command = [sys.executable, "-m", "pytest", "-q", "-s", *TESTS]
        done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    print(done.stdout + done.stderr)
    spoke = "runtime error" in done.stdout + done.stderr
    return done.returncode or int(spoke)


def runtime(name: str) -> str:
    """Where the compiler keeps a sanitizer's library."""
    found = subprocess.run(
        ["g++", f"-print-file-name={name}"], check=True, text=True, capture_output=True
    )
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
