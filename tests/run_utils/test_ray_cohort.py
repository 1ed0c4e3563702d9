"""A cohort on a Ray cluster of two nodes: the outputs of one process, whatever is killed meanwhile."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks.fault_process import find_holder
from config.launch import LaunchSettings
from config.schema import InferSettings
from run_utils.cohort.schedule import Schedule
from run_utils.cohort.share import Share
from run_utils.inference.batch_run import infer_all
from run_utils.inference.output_folder import UNFINISHED
from run_utils.inference.status import DONE, SlideStatus
from tests.drawing import draw_pairs, paint_tissue
from tests.run_utils.test_slide_run import SMALL, write_slide
from tests.waiting import is_running, wait_until

pytestmark = pytest.mark.ray
SIDES = {"poison": 700, "middle": 400, "large": 900}  # px
OUTPUTS = ["json", "npy"]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_memory_monitor_refresh_ms": "0",  # else it kills workers too, where the machine's memory is short
    "PYTHONPATH": str(Path(__file__).parents[2]),  # which Ray takes from a script, but not from pytest
}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for name, side in SIDES.items():
        write_slide(folder / f"{name}.tif", paint_tissue(draw_pairs((side, side))))
    return folder


@pytest.fixture(scope="module")
def undisturbed(slides: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    output = tmp_path_factory.mktemp("one_process")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers with one CPU compute
    assert infer_all(settings(slides, checkpoint, output)) == 0
    torch.set_num_threads(before)
    return output


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head, and two nodes that each have room for one worker."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(2):
                add_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Any) -> None:
    """Add a node with room for one worker; on a busy machine its processes may not be there in time at once."""
    options = {"num_cpus": 1, "node_ip_address": "127.0.0.2", "object_store_memory": 80 * 2**20}
    try:
        cluster.add_node(**options)
    except Exception:  # Ray's own kind for this is none other
        cluster.add_node(**options)


def settings(slides: Path, checkpoint: Path, output: Path, **launch: object) -> InferSettings:
    return InferSettings(
        input=str(slides),
        output=str(output),
        checkpoint=str(checkpoint),
        outputs=OUTPUTS,
        device="cpu",
        precision="fp32",
        launch=LaunchSettings(**launch),
        **SMALL,
    )


def contents(output: Path) -> dict[str, bytes]:
    files = [path for kind in OUTPUTS for path in (output / kind).iterdir()]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def record(output: Path) -> dict:
    """Return the run's record without what differs between any two runs."""
    content = json.loads((output / "run.json").read_text())
    for entry in content["slides"].values():
        del entry["seconds"], entry["ended"]
    for name in ("output", "launch"):
        del content["settings"][name]
    return {**content, "time": None}


def journal(output: Path, name: str) -> Path:
    return output / UNFINISHED / f"{name}.journal"


def find_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_for(find: Callable[[], int | None], seconds: float = 120) -> int:
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return found


class Killer(threading.Thread):
    """Takes a node away in the middle of one slide, and kills (-9) the worker of another each time it starts on it."""

    def __init__(self, cluster: Any, output: Path, once: str, always: str) -> None:
        super().__init__(daemon=True)
        self.cluster, self.once, self.always = cluster, journal(output, once), journal(output, always)
        self.killed: list[str] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.002):
            if process := find_holder(self.always):
                self.kill(process, self.always)
            is_first = self.once.stem not in self.killed and find_size(self.once) > 15_000
            if is_first and (process := find_holder(self.once)):
                raylet = psutil.Process(process).ppid()
                self.kill(process, self.once)
                (node,) = [node for node in self.cluster.worker_nodes if raylet in pids_of(node)]
                self.cluster.remove_node(node, allow_graceful=False)

    def kill(self, process: int, path: Path) -> None:
        os.kill(process, signal.SIGKILL)
        self.killed.append(path.stem)
        wait_for(lambda: find_holder(path) != process)


def pids_of(node: Any) -> set[int]:
    return {info.process.pid for infos in node.all_processes.values() for info in infos}


def interrupt(path: Path, holders: list[int]) -> None:
    """Press Ctrl-C once a slide is being worked on."""
    holders.append(wait_for(lambda: find_holder(path)))
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_whatever_is_killed_the_outputs_become_those_of_one_process(
    cluster, slides: Path, checkpoint: Path, undisturbed: Path, tmp_path: Path, monkeypatch, caplog, capsys
) -> None:
    monkeypatch.setattr("run_utils.cohort.schedule.MOST_LOSSES", 2)
    monkeypatch.chdir(tmp_path)  # not where the nodes were started
    places = (Path(os.path.relpath(place)) for place in (slides, checkpoint, tmp_path))
    chosen = settings(*places, kind="ray", address=cluster.address)
    killer = Killer(cluster, tmp_path, once="large", always="poison")
    killer.start()
    assert infer_all(chosen) == 1
    killer.is_over.set()
    assert sorted(killer.killed) == ["large", "poison", "poison"]
    assert "large: its worker was lost, another one goes on with it" in caplog.text
    assert "poison: failed: its workers were lost" in capsys.readouterr().out
    done = {name: data for name, data in contents(undisturbed).items() if "poison" not in name}
    assert contents(tmp_path) == done
    written = {name: (tmp_path / name).stat().st_mtime_ns for name in done}

    holders: list[int] = []
    path = journal(tmp_path, "poison")
    threading.Thread(target=interrupt, args=(path, holders), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        infer_all(chosen)
    wait_for(lambda: not psutil.pid_exists(holders[0]), seconds=20)

    assert infer_all(settings(slides, checkpoint, tmp_path)) == 0
    assert contents(tmp_path) == contents(undisturbed)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in done} == written
    assert record(tmp_path) == record(undisturbed)
    assert not (tmp_path / UNFINISHED).exists()


class Doomed:
    """Does slides at once, but for `long`: the first to have that takes the other worker with it, which is idle."""

    def __init__(self, settings: InferSettings, cpus: int) -> None:
        self.folder = Path(settings.output)

    def start(self) -> int:
        return os.getpid()

    def run(self, name: str, path: Path) -> SlideStatus:
        other = self.folder / "short"
        if name == "short":
            other.write_text(str(os.getpid()))
        elif other.exists() or not (self.folder / "long").exists():
            (self.folder / "long").touch()
            wait_for(lambda: (self.folder / "is_idle").exists() and find_size(other))
            os.kill(int(other.read_text()), signal.SIGKILL)
            other.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return SlideStatus(name, DONE)


@pytest.mark.slow
@pytest.mark.parametrize("is_told_late", [False, True])
def test_a_worker_that_was_lost_while_idle_is_not_given_a_slide(
    cluster, tmp_path: Path, monkeypatch, is_told_late: bool
) -> None:
    import ray

    from run_utils.cohort import ray_cohort

    monkeypatch.setattr("run_utils.cohort.ray_cohort.Worker", Doomed)
    monkeypatch.setattr("run_utils.cohort.schedule.MOST_LOSSES", 2)
    costs = {"long": 2.0, "short": 1.0}
    real = ray.wait

    def wait(promises: list[Any], *, timeout: float, **options: Any) -> Any:
        real(promises, num_returns=1, timeout=timeout)
        if (tmp_path / "short").exists():  # and has ended: it is told of only when the other one is lost
            (tmp_path / "is_idle").touch()
            real(promises, num_returns=len(promises))
        return real(promises, timeout=timeout, **options)

    if is_told_late:
        monkeypatch.setattr(ray, "wait", wait)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its name is pytest's
    chosen, files = InferSettings(output=str(tmp_path)), dict.fromkeys(costs, tmp_path)
    with ray.init(address=cluster.address, logging_level="ERROR"):
        cohort = ray_cohort._Cohort(chosen, files, Schedule(costs), Share(2, 0, 0.0))
        ends = {}
        for end in cohort.run():
            ends[end.name] = end.status
            (tmp_path / "is_idle").touch()
        cohort.end()
    assert ends == {"short": DONE, "long": DONE}
    assert cohort._schedule._losses == {"long": 1}


def test_a_cluster_that_has_no_room_is_told_and_waited_for(
    cluster, tmp_path: Path, monkeypatch, caplog
) -> None:
    import ray

    from run_utils.cohort import ray_cohort

    waits: list[Any] = []
    real = ray.wait

    def wait(promises: list[Any], **options: Any) -> Any:
        waits.extend([options["timeout"]] if options["timeout"] else [])
        return ([], promises) if len(waits) < 3 else real(promises, **options)

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr("run_utils.cohort.ray_cohort.Worker", Doomed)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray.init(address=cluster.address, logging_level="ERROR"):
        cohort = ray_cohort._Cohort(
            InferSettings(output=str(tmp_path)),
            {"short": tmp_path},
            Schedule({"short": 1.0}),
            Share(1, 1, 0.0),
        )
        assert [end.status for end in cohort.run()] == [DONE]
        cohort.end()
    assert caplog.text.count("no worker has started within 60 s: each asks for 1 CPUs and 0 GPUs") == 1


@pytest.mark.slow
def test_workers_end_with_a_command_that_is_killed_and_the_same_one_does_what_is_missing(
    cluster, slides: Path, checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    chosen = settings(slides / "large.tif", checkpoint, tmp_path, kind="ray", address=cluster.address)
    command = multiprocessing.get_context("spawn").Process(target=infer_all, args=(chosen,))
    command.start()
    path = journal(tmp_path, "large")
    worker = wait_for(lambda: find_holder(path))
    command.kill()
    command.join()
    wait_until(lambda: not is_running(worker))
    assert path.exists()  # in the middle of it
    assert infer_all(chosen) == 0
    expected = {name: data for name, data in contents(undisturbed).items() if "large" in name}
    assert contents(tmp_path) == expected


def test_two_cohorts_in_one_folder_refuse_each_other(slides: Path, checkpoint: Path, tmp_path: Path) -> None:
    from run_utils.cohort.folder import holding

    with holding(tmp_path), pytest.raises(ValueError, match=r"another cohort run is writing to output="):
        infer_all(settings(slides, checkpoint, tmp_path, kind="ray"))


def test_no_cluster_at_the_address_is_named(slides: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at launch\.address=127\.0\.0\.1:1 "):
        infer_all(settings(slides, checkpoint, tmp_path, kind="ray", address="127.0.0.1:1"))


def test_a_cluster_that_ray_cannot_use_is_named_with_what_to_do(
    slides: Path, checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    def refuse(**options: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Python: 3.12")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(
        ConnectionError, match=r"at launch\.address=auto \(Version mismatch.*same versions of"
    ):
        infer_all(settings(slides, checkpoint, tmp_path, kind="ray", address="auto"))
