"""Options of models of field interactions: `--interaction=layers=2,rank=16`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amstf.errors import ConfigError

_COUNT = (1, 64)

OPTIONS: Mapping[str, Mapping[str, tuple[int, int] | tuple[str, ...]]] = {
    "dcn": {"layers": _COUNT},
    "dcn_v2": {"layers": _COUNT, "rank": (0, 1 << 20), "experts": _COUNT},
    "pnn": {"products": ("inner", "outer", "both")},
    "fibinet": {"bilinear": ("interaction", "each", "all"), "reduction": (1, 1 << 20)},
}
"""Model -> its options -> whole numbers from, to, or words; what the layers in `models` take."""


def help_text() -> str:
    """Describes all options for a help page."""
    models = (
        f"{model}: {', '.join(f'{name} ({_wanted(allowed)})' for name, allowed in options.items())}"
        for model, options in OPTIONS.items()
    )
    return (
        "Options of how the model multiplies fields, each NAME=VALUE, separated by commas. "
        + ". ".join(models)
        + "."
    )


def options_of(model: str, settings: Sequence[str]) -> dict[str, int | str]:
    """Reads the options of a model.

    Args:
        model: Its name.
        settings: Each "name=value".

    Returns:
        Name -> value.

    Raises:
        ConfigError: If the model has no such option, or not of that value.

    Example:
        >>> options_of("dcn_v2", ["layers=2", "rank=16"])
        {'layers': 2, 'rank': 16}
    """
    known = OPTIONS.get(model, {})
    options: dict[str, int | str] = {}
    for setting in settings:
        name, _, text = setting.partition("=") if isinstance(setting, str) else ("", "", "")
        if name not in known:
            has = ", ".join(known) or "none"
            raise ConfigError(f"interaction is {setting!r}, and {model} has {has}; leave it out")
        allowed = known[name]
        value = int(text) if text.isdecimal() and len(text) < 10 else text
        is_good = value in allowed
        if isinstance(allowed[0], int):
            is_good = isinstance(value, int) and allowed[0] <= value <= int(allowed[1])
        if not is_good or name in options:
            once = ", once" if name in options else ""
            raise ConfigError(
                f"interaction is {setting!r}; {model} takes {name}={_wanted(allowed)}{once}"
            )
        options[name] = value
    if options.get("experts", 1) != 1 and not options.get("rank"):
        raise ConfigError("interaction: experts are of low rank; give rank too, as rank=16")
    return options


def settings_of(model: str, models: Sequence[str], settings: Sequence[str]) -> tuple[str, ...]:
    """Returns those settings of several models that are for one of them.

    Args:
        model: Its name.
        models: The names of all, which share the settings.
        settings: Each "name=value".

    Returns:
        What `options_of` takes for the model. Of an option that no model has that is for each, so
        that it is refused.

    Example:
        >>> settings_of("dcn", ["dcn", "pnn"], ["layers=2", "products=both"])
        ('layers=2',)
    """
    known = {name for one in models for name in OPTIONS.get(one, ())}
    wanted = OPTIONS.get(model, {}).keys()
    names = {setting: setting.partition("=")[0] for setting in settings}
    return tuple(one for one in settings if names[one] in wanted or names[one] not in known)


def _wanted(allowed: tuple[int, int] | tuple[str, ...]) -> str:
    if isinstance(allowed[0], int):
        return f"{allowed[0]} to {allowed[1]:,}"
    return "|".join(map(str, allowed))
