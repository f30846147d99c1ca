"""The alias `champion` of the registry: who holds it, who held it before, and how it moves.

The registered model's tags `champion.0001`, `champion.0002`, … are its history, one tag per move.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1omni.config import TrackingParams
from r1omni.tracking.registry import (
    HELD_OUT,
    find_content,
    find_model_version,
    read_receipt,
    registered_version,
)
from r1omni.tracking.store import local_path, locked, open_client, translate_store_errors

CHAMPION = "champion"


@dataclass(frozen=True)
class Version:
    """A registered version; `digest` is that of its held-out clips, None if it was not measured."""

    registered_model: str
    number: int
    model: str  # base, cold_start, label_sft or grpo
    run_id: str
    digest: str | None

    def __str__(self) -> str:
        return f"{self.registered_model} {self.number} ({self.model})"


class Champion:
    """The alias in one registry, for a caller that holds the store's lock (`open_champion`)."""

    def __init__(self, client: Any, registered_model: str) -> None:
        self._client = client
        self._model = registered_model

    def find(self, target: str) -> Version:
        """The version that a number, an alias, a receipt's path or a models:/ URI names.

        Raises ValueError if there is none.
        """
        if target.endswith(".json"):
            return _version(registered_version(self._client, read_receipt(Path(target))))
        if not target.startswith("models:/"):
            separator = "/" if target.isdecimal() else "@"
            target = f"models:/{self._model}{separator}{target.removeprefix('@')}"
        return _version(find_model_version(self._client, target))

    def has(self, receipt: Path) -> bool:
        """Whether the receipt's content is registered here. Raises ValueError for no receipt."""
        kept = read_receipt(receipt)
        return find_content(self._client, kept.registered_model, kept.content_hash) is not None

    def holder(self) -> Version | None:
        """The version that is the champion now."""
        found = self._client.search_registered_models(f"name = '{self._model}'", max_results=1)
        number = found[0].aliases.get(CHAMPION) if found else None
        return None if number is None else self.find(str(number))

    def measured(self, digest: str) -> list[Version]:
        """All versions that were measured on the held-out clips with this digest, by number."""
        found = self._client.search_model_versions(
            f"name = '{self._model}' and tags.{HELD_OUT} = '{digest}'"
        )
        return sorted(map(_version, found), key=lambda version: version.number)

    def metrics(self, version: Version) -> dict[str, float]:
        """The evaluation metrics of the version's run."""
        metrics = self._client.get_run(version.run_id).data.metrics
        return {key: value for key, value in metrics.items() if key.startswith("eval/")}

    @contextmanager
    def held_out(self, version: Version) -> Iterator[Path]:
        """The file with the version's held-out predictions; of a server, a temporary copy."""
        name = f"{HELD_OUT}/{version.model}.parquet"
        folder = local_path(self._client.get_run(version.run_id).info.artifact_uri)
        if folder is not None:
            yield folder / name
            return
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(self._client.download_artifacts(version.run_id, name, temporary))

    def note(self, version: Version, receipt: Mapping[str, Any]) -> str:
        """Add a comparison's receipt (JSON) to the run's artifacts. Returns its address."""
        name = f"gate/{time.strftime('%Y-%m-%dT%H-%M-%S')}-{time.time_ns() % 10**9:09d}.json"
        self._client.log_text(version.run_id, json.dumps(receipt, indent=2) + "\n", name)
        return f"runs:/{version.run_id}/{name}"

    def move(self, version: Version, how: str, **details: str) -> None:
        """Set the alias, and write the move into the history; `how`: promoted or rolled back."""
        move = {"version": version.number, "how": how, "at": _now(), **details}
        key = f"{CHAMPION}.{len(self.history()) + 1:04d}"
        self._client.set_registered_model_tag(self._model, key, json.dumps(move))
        self._client.set_registered_model_alias(self._model, CHAMPION, str(version.number))

    def history(self) -> list[dict[str, Any]]:
        """All moves, the oldest first: version, how, at, and what was known of it."""
        tags = self._client.get_registered_model(self._model).tags
        return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(f"{CHAMPION}.")]


@contextmanager
def open_champion(tracking: TrackingParams) -> Iterator[Champion]:
    """The alias of the registry that params name, under the store's lock.

    Raises StoreUnreachable.
    """
    client, _ = open_client(tracking)
    with locked(tracking.uri), translate_store_errors(tracking.uri):
        yield Champion(client, tracking.registered_model)


def run_rollback(*, tracking: TrackingParams) -> str:
    """Return the alias to the version that held it before. Returns one sentence for a person.

    Raises ValueError if no other version held it before; StoreUnreachable.
    """
    with open_champion(tracking) as champion:
        holder = champion.holder()
        if holder is None:
            raise ValueError(f"{tracking.registered_model}: no version is {CHAMPION}")
        number = _held_before(champion.history(), holder.number)
        if number is None:
            raise ValueError(f"no version was {CHAMPION} before {holder}")
        before = champion.find(str(number))
        champion.move(before, "rolled back", of=str(holder.number))
    return f"{before} is {CHAMPION} again, no longer {holder}"


def _held_before(history: list[dict[str, Any]], holder: int) -> int | None:
    """The version to go back to: a roll-back takes what came after its version off the list."""
    held: list[int] = []
    for move in history:
        number = int(move["version"])
        if move["how"] == "rolled back":
            held = held[: len(held) - 1 - held[::-1].index(number)]
        held.append(number)
    while held and held[-1] == holder:
        held.pop()
    return held[-1] if held else None


def _version(found: Any) -> Version:
    return Version(
        found.name,
        int(found.version),
        str(found.tags.get("model")),
        found.run_id,
        found.tags.get(HELD_OUT),
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
