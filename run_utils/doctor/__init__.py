"""The doctor: what a data set holds, what is wrong with it, and what to do; behind `check_data.py`."""

from run_utils.doctor.check import check_data

__all__ = ["check_data"]
