"""Benchmarks run one by one, each a process of its own; what they state is kept, with the machine it was on."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.figures import FILE_VARIABLE, Figure
from run_utils.files import replacing
from run_utils.provenance import describe_environment

ROOT = Path(__file__).resolve().parents[1]
DONE, FAILED, LEFT_OUT = "done", "failed", "left out"
MORE_PACKAGES = (
    "openvino",
    "onnxruntime",
    "tifffile",
    "openslide-python",
    "zarr",
    "cupy-cuda12x",
    "cupy-cuda13x",
)
REASON_LENGTH = 200  # letters
GRACE_SECONDS = 5  # between asking a process to end and ending it


@dataclass(frozen=True)
class Benchmark:
    """One row: a command, and what it is about.

    Attributes:
        name: of the row, and of what it prints.
        theme: under which its figures stand.
        command: of Python's, such as `-m benchmarks.decode`.
        minutes: that it takes about, on two cores.
        needs: what must be there, by name.
        limit_s: seconds after which it is ended.
        is_asked_for: whether it runs only where it is named.
    """

    name: str
    theme: str
    command: tuple[str, ...]
    minutes: float = 1.0
    needs: tuple[str, ...] = ()
    limit_s: float = 3600
    is_asked_for: bool = False

    @property
    def line(self) -> str:
        """What one types."""
        return "python " + shlex.join(self.command)


@dataclass(frozen=True)
class Result:
    """How a benchmark ended.

    Attributes:
        status: done, failed or left out.
        reason: why, where it was not done; the last line it printed, where it was and stated nothing.
        figures: what it stated, also before it failed.
        seconds: that it took.
        environment: commit, time, machine, versions.
    """

    status: str
    reason: str = ""
    figures: Sequence[Figure] = ()
    seconds: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)


def run(
    benchmark: Benchmark,
    printed_path: Path,
    *,
    needs: Mapping[str, Callable[[], str]],
    limit_s: float | None = None,
) -> Result:
    """Run a benchmark to its end, or to its limit.

    Args:
        benchmark: the row.
        printed_path: of the text file that gets what it prints, without paths of this machine.
        needs: say, or see to it, that what a row needs is there: nothing, or what is missing and how to get it.
        limit_s: seconds, where they are fewer than the row's own.
    """
    environment = describe_machine()
    missing = [text for text in (needs[name]() for name in benchmark.needs) if text]
    if missing:
        return Result(LEFT_OUT, "; ".join(missing), environment=environment)
    limit_s = min(benchmark.limit_s, limit_s or benchmark.limit_s)
    with tempfile.TemporaryDirectory() as folder:
        figures_path, printed, errors = (Path(folder) / name for name in ("figures", "printed", "errors"))
        start = time.perf_counter()
        status = _run_process(benchmark.command, figures_path, (printed, errors), limit_s)
        seconds = time.perf_counter() - start
        texts = [without_paths(path.read_text(errors="replace")).strip() for path in (printed, errors)]
        figures = read_figures(figures_path)
    printed_path.parent.mkdir(parents=True, exist_ok=True)
    printed_path.write_text(texts[0] + "\n")
    said = "\n".join(texts if status else texts[:1]).strip().splitlines()[-1:] or ["it said nothing"]
    if status == 0:
        return Result(DONE, "" if figures else said[0][:REASON_LENGTH], figures, seconds, environment)
    reason = f"exit status {status}: {said[0][:REASON_LENGTH]}"
    if status is None:
        reason = f"ended after {limit_s:.0f} s, its limit"
    return Result(FAILED, reason, figures, seconds, environment)


def _run_process(
    command: Sequence[str], figures_path: Path, outputs: tuple[Path, Path], limit_s: float
) -> int | None:
    """Return the exit status, None for one that was ended at its limit; its own children end with it."""
    environment = {**os.environ, FILE_VARIABLE: str(figures_path), "NO_ALBUMENTATIONS_UPDATE": "1"}
    with outputs[0].open("w") as printed, outputs[1].open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=printed,
            stderr=errors,
            start_new_session=True,
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:  # its limit, or Ctrl-C
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, which is a process group of its own."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_figures(path: Path) -> list[Figure]:
    """Return what was stated, from lines of JSON; nothing where there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [Figure(**json.loads(line)) for line in lines]


def without_paths(text: str) -> str:
    """Return a text without folders of this machine and control codes."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace(str(ROOT) + "/", "").replace(str(ROOT), ".")
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/[\w.-]+", "TMP", text).replace(str(Path.home()), "~")
    return "\n".join(line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n"))


def describe_machine() -> dict[str, Any]:
    """Return commit, time, versions, CPU, memory and GPU as plain data."""
    import torch

    from run_utils.devices import describe_device

    facts = describe_environment()
    more = {name: found for name in MORE_PACKAGES if (found := _version(name))}
    return {
        **facts,
        "packages": {**{name: found for name, found in facts["packages"].items() if found}, **more},
        "is_changed": _has_changes(),
        "cpu": describe_device(torch.device("cpu")),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpu": describe_device(torch.device("cuda")) if torch.cuda.is_available() else "",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _has_changes() -> bool:
    """Return whether a tracked file of code differs from the commit."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        "*.py",
        "*.yaml",
    ]
    try:
        return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return False


def describe(result: Result) -> None:
    """Print how a benchmark ended, and its figures."""
    reason = f": {result.reason}" if result.reason else ""
    print(f"  {result.status} after {result.seconds:.0f} s{reason}")
    for figure in result.figures:
        print(f"  {figure}", flush=True)


def save(results: Mapping[str, Result], path: Path) -> None:
    """Write results as JSON, by name of benchmark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        content = {name: asdict(result) for name, result in results.items()}
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> dict[str, Result]:
    """Return what `save` wrote; nothing where there is no file."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    return {
        name: Result(**{**facts, "figures": [Figure(**figure) for figure in facts["figures"]]})
        for name, facts in content.items()
    }
