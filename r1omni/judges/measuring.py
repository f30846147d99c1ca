"""The acoustic measures of the calibration's and the tested clips, a table for each corpus."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from r1omni.config import CorpusParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.corpora.paths import EscapesRoot, resolve_clip
from r1omni.corpora.sets import Member
from r1omni.judges.acoustics import MEASURES, RATE, measures
from r1omni.limits import Limits
from r1omni.media import (
    Floats,
    Frames,
    Sampling,
    Segment,
    Source,
    read_segment,
    read_sound_alone,
)
from r1omni.media.pool import Undecoded, read_each
from r1omni.model_config import MediaParams

_log = logging.getLogger(__name__)

PRELOAD: Final = ("r1omni.judges.measuring",)


@dataclass(frozen=True)
class Hearing:
    """A `Preparation` whose sound is the waveform itself, as much as the model hears of it."""

    audio_seconds: float
    num_frames: int = 1
    sampling: Sampling = "index"
    sampling_rate: int = RATE

    @property
    def n_samples(self) -> int:
        """Samples of sound that are kept."""
        return round(self.audio_seconds * self.sampling_rate)

    def cuts(self, seconds: float) -> bool:
        """Whether a sound of `seconds` is cut."""
        return seconds > self.audio_seconds

    def frames_to_pixels(self, frames: Frames) -> Floats:
        """Nothing is seen."""
        return np.zeros((len(frames), 0), dtype=np.float32)

    def waveform_to_mel(self, waveform: Floats | None) -> Floats:
        """The waveform (S,); nothing for silence."""
        return np.zeros(0, dtype=np.float32) if waveform is None else waveform

    def without_picture(self) -> Floats:
        """Nothing is seen."""
        return np.zeros((0, 0), dtype=np.float32)


def run_measures(
    members: Sequence[Member],
    trained: Sequence[Member],
    out: Path,
    *,
    corpora: Mapping[str, CorpusParams],
    media: MediaParams,
    workers: int,
    limits: Limits,
) -> None:
    """Write <entry>.parquet for each corpus into the folder `out`: a row per clip with sound.

    Measured are a cold-start corpus's training clips, a test corpus's test clips and the training
    clips of `trained`. A clip without sound has no row, nor has one whose sound does not decode:
    those are logged. Raises ValueError for clips outside their corpus's folder.
    """
    learned = {member.manifest for member in trained}
    out.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for manifest in sorted({member.manifest for member in [*members, *trained]}):
            entry = corpora[manifest.stem]
            clips = [
                clip
                for clip in read_manifest(manifest)
                if clip.has_audio
                and (_measured(clip, entry) or (manifest in learned and clip.split == "train"))
            ]
            sources = [source_of(manifest, entry.root, clip) for clip in clips]
            task = progress.add_task(f"measure {manifest.stem}", total=len(clips))
            rows: list[dict[str, object]] = []
            lost: list[Undecoded] = []
            hear = partial(_measure, hearing=Hearing(media.audio_seconds), limits=limits)
            results = read_each(sources, hear, workers=workers, limits=limits, preload=PRELOAD)
            for clip, found in zip(clips, results, strict=True):
                if isinstance(found, Undecoded):
                    lost.append(found)
                else:
                    rows.append({"clip_id": clip.clip_id, **found})
                progress.advance(task)
            if lost:
                _log.warning(
                    "%s: the sound of %d clips was not measured, the first is %s: %s",
                    manifest, len(lost), lost[0].path, lost[0].reason,
                )  # fmt: skip
            table = pd.DataFrame(rows, columns=["clip_id", *MEASURES])
            _write(table, out / f"{manifest.stem}.parquet")


def read_measures(path: Path) -> pd.DataFrame:
    """A corpus's measures, one row per clip, indexed by clip id.

    Raises ValueError naming the file for anything else.
    """
    try:
        return pd.read_parquet(path, columns=["clip_id", *MEASURES]).set_index("clip_id")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: expected a table of measures, as the stage measures writes it: {error}"
        ) from error


def hear_clip(source: Source, hearing: Hearing, max_pixels: int) -> Floats:
    """The waveform (S,) that a model hears of a clip. Raises UnreadableMedia."""
    if isinstance(source, Segment):
        return read_segment(source, hearing, max_pixels).mel
    return read_sound_alone(source, hearing).inputs.mel


def _measured(clip: Clip, entry: CorpusParams) -> bool:
    return ("cold_start" in entry.roles and clip.split == "train") or (
        "test" in entry.roles and clip.split == "test"
    )


def _measure(source: Source, hearing: Hearing, limits: Limits) -> dict[str, float]:
    return measures(hear_clip(source, hearing, limits.max_pixels), hearing.sampling_rate)


def source_of(manifest: Path, root: Path, clip: Clip) -> Source:
    """The clip's file or part of a file. Raises ValueError for one outside the corpus's folder."""
    try:
        path = resolve_clip(root, clip.path)
    except EscapesRoot as error:
        raise ValueError(f"{manifest}: clip {clip.clip_id!r}: {error}") from error
    if clip.start is None or clip.end is None:
        return path
    return Segment(path, clip.start, clip.end)


def _write(table: pd.DataFrame, path: Path) -> None:
    partial_path = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_parquet(partial_path, index=False)
    partial_path.replace(path)
