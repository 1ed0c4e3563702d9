"""What is lost when something is killed: kills of each kind at random moments, each beside an undisturbed run.

`python -m benchmarks.faults [--only KIND,…] [--times 20]` adds to docs/faults.md what it found of each kind.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from tabulate import tabulate

# By kind: the module whose `kill_once(folder, generator)` does one run with a kill in it, and returns a Kill.
KINDS = {
    "process": "benchmarks.fault_process",
    "ray": "benchmarks.fault_ray",
    "triton": "benchmarks.fault_triton",
    "training": "benchmarks.fault_training",
}
DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, RECORD = DOCS / "faults.md", DOCS / "faults.json"
HEADINGS = ["killed", "kills", "seconds after the start", "lost", "twice", "done again (median)", "on"]
INTRODUCTION = """# What is lost when something is killed

Each row: as many runs as there are kills, each killed (`kill -9`) at a random moment, started again as its user would
(or going on by itself, where that is promised), and compared with an undisturbed run: slides by their nuclei and by
the bytes of their files, trainings by their steps and weights. *Lost* and *twice* count nuclei or steps over all kills;
what differs in any other way counts as twice. *Done again* is the share of a run's work that a kill made it repeat,
where that was counted. Seconds of trainings count from when their processes had met.
`python -m benchmarks.faults` makes this page.
"""


@dataclass(frozen=True)
class Kill:
    """One run that was killed.

    Attributes:
        what: was killed, in a few words; the same for every kill of a kind.
        after_s: seconds from the run's start to the kill; of a training, from when its processes had met.
        num_lost: nuclei, or training steps, of the undisturbed run that this one lacks in the end.
        num_twice: those that it has more than once, or that differ; 1 where only the files' bytes do.
        share_again: of the run's work that had to be done a second time; None where that was not counted.
    """

    what: str
    after_s: float
    num_lost: int
    num_twice: int
    share_again: float | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds: {', '.join(KINDS)}")
    parser.add_argument("--times", type=int, default=20, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=10, help="of the moments")
    options = parser.parse_args(arguments)
    for kind in options.only.split(","):
        module = importlib.import_module(KINDS[kind])
        generator = random.Random(options.seed)
        kills: list[Kill] = []
        with tempfile.TemporaryDirectory(prefix=f"faults_{kind}_") as folder:
            for _ in range(options.times):
                kills.append(module.kill_once(Path(folder), generator))
                write_page(kind, kills)  # now: the next one may be stopped
        print(tabulate([row_of(kills, date.today().isoformat())], HEADINGS))


def row_of(kills: Sequence[Kill], day: str) -> list[object]:
    """Return a line of the table: what was killed, how often and when, and what that cost."""
    moments = [kill.after_s for kill in kills]
    again = [kill.share_again for kill in kills if kill.share_again is not None]
    return [
        kills[0].what,
        len(kills),
        f"{min(moments):.1f}–{max(moments):.1f}",
        sum(kill.num_lost for kill in kills),
        sum(kill.num_twice for kill in kills),
        f"{statistics.median(again):.0%}" if again else "",
        day,
    ]


def write_page(kind: str, kills: Sequence[Kill]) -> None:
    """Replace what the page says of one kind, once as many kills are done as it tells of."""
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    if len(kills) < len(record.get(kind, {}).get("kills", ())):
        return  # what is there says more, until as many are done
    record[kind] = {"day": date.today().isoformat(), "kills": [asdict(kill) for kill in kills]}
    record = {name: record[name] for name in KINDS if name in record}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    rows = [row_of([Kill(**kill) for kill in entry["kills"]], entry["day"]) for entry in record.values()]
    table = tabulate(rows, HEADINGS, tablefmt="github")
    PAGE.write_text(f"{INTRODUCTION}\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
