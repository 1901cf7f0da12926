"""Which ids get a row in dynamic tables, and which rows die: settings NAME=VALUE.

    --admission=after=3,filter_bytes=67108864 --eviction=unseen_seconds=604800,small_norm=0.01

The names are those of `amstf.Admission` and of `amstf.EvictRows`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence

from amstf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _Rule:
    what: str
    most: float
    is_whole: bool = True

    @property
    def wanted(self) -> str:
        if self.is_whole:
            return f"a whole number from 1 to {self.most:,}"
        return "a number above 0" + (", at most 1" if self.most == 1 else "")

    def read(self, text: str) -> int | float | None:
        """Returns the number, or None if it is none of these."""
        try:
            value = int(text) if self.is_whole else float(text)
        except ValueError:
            return None
        return value if 0 < value <= self.most else None


ADMISSION: Mapping[str, _Rule] = {
    "after": _Rule("an id gets its row when training has seen it so often", 255),
    "filter_bytes": _Rule(
        "after: memory of each table on each server in which sights are counted", 1 << 40
    ),
    "probability": _Rule(
        "an id is admitted with this probability each time that it is seen", 1.0, is_whole=False
    ),
}
"""Name -> what it says; all of them hold."""

EVICTION: Mapping[str, _Rule] = {
    "unseen_seconds": _Rule("rows die that were not seen for so many seconds", 1 << 40),
    "unseen_steps": _Rule(
        "rows die that were in none of the last so many training steps of all workers", 1 << 31
    ),
    "small_norm": _Rule("rows die whose L2 norm is below", sys.float_info.max, is_whole=False),
    "least_recent": _Rule(
        "each table keeps so many rows on each server, those seen most recently", 1 << 40
    ),
    "least_frequent": _Rule("likewise, those seen most often", 1 << 40),
}
"""Policy -> what it does; one after the other."""


def help_text(rules: Mapping[str, _Rule]) -> str:
    """Describes the settings for a help page."""
    described = "; ".join(f"{name}: {rule.what}, {rule.wanted}" for name, rule in rules.items())
    return f"each NAME=VALUE, separated by commas. {described}."


def admission_of(settings: Sequence[str]) -> dict[str, int | float]:
    """Reads which ids get a row.

    Args:
        settings: Each "name=value", of `ADMISSION`.

    Returns:
        Arguments of `amstf.Admission`; none for all ids at once.

    Raises:
        ConfigError: If one is of another form, or without effect.

    Example:
        >>> admission_of(["after=3", "probability=0.5"])
        {'after': 3, 'probability': 0.5}
    """
    values = _read("admission", ADMISSION, settings)
    if "filter_bytes" in values and values.get("after", 1) == 1:
        raise ConfigError(
            "admission has filter_bytes, in which sights are counted, and nothing to count for; "
            "give after too, 2 or more"
        )
    return values


def evictions_of(settings: Sequence[str]) -> dict[str, int | float]:
    """Reads which rows die.

    Args:
        settings: Each "policy=limit", of `EVICTION`.

    Returns:
        Policy -> limit, as of `amstf.EvictRows`, in the order in which they act.

    Raises:
        ConfigError: If one is of another form.

    Example:
        >>> evictions_of(["unseen_steps=1000", "least_recent=50000"])
        {'unseen_steps': 1000, 'least_recent': 50000}
    """
    return _read("eviction", EVICTION, settings)


def _read(what: str, rules: Mapping[str, _Rule], settings: Sequence[str]) -> dict[str, int | float]:
    values: dict[str, int | float] = {}
    for setting in settings:
        name, _, text = setting.partition("=") if isinstance(setting, str) else ("", "", "")
        if name not in rules:
            raise ConfigError(
                f"{what} has {setting!r}; wanted NAME=VALUE, the names being {', '.join(rules)}"
            )
        value = rules[name].read(text)
        if value is None or name in values:
            once = ", once" if name in values else ""
            raise ConfigError(f"{what} has {setting!r}; {name} is {rules[name].wanted}{once}")
        values[name] = value
    return values
