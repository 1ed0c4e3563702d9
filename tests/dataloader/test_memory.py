"""Arrays that come and go cost page faults once."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from dataloader.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def load():
    parts = [np.ones(size, np.uint8) for size in (900_000, 900_000, 1_200_000, 3_000_000)]
for _ in range(3):
    load()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    load()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_memory_of_freed_arrays_is_used_again() -> None:
    faults = {}
    for choice in ("keep", "default"):
        command = [sys.executable, "-c", COUNT_FAULTS, choice]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[choice] = float(done.stdout)
    assert faults["keep"] < 10 < faults["default"]
