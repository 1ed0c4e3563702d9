"""Where the outputs of slides are written, and what is still to be written there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from run_utils.inference.journal import remove_journal
from run_utils.outputs import WRITERS, output_path

UNFINISHED = ".unfinished"  # folder in the output folder: journals, and outputs that are being written


@dataclass(frozen=True)
class Outputs:
    """What is written of a slide, and where.

    Attributes:
        folder: of the run.
        names: rows of `WRITERS`.
        options: of the writers.
    """

    folder: Path
    names: Sequence[str]
    options: dict[str, bool] = field(default_factory=dict)

    @property
    def scratch_dir(self) -> Path:
        """Folder for what is not finished; it is there only while something is."""
        return self.folder / UNFINISHED

    def pending(self, slide_name: str, *, is_done: bool) -> list[str]:
        """Return the outputs of a slide that are to be written: all, or those that a slide that is done lacks."""
        return [
            name
            for name in self.names
            if not (is_done and output_path(self.folder, slide_name, name).exists())
        ]

    def journal_path(self, slide_name: str) -> Path:
        """Return where the journal of a slide lies."""
        return self.scratch_dir / f"{slide_name}.journal"

    def remove_unfinished(self, slide_name: str) -> None:
        """Remove the journal of a slide, and what lies beside it, unless another run works on the slide."""
        others = [self.scratch_dir / f"{slide_name}.{name}" for name in WRITERS]
        remove_journal(self.journal_path(slide_name), *others)
