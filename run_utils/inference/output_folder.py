"""Where the outputs of slides are written, and what is still to be written there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataloader.address import Address, locate
from run_utils.cache import cache_dir
from run_utils.inference.journal import hold_journal, remove_journal
from run_utils.outputs import WRITERS, output_path

UNFINISHED = ".unfinished"  # folder in the output folder: journals, and outputs that are being written


SCRATCH = "HOVERNET_SCRATCH"
ENDPOINT = "AWS_ENDPOINT_URL"


def working_dir(output: Path | Address) -> Path:
    """Return the local folder in which a run works: the output folder, or, for an address, one that is named by it.

    That lies in the folder that the environment variable HOVERNET_SCRATCH names, else in the cache; of another user,
    or another server (AWS_ENDPOINT_URL), it is another one.

    Raises:
        ValueError: an address that can only be read.
    """
    if not isinstance(output, Address):
        return output
    if output.is_web:
        raise ValueError(
            f"output={output} can only be read; give a folder, or an address such as s3://bucket/run"
        )
    parent = Path(os.environ.get(SCRATCH) or cache_dir() / "runs")
    place = "\n".join(filter(None, (str(output).rstrip("/"), output.user, os.environ.get(ENDPOINT))))
    return parent / hashlib.sha256(place.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outputs:
    """What is written of a slide, and where.

    Attributes:
        folder: of the run, where files are written.
        names: rows of `WRITERS`.
        options: of the writers.
        address: where finished files are moved to; None leaves them in the folder.
    """

    folder: Path
    names: Sequence[str]
    options: dict[str, bool] = field(default_factory=dict)
    address: Address | None = None

    @classmethod
    def at(cls, output: str, names: Sequence[str], options: dict[str, bool]) -> Outputs:
        """Return the outputs of a run into a folder or to an address."""
        place = locate(output)
        return cls(working_dir(place), names, options, place if isinstance(place, Address) else None)

    @property
    def scratch_dir(self) -> Path:
        """Folder for what is not finished; it is there only while something is."""
        return self.folder / UNFINISHED

    def pending(self, slide_name: str, *, is_done: bool) -> list[str]:
        """Return the outputs of a slide that are to be written: all, or those that a slide that is done lacks."""
        return [name for name in self.names if not (is_done and self._has(slide_name, name))]

    def publish(self, slide_name: str, names: Sequence[str]) -> None:
        """Move what was written of a slide to the address, where there is one.

        Raises:
            JournalBusyError: another process works on this slide, and will move it.
            OSError: it could not be written there; the rest stays here.
        """
        if self.address is None:
            return
        with hold_journal(self.journal_path(slide_name)):
            for name in names:
                path = output_path(self.folder, slide_name, name)
                if path.exists():  # else another process of this machine has moved it
                    self._target(slide_name, name).write(path)
                    path.unlink()

    def journal_path(self, slide_name: str) -> Path:
        """Return where the journal of a slide lies."""
        return self.scratch_dir / f"{slide_name}.journal"

    def remove_unfinished(self, slide_name: str) -> None:
        """Remove the journal of a slide, and what lies beside it, unless another run works on the slide."""
        others = [self.scratch_dir / f"{slide_name}.{name}" for name in WRITERS]
        remove_journal(self.journal_path(slide_name), *others)

    def _has(self, slide_name: str, name: str) -> bool:
        if self.address is None:
            return output_path(self.folder, slide_name, name).exists()
        return self._target(slide_name, name).exists()

    def _target(self, slide_name: str, name: str) -> Address:
        path = output_path(self.folder, slide_name, name)
        assert self.address is not None
        return self.address / name / path.name
