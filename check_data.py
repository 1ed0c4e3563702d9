"""Find out what is in a data set, and what is wrong with it: `python check_data.py data=consep data.root=…`."""

from __future__ import annotations

from config.schema import CheckSettings
from run_utils.entry import run_command


def main(settings: CheckSettings) -> int:
    """Print a table and the complaints, write report and pictures; 1 where there is an error."""
    from run_utils.doctor import check_data  # late: --help answers at once

    return check_data(settings)


if __name__ == "__main__":
    run_command("check", main)
