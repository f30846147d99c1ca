"""The gate before an alias moves: registering is not promoting."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1omni.config import TrackingParams
from r1omni.tracking.registry import read_receipt, registered_version
from r1omni.tracking.store import locked, open_client, translate_store_errors


@dataclass(frozen=True)
class Promotion:
    """Whether an alias has moved; `reason` is one sentence for a person."""

    promoted: bool
    reason: str


def run_promote(
    receipt: Path,
    *,
    tracking: TrackingParams,
    corpus: str,
    alias: str = "champion",
) -> Promotion:
    """Move `alias` to the receipt's version if it is better than the version that holds it.

    Better: a strictly higher WAR on `corpus`. The first version with that metric is promoted.
    Raises ValueError for an invalid receipt, for content that is not registered here, and for a
    version without evaluation; StoreUnreachable.
    """
    kept = read_receipt(receipt)
    metric = f"eval/{corpus}/war"
    client, _ = open_client(tracking)
    with locked(tracking.uri), translate_store_errors(tracking.uri):
        challenger = registered_version(client, kept)
        number = int(challenger.version)
        model = client.get_registered_model(kept.registered_model)
        name = f"{kept.registered_model} {number} ({kept.model})"
        score = _score(client, challenger, metric)
        if score is None:
            raise ValueError(f"{receipt}: {name} has no {metric}; run `r1omni register` first")
        holder = model.aliases.get(alias)
        if holder is not None and int(holder) == number:
            return Promotion(False, f"{name} is already {alias}, {metric} {score:.4f}")
        if holder is not None:
            champion = client.get_model_version(kept.registered_model, str(holder))
            rival = _score(client, champion, metric)
            if rival is not None and score <= rival:
                why = f"{metric} {score:.4f} is not above {rival:.4f} of version {holder}"
                return Promotion(False, f"{name} is not promoted: {why}")
        client.set_registered_model_alias(kept.registered_model, alias, str(number))
    return Promotion(True, f"{name} is now {alias}, {metric} {score:.4f}")


def _score(client: Any, version: Any, metric: str) -> float | None:
    value = client.get_run(version.run_id).data.metrics.get(metric)
    return None if value is None else float(value)
