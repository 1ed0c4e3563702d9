"""The sizes of the published network, and the error that names those that fit."""

from __future__ import annotations

import pytest

from models.hovernet.geometry import hovernet_geometry, skip_crops


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [
        ("fast", {256: 164, 264: 172, 272: 180, 320: 228, 512: 420, 768: 676}),
        ("original", {270: 80, 278: 88, 286: 96, 302: 112, 526: 336, 782: 592}),
    ],
)
def test_output_sizes_are_the_published_ones(mode: str, sizes: dict[int, int]) -> None:
    geometry = hovernet_geometry(mode)
    assert {size: geometry.output_size(size) for size in sizes} == sizes


def test_skips_are_cropped_as_in_the_reference() -> None:
    assert (skip_crops("original").d0, skip_crops("original").d1) == (184, 72)
    assert (skip_crops("fast").d0, skip_crops("fast").d1) == (92, 36)


def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_do() -> None:
    with pytest.raises(ValueError, match=r"input size 270 .*264 and 272"):
        hovernet_geometry("fast").output_size(270)


def test_a_size_too_small_is_refused_with_the_smallest() -> None:
    geometry = hovernet_geometry("original")
    with pytest.raises(ValueError, match=r"198 \(the smallest\)"):
        geometry.check(6)
    assert geometry.output_size(geometry.smallest) > 0


@pytest.mark.parametrize("mode", ["fast", "original"])
def test_input_size_for_is_the_smallest_that_covers(mode: str) -> None:
    geometry = hovernet_geometry(mode)
    for wanted in range(1, 200, 7):
        size = geometry.input_size_for(wanted)
        assert geometry.output_size(size) >= wanted
        is_smallest = size - geometry.multiple < max(geometry.smallest, wanted + geometry.margin)
        assert is_smallest
