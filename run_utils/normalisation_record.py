"""`normalize.json` of an output folder: what its results are made with, and of each whether it was made so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from run_utils.files import locking, replacing
from run_utils.provenance import describe_environment

RECORD = "normalize.json"


class NormalisationRecord:
    """The record of a folder, kept up to date image by image; runs of the same settings may share the folder.

    Args:
        output_dir: of the results; made where it is not there.
        facts: what the results depend on, as plain data.
        overwrite: whether results of other facts may be replaced.

    Raises:
        ValueError: results of other facts are there and are not to be replaced, or the folder's file of this name
            is no such record.
    """

    def __init__(self, output_dir: Path, facts: Mapping[str, Any], *, overwrite: bool) -> None:
        self.path = output_dir / RECORD
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))
        self._environment = describe_environment()
        text = json.dumps(self._facts, sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()
        output_dir.mkdir(parents=True, exist_ok=True)
        with locking(output_dir):
            earlier = self._read()
            differing = [
                name for name, value in self._facts.items() if earlier and earlier.get(name) != value
            ]
            if differing and not overwrite:
                raise ValueError(
                    f"output={output_dir} holds results of another {' and '.join(differing)}; "
                    "give another output=, or overwrite=true"
                )
            self._write(earlier.get("results", {}))

    def is_made_so(self, name: str) -> bool | None:
        """Return whether the result of an image was made with these facts; None where nobody wrote that down."""
        digest = self._read().get("results", {}).get(name)
        return None if digest is None else digest == self._digest

    def add(self, name: str) -> None:
        """Write down that the result of an image, which is there, was made with these facts."""
        with locking(self.path.parent):
            self._write({**self._read().get("results", {}), name: self._digest})

    def _write(self, results: Mapping[str, str]) -> None:
        content = {**self._environment, **self._facts, "results": results}
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text())
            if isinstance(content, dict) and isinstance(content.get("results", {}), dict):
                return content
        except ValueError:
            pass
        raise ValueError(
            f"{self.path} is not the record of normalize_stain.py: give another output=, or remove it"
        )
