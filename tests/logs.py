"""What our own packages logged: other libraries log too, now and then and from their own threads."""

from __future__ import annotations

import logging

import pytest

PACKAGES = {"config", "dataloader", "metrics", "models", "run_utils"}


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of our packages' loggers."""
    return [record for record in caplog.records if record.name.partition(".")[0] in PACKAGES]
