"""A profile of params/ as overrides of params.yaml, as `dvc exp run -S` takes them (Hydra's)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml


def profile_overrides(params: Path, profile: Path) -> tuple[str, ...]:
    """What makes the values of `params` those of `profile`: KEY=VALUE, ++NEW=VALUE, ~GONE.

    Raises ValueError for a profile that is not there.
    """
    if not profile.is_file():
        raise ValueError(f"{profile}: no such profile")
    before, after = (yaml.safe_load(path.read_text("utf-8")) for path in (params, profile))
    return tuple(_differences(before, after, ""))


def _differences(
    before: Mapping[str, object], after: Mapping[str, object], prefix: str
) -> Iterator[str]:
    yield from (f"~{prefix}{key}" for key in before if key not in after)
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping):
            inner = old if isinstance(old, Mapping) else {}
            yield from _differences(inner, value, f"{prefix}{key}.")
        elif key not in before:
            yield f"++{prefix}{key}={json.dumps(value)}"
        elif value != old:
            yield f"{prefix}{key}={json.dumps(value)}"
