"""Settings of where the runs of a sweep train (`run_train.py --multirun`); they are none of a run's own settings."""

from __future__ import annotations

from dataclasses import dataclass

from config.checks import check_choice, check_not_negative, check_positive


@dataclass
class SweepLaunchSettings:
    """Where the runs of a sweep train.

    Attributes:
        kind: `local`, one after another on this machine, or `slurm`, each as a job. Write launch=slurm for short.
        gpus: of each run; above 1 torchrun starts a process for each, on a CPU too. Of Slurm, 0 asks for none.
        cpus: of each job; 0 for the cluster's default.
        memory_gb: of each job; 0 for the cluster's default.
        minutes: after which a job is ended.
        attempts: times that a job whose time was up is started, each going on where the one before was saved.
        workers: jobs at once; 0 for Hydra's limit of 256.
        partition: of Slurm; empty for its default.
        cluster: `slurm`, or `local` for jobs on this machine, all at once.
    """

    kind: str = "local"
    gpus: int = 1
    cpus: int = 0
    memory_gb: int = 0
    minutes: int = 720
    attempts: int = 2
    workers: int = 0
    partition: str = ""
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("launch", self.kind, ("local", "slurm"))
        check_choice("launch.cluster", self.cluster, ("slurm", "local"))
        check_positive(minutes=self.minutes, attempts=self.attempts)
        check_not_negative(
            "launch", gpus=self.gpus, cpus=self.cpus, memory_gb=self.memory_gb, workers=self.workers
        )
