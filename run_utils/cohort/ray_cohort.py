"""A cohort on a Ray cluster: an actor for each worker, slides by falling size, lost workers replaced."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from config.schema import InferSettings
from dataloader.address import Address
from run_utils.cohort.schedule import Schedule
from run_utils.cohort.share import Share, share_nodes
from run_utils.cohort.worker import Worker
from run_utils.devices import usable_cpus
from run_utils.inference.status import FAILED, SlideStatus

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import, which would report itself
try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ValueError(
        "launch=ray needs Ray, not installed here: uv pip install -r pyproject.toml --extra ray -c constraints.txt"
    ) from error

logger = logging.getLogger(__name__)

OBJECT_STORE = 2**27  # bytes: only names and statuses go through it
CONNECT_S = 10.0
START_S = 60.0  # after which it is said that no worker starts
MOST_LOST_STARTS = 3  # workers lost one after another before any of them was ready
MOST_TOLD = 120  # characters of each line of an error
LOST = (
    "its workers were lost, each in the middle of it, perhaps for want of memory; its last one left no reason"
)


def run_on_ray(
    settings: InferSettings, files: Mapping[str, Path | Address], costs: Mapping[str, float]
) -> Generator[SlideStatus, None, None]:
    """Give the end of each slide as it comes.

    Args:
        settings: of the run.
        files: slides by name.
        costs: of each slide, in any one unit.

    Raises:
        ValueError: no worker can start.
        ConnectionError: there is no cluster at the address.
    """
    with _cluster(settings.launch.address):
        share = share_nodes(_nodes(), settings.launch)
        logger.info("%d workers, each with %d CPUs and %g GPUs", *share)
        cohort = _Cohort(settings, files, Schedule(costs, settings.launch.attempts), share)
        try:
            yield from cohort.run()
        finally:
            cohort.end()


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    address = address or os.environ.get("RAY_ADDRESS", "") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {
            "num_cpus": usable_cpus(),
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
        }
    else:
        _check_address(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, **options)
    except (RuntimeError, RayError) as error:
        raise ConnectionError(
            f"Ray cannot be used at launch.address={address} ({_describe(error)}): run this command on a machine of "
            "the cluster, with the same versions of Python and Ray"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise ConnectionError where nothing answers at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at launch.address={address} ({error}); start one: ray start --head"
        ) from error


def _nodes() -> list[tuple[float, float]]:
    """Return the CPUs and GPUs of each node."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(of_node.get("CPU", 0.0), of_node.get("GPU", 0.0)) for of_node in resources]


class _Cohort:
    """Workers, and which slide each of them has."""

    def __init__(
        self, settings: InferSettings, files: Mapping[str, Path | Address], schedule: Schedule, share: Share
    ) -> None:
        self._settings = settings
        self._files = files
        self._schedule = schedule
        self._share = share
        # by promise: worker, and its slide; none while it starts
        self._tasks: dict[Any, tuple[Any, str]] = {}
        self._has_warned = self._has_lost = False
        self._idle: list[Any] = []
        self._actors: Any = ray.remote(Worker)
        self._lost_starts = 0

    def run(self) -> Iterator[SlideStatus]:
        """Give the end of each slide as it comes."""
        for _ in range(min(self._share.workers, len(self._files))):
            self._hire()
        while not self._schedule.is_finished:
            for promise in self._wait():
                worker, name = self._tasks.pop(promise)
                if not name:
                    self._end_start(promise, worker)
                elif (status := self._end_slide(promise, worker, name)) is not None:
                    yield status
            if self._has_lost:
                self._replace_idle()
            self._hand_out()

    def _wait(self) -> Sequence[Any]:
        """Return the promises that are kept, once one is; none after a while in which none was."""
        promises = list(self._tasks)
        if not ray.wait(promises, num_returns=1, timeout=START_S)[0]:
            self._say_what_is_missing()
        ready: Sequence[Any] = ray.wait(promises, num_returns=len(promises), timeout=0)[0]
        return ready

    def _say_what_is_missing(self) -> None:
        """Warn, once, where no worker has started for long: others may have what the cluster has."""
        if self._has_warned or self._idle or any(name for _, name in self._tasks.values()):
            return
        self._has_warned = True
        free = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU")}
        logger.warning(
            "no worker has started within %g s: each asks for %d CPUs and %g GPUs, and of those of the cluster "
            "free are %s; lower launch.cpus or launch.gpus, or wait",
            START_S, self._share.cpus, self._share.gpus, free or "none",
        )  # fmt: skip

    def end(self) -> None:
        """End all workers, wherever they are in their slides: their journals stay."""
        for worker in [*self._idle, *(worker for worker, _ in self._tasks.values())]:
            ray.kill(worker)

    def _hire(self) -> None:
        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus}
        worker = self._actors.options(**options).remote(self._settings, self._share.cpus)
        self._tasks[worker.start.remote()] = (worker, "")

    def _make_up(self) -> None:
        """Hire another worker for one that was lost, if those that are left are fewer than their slides."""
        if self._schedule.num_left > len(self._tasks) + len(self._idle):
            self._hire()

    def _hand_out(self) -> None:
        while self._idle and (name := self._schedule.take()) is not None:
            worker = self._idle.pop()
            self._tasks[worker.run.remote(name, self._files[name])] = (worker, name)

    def _end_start(self, promise: Any, worker: Any) -> None:
        try:
            ray.get(promise)
        except RayTaskError as error:  # what it cannot use, another one cannot either
            if not self._tasks and not self._idle:
                raise _cause(error) from error
            logger.error("a worker cannot start, the others go on: %s", _cause(error))
        except RayError as error:
            self._lost_starts += 1
            if self._lost_starts >= MOST_LOST_STARTS and not self._tasks and not self._idle:
                raise ValueError(f"workers are lost as they start: {_describe(error)}") from error
            logger.warning("a worker was lost as it started: %s", _describe(error))
            if self._lost_starts < MOST_LOST_STARTS:
                self._make_up()
        else:
            self._lost_starts = 0
            self._idle.append(worker)

    def _end_slide(self, promise: Any, worker: Any, name: str) -> SlideStatus | None:
        """Return how a slide ended; None where it is tried again."""
        try:
            status: SlideStatus = ray.get(promise)
            self._idle.append(worker)
        except RayTaskError as error:
            status = SlideStatus(name, FAILED, str(_cause(error)))
            self._idle.append(worker)
        except RayError as error:
            self._has_lost = True
            return self._lose(name, _describe(error))
        if status.status != FAILED:
            self._schedule.end(name)
            return status
        if self._schedule.fail(name):
            logger.warning("%s: is tried again later", name)
            return None
        return status

    def _replace_idle(self) -> None:
        """End workers without a slide: one gone with a lost one's machine would seem lost in the middle of its next."""
        idle, self._idle, self._has_lost = self._idle, [], False
        for worker in idle:
            ray.kill(worker)
            self._make_up()

    def _lose(self, name: str, why: str) -> SlideStatus | None:
        is_left = self._schedule.lose(name)
        self._make_up()
        if is_left:
            logger.warning("%s: its worker was lost, another one goes on with it: %s", name, why)
            return None
        return SlideStatus(name, FAILED, LOST)


def _cause(error: RayTaskError) -> Exception:
    cause: Exception = getattr(error, "cause", None) or error
    return cause


def _describe(error: Exception) -> str:
    """Return an error of Ray's on one line: what happened, and the last it says, where a cause stands."""
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    told = [shorten(line, MOST_TOLD, placeholder=" …") for line in (lines[0], lines[-1])]
    return " ".join(dict.fromkeys(told))
