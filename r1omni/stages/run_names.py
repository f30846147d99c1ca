"""Names that tell MLflow's runs apart: the stage, the params that were changed, the seed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from r1omni.config import params_class
from r1omni.section import Section
from r1omni.tracking.provenance import committed_text, flatten

SHOWN = 3  # changed params


def run_name(stage: str, sections: Mapping[str, Section], params: Path) -> str:
    """A run's name, such as "grpo kl_coef 0.1 seed 2".

    Named are up to three params of the stage's `sections` that differ from the last commit's
    `params`, the file from which they were read.
    """
    before = _committed(params)
    recipe = {name: section.recipe() for name, section in sections.items()}
    changed = changed_params(recipe, before) if before is not None else {}
    words = [f"{key.rpartition('.')[2]} {value}" for key, value in changed.items()]
    parts = [stage, *words[:SHOWN], *(["…"] if len(words) > SHOWN else [])]
    seed = recipe.get(stage, {}).get("seed")
    return " ".join(parts if seed is None else [*parts, f"seed {seed}"])


def changed_params(recipe: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of `recipe` whose value in `before` is another one; seeds are left out."""
    old = dict(flatten(before))
    return {
        key: value
        for key, value in flatten(recipe)
        if old.get(key, value) != value and not key.endswith(".seed")
    }


def _committed(path: Path) -> dict[str, Any] | None:
    """The last commit's params; None without one, or if they are not valid any more."""
    text = committed_text(path)
    if text is None:
        return None
    try:
        values = yaml.safe_load(text)
        return params_class(values).model_validate(values).model_dump(mode="json")
    except (ValidationError, yaml.YAMLError):
        return None
