"""Synthetic corpora that render in a second or two."""

from pathlib import Path
from typing import Any

from r1omni.config import RenderParams, SyntheticCorpusParams, SyntheticParams

SIZES = {"generic": 24, "reasoning": 24, "dfew": 40, "mafw": 60, "ravdess": 20}


def build_synthetic(clips: dict[str, int], **changes: Any) -> SyntheticParams:
    """Quick params: `clips` per corpus; changes of seed, shortcut, label_noise."""
    corpora = {
        corpus: SyntheticCorpusParams(
            clips=count,
            shortcut=changes.get("shortcut", 0.0),
            label_noise=changes.get("label_noise", 0.0) if corpus in ("dfew", "mafw") else 0.0,
        )
        for corpus, count in clips.items()
    }
    return SyntheticParams(
        seed=changes.get("seed", 1),
        render=RenderParams(
            frame_size=48,
            fps=8.0,
            min_seconds=0.6,
            max_seconds=0.9,
            attribute_noise=0.2,
            visual_noise=0.04,
            audio_noise=0.008,
            sheet_columns=2,
        ),
        corpora=corpora,
    )


def read_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones too."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
