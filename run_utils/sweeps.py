"""Sweeps (`run_train.py --multirun`): each run has a folder and a process of its own, and failures are told at the end.

A process of its own, so that no run finds the memory, the seeds, the threads or the broken GPU context that another
left, and one that the system kills takes no other with it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.sweeps import SweepLaunchSettings
from run_utils.training.flat_settings import shorten_names
from run_utils.training.record import DONE, FAILURE_NAME, PEER_ENDED, read_record, read_status

logger = logging.getLogger(__name__)

SWEEP_DIR = ".sweep"  # in the sweep's folder: what Hydra and submitit write
MAX_NAME = 100  # characters; file systems take 255 bytes
UNSAFE = re.compile(r"[^\w.+=,-]+")  # in the name of a folder
QUOTES = "'\"[]"  # around a text or a list
KEPT = 16_000  # bytes of what a process said last, in which its reason is looked for
ERROR = re.compile(r"^(?:\[rank\d+\]: )?([\w.]+(?:Error|Exception): .+)$", re.MULTILINE)  # ends a traceback
SIGNAL = re.compile(r"^traceback : (Signal .+)$", re.MULTILINE)  # torchrun's; of the first to end comes last
PR_SET_PDEATHSIG = 1  # Linux


@dataclass(frozen=True)
class Sweep:
    """What the runs of a sweep have in common.

    Attributes:
        script: file of the command.
        output: folder of the sweep.
        swept: names of the settings that the runs differ in.
        num_processes: of each run; above 1 they are started by torchrun.
        options: Hydra's, which each run is given too.
    """

    script: str
    output: str
    swept: tuple[str, ...]
    num_processes: int = 1
    options: tuple[str, ...] = ()

    def folder_of(self, values: Mapping[str, str]) -> Path:
        """Return the folder of the run with these values of the swept settings, as texts by full name."""
        return Path(self.output) / name_run({name: values[name] for name in self.swept})

    def run_one(self, arguments: Sequence[str], folder: Path, settings_text: str) -> None:
        """Train one run into its folder, unless it has ended; why it failed is written there.

        Args:
            arguments: of the command, but for `output`.
            folder: of the run.
            settings_text: what `settings.yaml` of the run holds.
        """
        if _has_ended(folder, settings_text):
            logger.info("%s: has ended before", folder)
            return
        starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.num_processes}"]
        command = [sys.executable, *(starter if self.num_processes > 1 else []), self.script]
        logger.info("%s: starts", folder)
        reason = run_apart([*command, *self.options, *arguments], self.script)
        if reason:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILURE_NAME).write_text(f"{reason}\n", encoding="utf-8")
            logger.error("%s: failed: %s", folder, reason)


def name_run(values: Mapping[str, str]) -> str:
    """Return a name for the run with these values of the swept settings, by their full names: short, safe, stable.

    A setting is called by as much of the end of its name as tells it from the others. What is no letter, digit or one
    of `.+=,-_` becomes `-`; a long name ends in a hash of what was cut off. Without values it is empty.
    """
    short = shorten_names(list(values))
    name = UNSAFE.sub("-", ",".join(f"{short[key]}={value.strip(QUOTES)}" for key, value in values.items()))
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}-{digest}"


def run_apart(command: Sequence[str], script: str) -> str:
    """Run a command in a process that ends with this one, and show what it says; return why it failed, "" if not."""
    said = b""
    bind = functools.partial(_bind_to_parent, os.getpid())
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=bind) as process:
        assert process.stderr is not None
        while chunk := os.read(process.stderr.fileno(), 2**16):
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
            said = (said + chunk)[-KEPT:]
    status = process.returncode
    if status < 0:
        hint = ", as where memory runs out" if -status == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}"
    return _find_reason(said.decode(errors="replace"), script) or f"exit status {status}" if status else ""


def _find_reason(said: str, script: str) -> str:
    """Return the last line in which a script says why it ends, or else an error or a signal, or the last line of all.

    That another process ended is a reason only where that one gave none.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = "\n".join(lines)
    own = f"{Path(script).name}: "
    told = [line.rpartition(own)[2] for line in lines if own in line]  # a bar may stand before it
    first = [line for line in told if PEER_ENDED not in line]
    return (first or ERROR.findall(text) or SIGNAL.findall(text) or told or lines or [""])[-1]


def _bind_to_parent(parent: int) -> None:
    """Ask the system to end this process when the one that started it is gone, killed included.

    Slurm's warning that the time is up goes to all processes of a job; it is for submitit's alone, which sends the job
    again.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before that
            os.kill(os.getpid(), signal.SIGTERM)


def _has_ended(folder: Path, settings_text: str) -> bool:
    saved = folder / "settings.yaml"
    is_same = saved.is_file() and saved.read_text() == settings_text
    return is_same and bool(read_record(folder).get("is_done"))


def forget_failures(folders: Sequence[Path]) -> None:
    """Remove what earlier attempts wrote about why these runs failed."""
    for folder in folders:
        (folder / FAILURE_NAME).unlink(missing_ok=True)


def report_failures(folders: Sequence[Path], lost: str) -> int:
    """Say which runs failed and why; return the exit status: 1 where one did.

    Args:
        folders: of the runs.
        lost: what the launcher says of a job that ended without an answer, and so ended the waiting; "" for none.
    """
    failures = {folder: folder / FAILURE_NAME for folder in folders}
    reasons = {folder: path.read_text().strip() for folder, path in failures.items() if path.is_file()}
    for folder, reason in reasons.items():
        logger.error("%s: %s", folder, reason)
    if lost:
        left = [str(folder) for folder in folders if folder not in reasons and read_status(folder)[0] != DONE]
        logger.error("%s; not done: %s; jobs that were sent go on", lost, ", ".join(left) or "none")
        logger.error("start the same command again when they have ended, to go on and to see all")
    if reasons:
        logger.error("%d of %d runs failed", len(reasons), len(folders))
    return int(bool(reasons or lost))


def launcher_options(launch: SweepLaunchSettings, output: str) -> dict[str, object]:
    """Return the values of Hydra's launcher that settings of launching stand for, by name; {} for runs in a row here.

    Raises:
        ValueError: where jobs are asked for, and what starts them is not there.
    """
    if launch.kind == "local":
        return {}
    has_plugin = importlib.util.find_spec("hydra_plugins") is not None
    if not has_plugin or importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise ValueError(
            "launch=slurm needs hydra-submitit-launcher, not installed here: "
            "uv pip install -r pyproject.toml --extra slurm -c constraints.txt"
        )
    is_slurm = launch.cluster == "slurm"
    if is_slurm and shutil.which("sbatch") is None:
        raise ValueError(
            "launch=slurm finds no sbatch here; start it where Slurm is, or set launch.cluster=local"
        )
    options = {
        "hydra/launcher": f"submitit_{launch.cluster}",
        "hydra.launcher.submitit_folder": f"{output}/{SWEEP_DIR}/jobs/%j",
        "hydra.launcher.timeout_min": launch.minutes,
        "hydra.launcher.cpus_per_task": launch.cpus,
        "hydra.launcher.gpus_per_node": launch.gpus,
        "hydra.launcher.mem_gb": launch.memory_gb,
    }
    if is_slurm:
        options |= {
            "hydra.launcher.partition": launch.partition,
            "hydra.launcher.array_parallelism": launch.workers,
            "hydra.launcher.max_num_timeout": launch.attempts - 1,
        }
    return {name: value for name, value in options.items() if value}
