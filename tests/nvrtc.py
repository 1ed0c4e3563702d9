"""CUDA text compiled by NVRTC, which comes with torch: this needs neither a GPU nor CuPy."""

from __future__ import annotations

import ctypes
import site
from pathlib import Path

import pytest

OPTIONS = (b"--gpu-architecture=compute_80", b"--std=c++14")


def compile_cuda(source: str) -> str:
    """Return the PTX of CUDA text; AssertionError holds the compiler's words where it refuses."""
    nvrtc = ctypes.CDLL(_library())
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"text.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
    status = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options)
    assert status == 0, _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    return _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)


def _library() -> str:
    found = [
        path
        for folder in site.getsitepackages()
        for path in sorted(Path(folder).glob("nvidia/**/libnvrtc.so*"))
        if "builtins" not in path.name and "alt" not in path.name
    ]
    if not found:
        pytest.skip("needs NVRTC, which torch's CUDA builds bring")
    return str(found[0])


def _text(measure, read, program) -> str:
    size = ctypes.c_size_t()
    measure(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    read(program, text)
    return text.value.decode()
