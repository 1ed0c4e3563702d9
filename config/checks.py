"""The checks that settings share; each failure is a ValueError that holds the value and the rule."""

from __future__ import annotations

MISSING = "???"  # OmegaConf's mark for a value that the user must give


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`, which the message lists."""
    if value not in choices:
        raise ValueError(f"{name}={value} is not known; use one of: {', '.join(map(str, choices))}")


def check_positive(**values: float) -> None:
    """Raise ValueError for the first value, given by its setting's name, that is not above 0."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name}={value} must be greater than 0")


def check_not_negative(group: str, **values: float) -> None:
    """Raise ValueError for the first value of a group of settings that is below 0."""
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{group}.{name}={value} must be 0 or more")
