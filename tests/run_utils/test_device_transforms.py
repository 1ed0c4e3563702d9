"""Batches on their device: each image by the stain of its own source, stages that do not disturb each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from config.schema import StainSettings, TrainingRun
from dataloader.stain import HedJitter, MacenkoNormalizer, StainStatistics
from models.hovernet.checkpoint import load_checkpoint
from run_utils.build import build_training
from run_utils.training.checkpoints import LAST_NAME
from run_utils.training.device_transforms import DeviceTransforms, SourceNormaliser, Stage
from run_utils.training.run import train
from run_utils.training.trainer import Trainer
from tests.stained import STAINS, stain_image

MakeRun = Callable[..., TrainingRun]
SIZE = 48
BOTH = StainSettings(method="macenko", hed_scale=0.2, hed_shift=0.05)


def make_batch(images: list[np.ndarray], sources: list[int]) -> dict[str, torch.Tensor]:
    label_map = torch.zeros((len(images), SIZE, SIZE), dtype=torch.int32)
    label_map[:, 10:20, 10:20] = 1
    return {
        "image": torch.from_numpy(np.stack(images)),
        "label_map": label_map,
        "source": torch.tensor(sources),
    }


def transforms(*stages: Stage, device: str = "cpu") -> DeviceTransforms:
    return DeviceTransforms(torch.device(device), SIZE, has_types=False, stages=stages)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_each_image_is_normalised_by_the_stain_of_its_own_source(device: str) -> None:
    normalizer = MacenkoNormalizer()
    wholes = [stain_image(200, 200, seed=1), stain_image(200, 200, stains=STAINS[[0, 2, 1]], seed=2)]
    statistics = [normalizer.estimate(whole) for whole in wholes] + [StainStatistics("identity")]
    patches = [wholes[1][:SIZE, :SIZE], wholes[0][:SIZE, :SIZE], wholes[0][-SIZE:, -SIZE:]]
    stage = Stage("normalised", 0, normalise=SourceNormaliser(normalizer, statistics))
    images, _ = transforms(stage, device=device)(make_batch(patches, [1, 0, 2]), seed=0)
    found = images.cpu().permute(0, 2, 3, 1).numpy().astype(int)
    expected = [
        normalizer.transform(patches[0], statistics[1]),
        normalizer.transform(patches[1], statistics[0]),
    ]
    assert np.abs(found - np.stack([*expected, patches[2]])).max() <= (1 if device == "cuda" else 0)


def test_a_stage_draws_alike_whatever_other_stages_there_are() -> None:
    batch = make_batch([stain_image(SIZE, SIZE)], [0])
    jitter = Stage("stain varied", 1, colour=HedJitter(0.2, 0.05))
    nothing = Stage("colour varied", 2, colour=lambda images, *_: images + 0 * torch.rand(1).byte())
    alone, _ = transforms(jitter)(batch, seed=7)
    beside, _ = transforms(nothing, jitter)(batch, seed=7)
    assert torch.equal(alone, beside)
    assert not torch.equal(alone, transforms(jitter)(batch, seed=8)[0])
    assert not torch.equal(alone, transforms(replace(jitter, number=3))(batch, seed=7)[0])


def test_stages_run_in_the_order_given_and_are_shown_one_by_one() -> None:
    batch = make_batch([stain_image(SIZE, SIZE)], [0])
    halve = Stage("halved", 0, colour=lambda images, *_: images // 2)
    raise_ = Stage("raised", 1, colour=lambda images, *_: images + 10)
    patch = batch["image"].permute(0, 3, 1, 2)
    shown = dict(transforms(halve, raise_).stage_images(batch, seed=0))
    assert list(shown) == ["patch", "halved", "raised"]
    assert torch.equal(shown["patch"], patch)
    assert torch.equal(shown["raised"], patch // 2 + 10)
    assert torch.equal(transforms(raise_, halve)(batch, seed=0)[0], (patch + 10) // 2)


def test_settings_switch_and_order_the_stages(make_run: MakeRun) -> None:
    def names(stain: StainSettings) -> list[str]:
        return [stage.name for stage in build_training(replace(make_run(), stain=stain)).transforms.stages]

    assert names(StainSettings()) == ["colour varied"]
    assert names(BOTH) == ["normalised", "stain varied", "colour varied"]
    assert names(replace(BOTH, order=["hed", "normalise"])) == ["stain varied", "normalised"]
    assert names(StainSettings(order=[])) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_one_seed_gives_one_batch_on_any_number_of_workers(make_run: MakeRun, num_workers: int) -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        run = replace(make_run(num_workers=workers, output=f"run{workers}"), stain=BOTH)
        trainer = Trainer(build_training(run), run)
        loader = trainer._make_loader(batch_size=2, num_batches=3, epochs=1)
        return [trainer.parts.transforms(batch, number)[0] for number, batch in enumerate(loader)]

    for one, other in zip(batches(0), batches(num_workers), strict=True):
        assert torch.equal(one, other)


def test_patches_of_a_batch_belong_to_their_statistics(make_run: MakeRun) -> None:
    run = replace(make_run(), stain=BOTH)
    parts = build_training(run)
    normalizer = MacenkoNormalizer()
    wholes = {number: parts.patches.stores[0].read_source(number).image for number in range(2)}
    batch = default_collate([parts.patches[index] for index in range(0, len(parts.patches), 4)])
    shown = dict(parts.transforms.stage_images(batch, 0))
    for number, patch, normalised in zip(
        batch["source"].tolist(), shown["patch"], shown["normalised"], strict=True
    ):
        source = normalizer.estimate(wholes[number])
        assert torch.equal(normalised, normalizer.transform(patch, source))


def test_a_network_trained_on_normalised_patches_says_so_and_is_validated_on_such(make_run: MakeRun) -> None:
    run = replace(make_run(), stain=BOTH)
    parts = build_training(run)
    store = parts.validator.store
    raw, (source,) = store.read_source(0).image, store.stain_statistics("macenko")
    assert np.array_equal(parts.validator.images[0].image, MacenkoNormalizer().transform(raw, source))
    train(run)
    notes = load_checkpoint(f"{run.output}/{LAST_NAME}").facts.notes
    assert notes["stain"] == {"method": "macenko", "target": MacenkoNormalizer().target.to_dict()}
    plain = make_run("plain")
    train(plain)
    assert load_checkpoint(f"{plain.output}/{LAST_NAME}").facts.notes["stain"] == {"method": "none"}
