"""Settings of where the work of a command is done: in this process, on a Ray cluster, or as jobs of Slurm."""

from __future__ import annotations

from dataclasses import dataclass

from config.checks import check_choice, check_not_negative, check_positive

KINDS = ("local", "ray", "slurm")


@dataclass
class LaunchSettings:
    """Where slides are worked on.

    Attributes:
        kind: `local`, in this process, one slide after another, small images side by side; `ray`, by workers of a Ray
            cluster; `slurm`, by jobs.
        workers: processes that work on slides at once; 0 takes one a GPU of the cluster, or one for each share of
            `cpus` CPUs where it has no GPU; of Slurm, 1.
        cpus: CPUs of each worker; 0 shares those of the cluster among the workers (Ray), or takes what a job gets.
        gpus: GPUs of each worker; below 1 (Ray) several share one; above 1, with device=all, a worker uses several; -1
            takes one where the cluster has any (Ray), or one (Slurm), and none with device=cpu or predictor=triton.
        attempts: times that a slide is tried, each going on where the one before stopped, before it counts as failed.
        address: of the Ray cluster; empty takes the one of the environment (`RAY_ADDRESS`), or starts one here.
        cluster: of submitit: `slurm`, or `local` for jobs on this machine.
        partition: of Slurm; empty for its default.
        minutes: of Slurm, after which a job is ended; one that has not finished is queued again, and goes on.
        memory_gb: of Slurm, for each job; 0 for its default.
    """

    kind: str = "local"
    workers: int = 0
    cpus: int = 0
    gpus: float = -1.0
    attempts: int = 2
    address: str = ""
    cluster: str = "slurm"
    partition: str = ""
    minutes: int = 720
    memory_gb: int = 0

    def __post_init__(self) -> None:
        """Check what no single field can say."""
        check_choice("launch.kind", self.kind, KINDS)
        check_choice("launch.cluster", self.cluster, ("slurm", "local"))
        check_positive(attempts=self.attempts, minutes=self.minutes)
        check_not_negative("launch", workers=self.workers, cpus=self.cpus, memory_gb=self.memory_gb)
        if (self.gpus < 0 and self.gpus != -1) or (self.gpus > 1 and self.gpus % 1):
            raise ValueError(
                f"launch.gpus={self.gpus:g} must be 0 or more, whole above 1, or -1 to choose by the cluster"
            )
        if self.kind == "slurm" and 0 < self.gpus < 1:
            raise ValueError(f"launch.gpus={self.gpus:g}: a job of Slurm gets whole GPUs; set launch.gpus=1")

    def check_device(self, device: str) -> None:
        """Raise ValueError for a setting that names GPUs of one machine, where each worker is given its own."""
        has_several = device == "all" and self.gpus > 1
        if self.kind != "local" and not has_several and (device == "all" or ":" in device or "," in device):
            raise ValueError(
                f"device={device} names devices of one machine, but launch={self.kind} gives each worker its own; "
                "leave device= out, or set launch.gpus=2 device=all for two GPUs each"
            )
