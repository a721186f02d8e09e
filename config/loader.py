"""From presets, flags and `--set` to one checked Config, and back to plain data.

Precedence: defaults, or the settings of another run < preset < flags < `--set
section.key=value`; the last one wins.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from config.schema import Config, ConfigError

PRESETS = Path(__file__).parent
Settings = dict[str, dict[str, Any]]


def load_config(
    preset: str = "",
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    base: Config | None = None,
) -> Config:
    """Resolves a configuration.

    Args:
        preset: the name of a preset in `config/`, or the path of a TOML file.
        flags: the value of each `section.key`; None: it was not given.
        sets: texts `section.key=value`, in which the value is written as in TOML.
        base: the settings that hold where no other is given; None: the defaults.

    Raises:
        ConfigError: naming the key, what was received and what is allowed.
    """
    settings = read_preset(preset) if preset else {}
    for key, value in (flags or {}).items():
        if value is not None:
            put(settings, key, value)
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set: received {text!r}, expected section.key=value")
        put(settings, key.strip(), literal(value.strip()))
    given = from_dict(settings)  # checks them
    if not base:
        return given
    return from_dict(overlay(to_dict(base), settings))


def overlay(base: Settings, given: Settings) -> Settings:
    """The settings of `base` with those of `given` in their place.

    A budget in epochs replaces one in steps.
    """
    if "epochs" in given.get("train", {}):
        base["train"]["num_steps"] = 0
    return {section: base[section] | given.get(section, {}) for section in base}


def read_preset(preset: str) -> Settings:
    """Reads the tables of a TOML preset, by name or by path."""
    path = Path(preset)
    if not path.suffix:
        path = PRESETS / f"{preset}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise ConfigError(
            f"--config: cannot read {preset!r}; give a TOML file or one of: {names}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config {preset}: not valid TOML: {error}") from None


def put(settings: Settings, key: str, value: Any) -> None:
    """Stores `value` under the dotted `key`."""
    section, dot, name = key.partition(".")
    if not dot:
        raise ConfigError(f"received key {key!r}, expected section.key")
    table = settings.setdefault(section, {})
    if isinstance(table, dict):
        table[name] = value


def literal(text: str) -> Any:
    """Reads one TOML value; any other text is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def from_dict(settings: Mapping[str, Any]) -> Config:
    """Builds a Config from plain tables, such as a preset or a run's config.json."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings: received {settings!r}, expected tables")
    types = get_type_hints(Config)
    sections = {}
    for section, table in settings.items():
        if section not in types:
            raise ConfigError(unknown("section", section, types))
        if not isinstance(table, Mapping):
            raise ConfigError(f"{section}: received {table!r}, expected a table")
        hints, values = get_type_hints(types[section]), {}
        fields = {item.name: item for item in dataclasses.fields(types[section])}
        for name, value in table.items():
            if name not in hints:
                raise ConfigError(unknown("key", name, hints, prefix=f"{section}."))
            if isinstance(value, str):
                value = fields[name].metadata["aliases"].get(value, value)
            values[name] = coerce(f"{section}.{name}", value, hints[name])
        sections[section] = types[section](**values)
    return Config(**sections)


def unknown(what: str, name: str, known: Mapping[str, Any], prefix: str = "") -> str:
    """The message for an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} {prefix}{name}; {hint}"


def coerce(key: str, value: Any, hint: Any) -> Any:
    """Returns `value` in the type `hint`, if the conversion loses nothing."""
    integer = type(value) is int and abs(value) < 2**63  # excludes bool
    number = integer or isinstance(value, float)
    if hint is float and number and math.isfinite(value):
        return float(value)
    if hint is int and integer or hint in (bool, str) and isinstance(value, hint):
        return value
    if hint == tuple[int, ...] and isinstance(value, (list, tuple)):
        return tuple(coerce(key, item, int) for item in value)
    if hint is str and number:
        return str(value)
    name = "list of int" if hint == tuple[int, ...] else hint.__name__
    raise ConfigError(f"{key}: received {value!r}, expected {name}")


def to_dict(config: Config) -> Settings:
    """All settings as plain tables; `from_dict` is the inverse."""
    return dataclasses.asdict(config)


def differences(old: Config, new: Config) -> list[str]:
    """One line `section.key: old -> new` for each setting that differs."""
    before, after = to_dict(old), to_dict(new)
    return [
        f"{section}.{key}: {before[section][key]} -> {value}"
        for section, table in after.items()
        for key, value in table.items()
        if before[section][key] != value
    ]
