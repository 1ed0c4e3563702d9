"""What this process may compute on: device, number format and CPUs, chosen where a setting says `auto`."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

import torch

CPU_FACTS, MEMORY_FACTS = Path("/proc/cpuinfo"), Path("/proc/meminfo")  # on Linux
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
CPUS_VARIABLE = "HOVERNET_CPUS"  # environment variable: CPUs that one of several workers on a machine may use
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Return the device that a setting names; `auto` takes a GPU where there is one.

    Raises:
        ValueError: for a name torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is not known; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={name} is not there: {torch.cuda.device_count()} GPUs found; use device=cpu"
        )
    return device


def resolve_devices(names: str) -> list[torch.device]:
    """Return the devices that a setting names, joined by commas; `all` names every GPU of this machine.

    Raises:
        ValueError: as `resolve_device`, and for devices of two kinds.
    """
    if names == "all":
        names = ",".join(f"cuda:{index}" for index in range(torch.cuda.device_count())) or "cuda"
    devices = [resolve_device(name.strip()) for name in names.split(",")]
    if len({device.type for device in devices}) > 1:
        raise ValueError(
            f"device={names} names devices of two kinds; nuclei are found alike on one kind alone"
        )
    return devices


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the number format that a setting names; `auto` takes bf16 where the device computes in it."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_computes_bf16() else torch.float32


def _cpu_computes_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    if "AVX512" not in capabilities:
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def usable_cpus() -> int:
    """Return how many CPUs this process may use, which under a scheduler are fewer than the machine has."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CPUS_VARIABLE, "")
    return min(usable, int(share)) if share.isdigit() else usable


def describe_device(device: torch.device) -> str:
    """Return what a device is, such as `NVIDIA H200` or `AMD EPYC, 2 CPUs`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = ""
    if CPU_FACTS.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", CPU_FACTS.read_text(), re.MULTILINE)
        model = found.group(1).strip() if found else ""
    return f"{model or platform.processor() or platform.machine()}, {usable_cpus()} CPUs"


def free_memory(device: torch.device) -> int:
    """Return the bytes of a device's memory that can be taken now, its container's limit kept."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [pages]
    if MEMORY_FACTS.is_file():
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", MEMORY_FACTS.read_text(), re.MULTILINE)
        limits += [int(found.group(1)) * 1024] if found else []
    if CONTAINER_LIMIT.is_file() and (limit := CONTAINER_LIMIT.read_text().strip()).isdigit():
        limits.append(int(limit))
    return min(limits)


def check_compiler(setting: str, instead: str) -> None:
    """Raise ValueError where torch.compile, asked for by a setting, finds no C++ compiler; name what to set instead."""
    from torch._inductor import config  # late: it takes a second to import

    names = [name for name in config.cpp.cxx if name]
    if not any(shutil.which(name) for name in names):
        raise ValueError(
            f"{setting} needs a C++ compiler, and {' or '.join(names)} is not found; install one, name it in the "
            f"environment variable CXX, or set {instead}"
        )
