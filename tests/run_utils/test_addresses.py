"""Slides and outputs at addresses, on a real S3 server of this machine: same results, resumed, no secret told."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import tifffile
import torch

from config.schema import InferSettings
from dataloader.address import Address
from run_utils.cohort.costs import estimate_costs
from run_utils.inference.batch_run import infer_all
from run_utils.inference.hold import holding_address
from run_utils.inference.journal import Journal
from run_utils.outputs import output_path
from tests.drawing import draw_pairs, paint_tissue
from tests.object_store import SECRET, counting_fetches, serve_bucket

OUTPUTS = ["json", "qupath", "npy"]
OUTPUT = "s3://bucket/run"


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with serve_bucket():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def clean_bucket(bucket: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOVERNET_SCRATCH", str(tmp_path / "scratch"))
    import s3fs

    s3 = s3fs.S3FileSystem()
    for path in s3.find("bucket"):
        s3.rm_file(path)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for name, side in (("a", 420), ("b", 300)):
        image = paint_tissue(draw_pairs((side, side)))
        resolution = {"resolution": (4e4, 4e4), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(folder / f"{name}.tif", image, tile=(64, 64), photometric="rgb", **resolution)
    return folder


def upload(*paths: Path) -> None:
    for path in paths:
        Address(f"s3://bucket/slides/{path.name}").write(path)


def settings(place: object, output: object, checkpoint: Path, **changes: object) -> InferSettings:
    values = {"outputs": OUTPUTS, "device": "cpu", "precision": "fp32", "predictor": "torch", "window": 352}
    values |= {"region_size": 128, "overlap": 1, "nuclei_threshold": 0.54, "read_workers": 2, **changes}
    return InferSettings(input=str(place), output=str(output), checkpoint=str(checkpoint), **values)


def published(name: str) -> dict[str, bytes]:
    paths = {kind: output_path("", name, kind) for kind in OUTPUTS}
    return {kind: (Address(OUTPUT) / str(path)).read() for kind, path in paths.items()}


def record(where: str = OUTPUT) -> dict:
    return json.loads((Address(where) / "run.json").read())


@pytest.fixture(scope="module")
def local(slides: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What a run on local files writes."""
    output = tmp_path_factory.mktemp("local")
    assert infer_all(settings(slides, output, checkpoint)) == 0
    return {
        name: {kind: output_path(output, name, kind).read_bytes() for kind in OUTPUTS} for name in ("a", "b")
    }


def left_in_scratch(tmp_path: Path) -> list[str]:
    files = [path.name for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
    return sorted(set(files) - {".lock", ".run.lock", ".address.lock", ".name"})


def test_a_run_between_addresses_gives_the_files_of_a_local_one(
    slides: Path, checkpoint: Path, local: dict[str, dict], tmp_path: Path
) -> None:
    upload(*slides.iterdir())
    chosen = settings("s3://bucket/slides/", OUTPUT, checkpoint)
    assert infer_all(chosen) == 0
    assert {name: published(name) for name in ("a", "b")} == local
    entries = record()["slides"]
    assert {name: entry["status"] for name, entry in entries.items()} == {"a": "done", "b": "done"}
    assert entries["a"]["input"] == "s3://bucket/slides/a.tif"
    assert left_in_scratch(tmp_path) == []


def test_another_machine_does_only_what_is_missing(
    slides: Path, checkpoint: Path, local: dict[str, dict], tmp_path: Path, monkeypatch, capsys
) -> None:
    upload(slides / "a.tif")
    assert infer_all(settings("s3://bucket/slides/a.tif", OUTPUT, checkpoint)) == 0
    before = (Address(OUTPUT) / "json" / "a.json").facts()["LastModified"]
    upload(slides / "b.tif")
    monkeypatch.setenv("HOVERNET_SCRATCH", str(tmp_path / "other"))
    assert infer_all(settings("s3://bucket/slides", OUTPUT, checkpoint)) == 0
    assert "a: skipped" in capsys.readouterr().out
    assert (Address(OUTPUT) / "json" / "a.json").facts()["LastModified"] == before
    assert {name: published(name) for name in ("a", "b")} == local
    assert set(record()["slides"]) == {"a", "b"}


def test_a_killed_run_goes_on_from_its_journal_and_has_published_nothing(
    slides: Path, checkpoint: Path, local: dict[str, dict], monkeypatch, caplog, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    real, regions = Journal.append, []

    def append(journal: Journal, owned: object) -> None:
        if len(regions) == 5:
            raise KeyboardInterrupt
        regions.append(owned)
        real(journal, owned)

    upload(slides / "a.tif")
    chosen = settings("s3://bucket/slides/a.tif", OUTPUT, checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", append)
        with pytest.raises(KeyboardInterrupt):
            infer_all(chosen)
    assert [file.name for file in Address(OUTPUT).files()] == ["run.json"]
    assert infer_all(chosen) == 0
    assert "a: goes on after 5 of" in caplog.text
    assert published("a") == local["a"]
    assert left_in_scratch(tmp_path) == []


def test_a_run_killed_while_it_publishes_does_so_later_without_predicting_again(
    slides: Path, checkpoint: Path, local: dict[str, dict], monkeypatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    upload(slides / "a.tif")
    chosen = settings("s3://bucket/slides/a.tif", OUTPUT, checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr("run_utils.inference.manifest.Manifest.record", stop)
        with pytest.raises(KeyboardInterrupt):
            infer_all(chosen)
    assert record()["slides"] == {}
    with monkeypatch.context() as patch:
        patch.setattr("run_utils.inference.maps.read_mirrored", stop)
        assert infer_all(chosen) == 0
    assert record()["slides"]["a"]["status"] == "done"
    assert published("a") == local["a"]


def test_results_of_other_settings_are_refused_and_replaced_only_when_asked(
    slides: Path, checkpoint: Path, local: dict[str, dict]
) -> None:
    upload(slides / "a.tif")
    chosen = settings("s3://bucket/slides/a.tif", OUTPUT, checkpoint)
    assert infer_all(chosen) == 0
    other = settings("s3://bucket/slides/a.tif", OUTPUT, checkpoint, min_size=60)
    with pytest.raises(
        ValueError, match=r"s3://bucket/run holds results of other settings \(min_size was 0, is 60"
    ):
        infer_all(other)
    other.overwrite = True
    assert infer_all(other) == 0
    assert record()["settings"]["min_size"] == 60
    assert published("a")["json"] != local["a"]["json"]


def test_an_output_that_cannot_be_is_named_before_any_slide_is_read(slides: Path, checkpoint: Path) -> None:
    with pytest.raises(OSError, match=r"s3://nobucket/run/run\.lock .*check bucket"):
        infer_all(settings(slides / "a.tif", "s3://nobucket/run", checkpoint))
    with pytest.raises(ValueError, match=r"output=https://127.0.0.1:1/run can only be read; give"):
        infer_all(settings(slides / "a.tif", "https://127.0.0.1:1/run", checkpoint))


def test_secrets_are_neither_recorded_nor_logged(
    slides: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture, capfd, tmp_path: Path, monkeypatch
) -> None:
    caplog.set_level(logging.INFO)
    upload(slides / "a.tif")
    listed = tmp_path / "slides.txt"
    signed = f"https://someone:{SECRET}@127.0.0.1:1/slide.svs?X-Amz-Signature={SECRET}"
    valid = f"https://someone:{quote(SECRET, safe='')}@127.0.0.1:1/other.svs?X-Amz-Signature={SECRET}"
    listed.write_text(f"s3://bucket/slides/a.tif\n{signed}\n{valid}\ns3://nobucket/c.svs\n")
    monkeypatch.setattr("dataloader.address.WAITS", (0.01,))
    chosen = settings(listed, OUTPUT, checkpoint)
    assert infer_all(chosen) == 1
    entries = record()["slides"]
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "a": "done",
        "slide": "failed",
        "other": "failed",
        "c": "failed",
    }
    assert "s3://nobucket/c.svs does not exist; check bucket" in entries["c"]["reason"]
    assert entries["slide"]["input"] == "https://127.0.0.1:1/slide.svs"
    told = json.dumps(record()) + caplog.text + "".join(capfd.readouterr())
    assert "127.0.0.1:1/slide.svs" in told
    assert not any(word in told for word in (SECRET, quote(SECRET, safe=""), "someone"))


def test_an_address_that_another_machine_writes_to_is_refused_until_that_is_silent(
    slides: Path, checkpoint: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    chosen = settings(slides / "b.tif", OUTPUT, checkpoint, outputs=["json"])
    monkeypatch.setattr("run_utils.inference.hold.BEAT_S", 0.01)
    lock = Address(OUTPUT) / "run.lock"
    with holding_address(Address(OUTPUT)):
        first = lock.read()
        assert infer_all(chosen) == 0  # of the same machine: they share the work
        assert lock.exists() and lock.read() != first
        monkeypatch.setenv("HOVERNET_SCRATCH", str(tmp_path / "other machine"))
        with pytest.raises(ValueError, match=r"another run is writing to s3://bucket/run, .* let it end, or"):
            infer_all(chosen)
    assert not lock.exists()
    lock.write(first)
    monkeypatch.setattr("run_utils.inference.hold.STALE_S", 0.0)
    monkeypatch.setattr("run_utils.inference.hold.SETTLE_S", 0.01)
    assert infer_all(chosen) == 0
    assert "it is taken over" in caplog.text and not lock.exists()


def test_what_slides_at_addresses_cost_is_estimated_without_reading_them(slides: Path) -> None:
    upload(*slides.iterdir())
    places = {name: Address(f"s3://bucket/slides/{name}.tif") for name in ("b", "a", "none")}
    with counting_fetches() as counts:
        costs = estimate_costs(places)
    assert counts["requests"] == 0
    assert costs["a"] > costs["b"] > costs["none"] == 0
