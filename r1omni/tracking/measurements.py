"""What was measured of a model as MLflow's metrics, each with the clips it was measured on."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from r1omni.tracking.provenance import DIGEST_LENGTH, MeasuredSet


def read_evaluation(path: Path, name: str) -> Iterator[tuple[str, float]]:
    """The metrics of one model of metrics.json, such as ("eval/dfew/war", 0.61)."""
    try:
        corpora = json.loads(path.read_text(encoding="utf-8"))[name]
        for corpus, values in corpora.items():
            for key in ("war", "uar", "format_rate", "n", "undecoded"):
                if values.get(key) is not None:
                    yield f"eval/{corpus}/{key}", float(values[key])
            for key in ("war_ci", "uar_ci"):
                for side, value in zip(("low", "high"), values.get(key) or (), strict=False):
                    yield f"eval/{corpus}/{key}_{side}", float(value)
            for label, value in (values.get("recall") or {}).items():
                if value is not None:
                    yield f"eval/{corpus}/recall/{label}", float(value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{path}: expected {{{name!r}: {{corpus: {{'war': …}}}}}}, got {error!r}"
        raise ValueError(message) from error


def numbers_first(evaluation: Mapping[str, float]) -> str:
    """The numbers first: "WAR/UAR dfew 73.4/70.4, held_out 71.5/69.0"."""
    found = [key.split("/")[1] for key in evaluation if key.endswith("/war")]
    return "WAR/UAR " + ", ".join(
        "{} {:.1f}/{:.1f}".format(
            corpus, *(100 * evaluation[f"eval/{corpus}/{key}"] for key in ("war", "uar"))
        )
        for corpus in found
    )


def log_evaluation(
    client: Any,
    run_id: str,
    evaluation: Mapping[str, float],
    model_id: str,
    measured: Iterable[MeasuredSet],
) -> None:
    """Log the metrics to run and model, each with the test clips that it was measured on."""
    from mlflow.entities import Metric

    digests = {found.corpus: found.digest[:DIGEST_LENGTH] for found in measured}
    known = _latest(client, model_id)
    new = {
        key: (value, digests.get(key.split("/")[1]))
        for key, value in evaluation.items()
        if known.get(key) != (value, digests.get(key.split("/")[1]))
    }
    step = 0
    if changed := known.keys() & new.keys():  # MLflow shows the value of the highest step
        step = 1 + max(p.step for k in changed for p in client.get_metric_history(run_id, k))
    now = int(time.time() * 1000)
    metrics = [
        Metric(key, value, now, step, model_id, key.split("/")[1] if digest else None, digest)
        for key, (value, digest) in new.items()
    ]
    client.log_batch(run_id, metrics=metrics)


def _latest(client: Any, model_id: str) -> dict[str, tuple[float, str | None]]:
    """The value of the highest step of each of the model's metrics, and its test clips' digest."""
    found = client.get_logged_model(model_id).metrics or []
    return {m.key: (m.value, m.dataset_digest) for m in sorted(found, key=lambda m: m.step)}
