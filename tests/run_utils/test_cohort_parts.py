"""What cohorts are made of: shares of a cluster, sizes of slides, claims on them, and what workers agree on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from config.launch import LaunchSettings
from config.schema import InferSettings
from run_utils.build_inference import build_predictor
from run_utils.cohort.agreement import Agreement
from run_utils.cohort.claims import Claims
from run_utils.cohort.cohort import infer_cohort
from run_utils.cohort.costs import estimate_costs
from run_utils.cohort.share import Share, share_nodes
from run_utils.cohort.worker import Worker
from run_utils.devices import usable_cpus
from run_utils.inference.status import DONE, SlideStatus


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
    assert claims.read_end("a.s") is None
    with claims.take("a.s") as claim:
        assert (claim.failures, claim.losses, claim.is_over) == (1, 1, False)
        claim.start()
        claim.end(status)
    with claims.take("a.s") as claim:
        assert claim.is_over
    assert claims.read_end("a.s") == status
    assert claims.read_end("b") is None
    claims.remove()
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
