"""What several folders of tests share: the real data, where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _full_precision(request: pytest.FixtureRequest) -> None:
    """Let a GPU compute float32 in float32, which convolutions do not by default."""
    if request.node.get_closest_marker("gpu"):
        import torch

        torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests measure, export and compile out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOVERNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def consep_dir() -> Path:
    """The CoNSeP data set in its published layout."""
    path = SHARED / "data" / "consep"
    if not path.is_dir():
        pytest.skip(f"real data is not at {path}")
    return path
