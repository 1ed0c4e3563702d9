"""What cohorts are made of: shares of a cluster, sizes of slides, claims on them, and what workers agree on."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit
from PIL import Image

from config.launch import LaunchSettings
from config.schema import InferSettings
from config.triton import TritonSettings
from run_utils.build_inference import build_predictor
from run_utils.cohort.agreement import Agreement
from run_utils.cohort.claims import Claims, remove_claims
from run_utils.cohort.cohort import _record_failure, infer_cohort, resolve
from run_utils.cohort.costs import estimate_costs
from run_utils.cohort.share import Share, share_nodes
from run_utils.cohort.slurm_cohort import LOST, Job, _wait, run_on_slurm
from run_utils.cohort.worker import Worker
from run_utils.devices import usable_cpus
from run_utils.inference.journal import hold_journal
from run_utils.inference.manifest import Manifest
from run_utils.inference.output_folder import UNFINISHED
from run_utils.inference.status import DONE, FAILED, IS_BUSY, SKIPPED, SlideStatus, summarise


@pytest.mark.parametrize(
    ("nodes", "launch", "share"),
    [
        ([(16, 0)], {}, Share(1, 16, 0)),  # one process uses all CPUs of its machine
        ([(16, 0), (8, 0)], {}, Share(2, 8, 0)),
        ([(16, 0)], {"workers": 3}, Share(3, 5, 0)),
        ([(3, 0), (3, 0)], {"workers": 3}, Share(3, 1, 0)),  # 2 CPUs each have room for two
        ([(16, 0), (9, 0)], {"cpus": 4}, Share(6, 4, 0)),
        ([(0, 0), (64, 8), (64, 8)], {}, Share(16, 8, 1)),
        ([(64, 8)], {"gpus": 0.5}, Share(16, 4, 0.5)),
        ([(64, 8)], {"gpus": 0, "cpus": 32}, Share(2, 32, 0)),
        ([(4, 1)], {"workers": 5}, Share(5, 1, 1)),  # four of them wait for machines to come
    ],
)
def test_a_cluster_is_shared_as_settings_say_and_else_fully(nodes, launch: dict, share: Share) -> None:
    found = share_nodes(nodes, LaunchSettings(kind="ray", **launch))
    assert found == share


@pytest.mark.parametrize(
    ("nodes", "launch"), [([], {}), ([(4, 0)], {"cpus": 8}), ([(4, 0)], {"gpus": 1}), ([(0, 0)], {})]
)
def test_a_cluster_without_room_is_named(nodes, launch: dict) -> None:
    with pytest.raises(ValueError, match=r"has no room in a cluster of .*lower launch\.cpus or launch\.gpus"):
        share_nodes(nodes, LaunchSettings(kind="ray", **launch))


def test_slides_cost_their_megapixels_and_unreadable_ones_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 500)).save(tmp_path / "image.png")
    Image.new("RGB", (1000, 100)).save(tmp_path / "slide.tif")
    (tmp_path / "text.svs").write_text("no slide")
    files = {name: tmp_path / name for name in ("image.png", "slide.tif", "text.svs", "gone.tif")}
    assert estimate_costs(files) == {"image.png": 1.0, "slide.tif": 0.1, "text.svs": 0.0, "gone.tif": 0.0}


def test_a_claim_is_held_by_one_and_remembers_what_became_of_others(tmp_path: Path) -> None:
    claims, status = Claims(tmp_path), SlideStatus("a.s", DONE, num_nuclei=7)
    with claims.take("a.s") as claim:
        assert claim is not None
        with claims.take("a.s") as other:
            assert other is None
        claim.start()
        claim.fail()
        claim.start()  # and lost
    assert claims.read_ends(["a.s", "b"]) == []
    with claims.take("a.s") as claim:
        assert (claim.failures, claim.losses, claim.is_over) == (1, 1, False)
        claim.start()
        claim.end(status)
        claim.pause()  # too late to matter
    with claims.take("a.s") as claim:
        assert claim.is_over
    assert claims.read_ends(["a.s", "b"]) == [status]
    assert Claims(tmp_path, claims.run).read_ends(["a.s"]) == [status]
    assert Claims(tmp_path).read_ends(["a.s"]) == []  # of another run
    remove_claims(tmp_path)
    with claims.take("a.s") as claim:
        assert claim is None
    assert not list(tmp_path.iterdir())


@pytest.fixture
def chosen(checkpoint: Path, tmp_path: Path) -> InferSettings:
    return InferSettings(
        input=str(tmp_path),
        output=str(tmp_path),
        checkpoint=str(checkpoint),
        device="cpu",
        predictor="torch",
        launch=LaunchSettings(kind="slurm", cluster="local"),
    )


def test_workers_use_the_window_of_the_first_until_all_are_gone(
    chosen: InferSettings, tmp_path: Path, monkeypatch
) -> None:
    def find(best: int) -> None:
        def choose(predictor, windows, **facts) -> int:
            return windows[0] if len(windows) == 1 else best

        monkeypatch.setattr("run_utils.build_inference.choose_window", choose)

    find(768)  # on one machine
    predictor = build_predictor(chosen)
    first = Agreement(tmp_path)
    plan, facts = first.make_plan(chosen, predictor)
    assert plan.window == facts["window"] == 768
    find(512)  # on another one
    second = Agreement(tmp_path)
    assert second.make_plan(chosen, predictor) == (plan, facts)
    assert not Agreement(tmp_path).forget()
    first.close()
    second.close()
    assert Agreement(tmp_path).forget()
    assert Agreement(tmp_path).make_plan(chosen, predictor)[0].window == 512


def test_a_worker_that_would_compute_otherwise_is_refused(chosen: InferSettings, tmp_path: Path) -> None:
    chosen.window, chosen.precision = 352, "fp32"
    Agreement(tmp_path).make_plan(chosen, build_predictor(chosen))
    chosen.precision = "bf16"
    with pytest.raises(
        ValueError, match=r"another way .*\(precision=bfloat16, there float32\): set it for all"
    ):
        Agreement(tmp_path).make_plan(chosen, build_predictor(chosen))


def test_a_worker_keeps_to_its_cpus(chosen: InferSettings, monkeypatch) -> None:
    import torch

    monkeypatch.setenv("HOVERNET_CPUS", "")
    before = torch.get_num_threads()
    chosen.window = 352
    worker = Worker(chosen, cpus=1)
    worker.start()
    plan = worker._runner.plan
    assert (usable_cpus(), torch.get_num_threads(), plan.read_workers, plan.decode_workers) == (1, 1, 1, 1)
    torch.set_num_threads(before)


def test_a_trace_of_several_processes_is_refused(chosen: InferSettings) -> None:
    chosen.profile = True
    with pytest.raises(
        ValueError, match=r"profile=true shows one process, not launch=slurm; set launch=local"
    ):
        infer_cohort(chosen, {})


def test_paths_become_absolute_and_addresses_words_and_boxes_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    (tmp_path / "target.json").touch()
    given = InferSettings(
        input="slides",
        output="s3://bucket/run",
        checkpoint="a/b.pt",
        mask="masks",
        regions="0,0,9,9",
        stain="target.json",
        triton=TritonSettings(tls=True, certificates="ca.pem"),
    )
    found = resolve(given)
    assert found.triton.certificates == f"{tmp_path}/ca.pem"
    assert [found.input, found.checkpoint] == [f"{tmp_path}/slides", f"{tmp_path}/a/b.pt"]
    assert [found.mask, found.stain] == [f"{tmp_path}/masks", f"{tmp_path}/target.json"]
    assert [found.output, found.regions] == [given.output, given.regions]
    assert resolve(found) == found


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, -1),
        ({"device": "cpu"}, 0),
        ({"predictor": "triton"}, 0),
        ({"device": "cuda", "predictor": "triton"}, 0),
    ],
)
def test_workers_that_compute_elsewhere_take_no_gpu(settings: dict, gpus: float) -> None:
    assert resolve(InferSettings(**settings)).launch.gpus == gpus
    one = LaunchSettings(kind="ray", gpus=1)
    assert resolve(InferSettings(**settings, launch=one)).launch.gpus == 1


@pytest.mark.parametrize(
    ("launch", "device", "said"),
    [
        ({"kind": "ray", "gpus": -2}, "auto", "launch.gpus=-2 must be 0 or more"),
        ({"kind": "ray", "gpus": 1.5}, "auto", "launch.gpus=1.5 must be .* whole above 1"),
        ({"kind": "slurm", "gpus": 0.5}, "auto", "launch.gpus=0.5: a job of Slurm gets whole GPUs"),
        ({"kind": "slurm"}, "cuda:1", "device=cuda:1 names devices of one machine, but launch=slurm"),
        ({"kind": "ray", "gpus": 2}, "cuda:0,cuda:1", "or set launch.gpus=2 device=all"),
        ({"kind": "ray"}, "all", "device=all names devices of one machine"),
    ],
)
def test_gpus_that_workers_cannot_have_are_refused(launch: dict, device: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InferSettings(launch=LaunchSettings(**launch), device=device)


def test_workers_may_have_several_gpus_and_one_process_names_them() -> None:
    assert InferSettings(launch=LaunchSettings(kind="ray", gpus=2), device="all").device == "all"
    assert InferSettings(device="cuda:0,cuda:1").launch.kind == "local"


def test_a_cohort_beside_jobs_of_an_earlier_run_is_refused(
    chosen: InferSettings, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("run_utils.cohort.cohort.ENDING_S", 0.0)
    claims = Claims(tmp_path)
    claims.add_jobs(["70_0", "70_1", "81"])
    chosen.window = 352
    job = Agreement(tmp_path)
    job.make_plan(chosen, build_predictor(chosen))
    with pytest.raises(ValueError, match=r"jobs of an earlier run are at work .*\(scancel 70 81\)"):
        infer_cohort(chosen, {})
    job.close()
    assert claims.read_ends([]) == []  # still there for those that work


def test_a_job_that_finds_nothing_left_loads_nothing(chosen: InferSettings, tmp_path: Path) -> None:
    chosen.checkpoint = str(tmp_path / "none.pt")
    claims = Claims(tmp_path)
    with claims.take("a") as claim:
        claim.end(SlideStatus("a", DONE))
    Job(chosen, {"a": tmp_path}, claims.run)()
    with pytest.raises(FileNotFoundError):
        Job(chosen, {"a": tmp_path, "b": tmp_path}, claims.run)()
    remove_claims(tmp_path)
    Job(chosen, {"b": tmp_path}, claims.run)()  # was queued by a run that is over


def test_a_time_limit_in_the_middle_of_a_slide_is_no_loss(chosen: InferSettings, tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    job = Job(chosen, {"a": tmp_path}, claims.run)
    job._claims = claims

    class Stopped:
        def run(self, name: str, path: Path) -> SlideStatus:
            job.checkpoint()  # as submitit does when the signal comes
            raise SystemExit(-1)

    job._worker = Stopped()
    with pytest.raises(SystemExit):
        job._try("a")
    with claims.take("a") as claim:
        assert (claim.failures, claim.losses, claim.is_over) == (0, 0, False)


def test_a_job_looks_again_for_what_others_had_and_lost(
    chosen: InferSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(tmp_path)
    others = ExitStack()
    others.enter_context(claims.take("large"))
    did: list[str] = []

    def run(worker: Worker, name: str, path: Path) -> SlideStatus:
        did.append(name)
        others.close()  # the other job is lost
        return SlideStatus(name, DONE)

    monkeypatch.setattr(Worker, "start", lambda worker: 0)
    monkeypatch.setattr(Worker, "run", run)
    Job(chosen, {"large": tmp_path, "small": tmp_path}, claims.run)()
    assert did == ["small", "large"]


def test_a_slide_that_no_job_came_to_is_not_said_to_be_lost(
    chosen: InferSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    def submit(settings: InferSettings, job: Job) -> list[Any]:
        nonlocal rounds
        rounds += 1
        claims = Claims(tmp_path, job._run)
        if rounds == 1:
            with claims.take("done") as done, claims.take("lost") as lost:
                lost.start()
                done.end(SlideStatus("done", DONE))
        error = submitit.core.utils.FailedJobError("QuotaError: no hours are left")
        ended = {"job_id": "7", "done": lambda: True, "exception": lambda: error}
        return [SimpleNamespace(**ended)]

    monkeypatch.setattr("run_utils.cohort.slurm_cohort._submit", submit)
    files = dict.fromkeys(("done", "lost", "waiting"), tmp_path)
    ends = {end.name: end.reason for end in run_on_slurm(chosen, files, dict.fromkeys(files, 1.0))}
    assert (rounds, ends["done"], ends["lost"]) == (2, "", LOST)
    assert ends["waiting"] == "no job came to it: QuotaError: no hours are left"


def test_a_slide_that_is_not_there_is_recorded_with_its_reason(
    chosen: InferSettings, tmp_path: Path, caplog
) -> None:
    manifest = Manifest(tmp_path / "out", chosen)
    _record_failure(manifest, SlideStatus("gone", FAILED, "its workers were lost"), tmp_path / "gone.svs")
    manifest.close(is_complete=True)
    entry = json.loads((tmp_path / "out" / "run.json").read_text())["slides"]["gone"]
    assert (entry["status"], entry["reason"]) == (FAILED, "its workers were lost")
    assert not caplog.text


def test_jobs_that_are_not_waited_for_are_cancelled(tmp_path: Path) -> None:
    job = submitit.LocalExecutor(tmp_path).submit(time.sleep, 60)
    moments = _wait([job])
    next(moments)
    moments.close()
    assert job._process.wait(timeout=20) != 0


def test_a_slide_that_another_run_holds_for_too_long_is_a_failure(
    chosen: InferSettings, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("run_utils.cohort.worker.PATIENCE_S", 0.0)
    Image.new("RGB", (352, 352)).save(tmp_path / "image.png")
    chosen.window = 352
    worker = Worker(chosen)
    worker.start()
    with hold_journal(tmp_path / UNFINISHED / "image.journal"):
        status = worker.run("image", tmp_path / "image.png")
    assert (status.status, status.reason) == (FAILED, IS_BUSY)


def test_of_many_slides_only_the_bad_are_listed() -> None:
    statuses = [SlideStatus(f"good{number}", SKIPPED, "was there") for number in range(60)]
    statuses += [SlideStatus("bad", FAILED, "broken"), SlideStatus("held", SKIPPED, IS_BUSY)]
    told = summarise(statuses)
    assert "bad: failed: broken" in told and f"held: skipped: {IS_BUSY}" in told
    assert told.endswith("60 slides skipped: was there") and "good" not in told
    assert summarise(statuses[:60]) == "60 slides skipped: was there"
    assert "good7" in summarise(statuses[:9])
