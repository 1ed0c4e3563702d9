"""How a cluster is shared among workers: how many there are, and what each of them has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from config.launch import LaunchSettings

Node = tuple[float, float]  # CPUs and GPUs of a machine


class Share(NamedTuple):
    """What is asked of a cluster.

    Attributes:
        workers: how many.
        cpus: of each.
        gpus: of each; below 1 several share one.
    """

    workers: int
    cpus: int
    gpus: float


def share_nodes(nodes: Sequence[Node], settings: LaunchSettings) -> Share:
    """Return how many workers a cluster gets, and what each has, where the settings leave it open.

    Args:
        nodes: of the cluster.
        settings: of the launch.

    Raises:
        ValueError: not one worker has room.
    """
    gpus = settings.gpus if settings.gpus >= 0 else float(any(of_node >= 1 for _, of_node in nodes))
    workers = settings.workers or _room(nodes, max(settings.cpus, 1), gpus, is_alone=not settings.cpus)
    most = int(max((cpus for cpus, _ in nodes), default=0))
    choices = [settings.cpus] if settings.cpus else range(most, 0, -1)
    cpus = next((cpus for cpus in choices if _room(nodes, cpus, gpus) >= max(workers, 1)), settings.cpus or 1)
    if not workers or not _room(nodes, cpus, gpus):
        listed = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in nodes) or "no nodes"
        raise ValueError(
            f"a worker of {cpus} CPUs and {gpus:g} GPUs has no room in a cluster of {listed}; "
            "lower launch.cpus or launch.gpus"
        )
    return Share(workers, cpus, gpus)


def _room(nodes: Sequence[Node], cpus: int, gpus: float, *, is_alone: bool = False) -> int:
    """Return how many workers fit; on a node without GPUs only one where it is to have the node alone."""
    fitting = 0
    for of_cpus, of_gpus in nodes:
        by_cpus = int(of_cpus // cpus)
        if is_alone and not gpus:
            by_cpus = min(by_cpus, 1)
        fitting += min(by_cpus, int(of_gpus / gpus + 1e-9)) if gpus else by_cpus
    return fitting
