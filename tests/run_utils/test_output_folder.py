"""Outputs of a slide on their way to an address."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dataloader.address import Address
from run_utils.inference.journal import JournalBusyError
from run_utils.inference.output_folder import Outputs
from run_utils.outputs import output_path


def test_of_two_runs_of_a_machine_one_uploads_a_slide_and_the_other_leaves_it_to_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOVERNET_SCRATCH", str(tmp_path))
    outputs = Outputs.at("memory://published", ["json"], {})
    path = output_path(outputs.folder, "a", "json")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nuclei")
    real, is_writing, may_end = Address.write, threading.Event(), threading.Event()

    def write(address: Address, source: Path | bytes) -> None:
        is_writing.set()
        may_end.wait(5)
        real(address, source)

    monkeypatch.setattr(Address, "write", write)
    first = threading.Thread(target=outputs.publish, args=("a", ["json"]))
    first.start()
    assert is_writing.wait(5)
    with pytest.raises(JournalBusyError):
        outputs.publish("a", ["json"])
    may_end.set()
    first.join()
    assert (Address("memory://published") / "json" / path.name).read() == b"nuclei" and not path.exists()
    outputs.publish("a", ["json"])  # it has been done
