"""torchvision, without the four seconds of torch's compiler that its import would take; `lite.py` has its encoders.

One of its operators, which no network here uses, asks torch's compiler a question, and torchvision imports the whole
compiler for that. Here the question is put only if it is ever asked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

COMPILER = "torch._dynamo.utils"


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let imports within the block find a stand-in for torch's compiler, unless it has been imported already."""
    if COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(COMPILER)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[COMPILER]


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


with _without_compiler():
    import torchvision

__all__ = ["torchvision"]
