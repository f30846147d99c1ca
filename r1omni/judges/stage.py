"""The stage `judges`: the claim judges and the reader, calibrated, and their verdicts on clips.

It reads the cold start's texts, measures of the sound, and the towers' cached features. It reads no
side file and no test label: a verdict is made of what a clip shows and sounds like.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from r1omni.claims import Verdict
from r1omni.corpora.clip import Clip, Split, read_manifest
from r1omni.corpora.sets import Member, features_of
from r1omni.emotion_families import names_emotion
from r1omni.evaluation_config import JudgesParams
from r1omni.judges.acoustics import MEASURES
from r1omni.judges.evidence import Evidence, write_evidence
from r1omni.judges.judge import ClaimJudge, fit_judge, write_judge
from r1omni.judges.measuring import read_measures
from r1omni.judges.pictures import picture_row
from r1omni.judges.reader import Reader, fit_reader, write_reader
from r1omni.judges.verdicts import merged, write_verdicts
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import FeatureStore

Floats = NDArray[np.float64]
CLIPS_AT_ONCE: Final = 256


def run_judges(
    calibration: Sequence[Member],
    tested: Sequence[Member],
    trained: Sequence[Member],
    measures: Path,
    out: Path,
    evidence: Path,
    *,
    judges: JudgesParams,
) -> None:
    """Write voice, face and reader, reliability.json and verdicts.parquet into the folder `out`.

    The voice is judged by measures of the sound, the face by the towers' features. Into the folder
    `evidence` go the verdicts on the training clips of `trained`. Raises ValueError if the
    calibration has no clip with both a rationale and a label.
    """
    clips = [clip for member in calibration for clip in _reasoned(member)]
    if not clips:
        named = ", ".join(str(member.manifest) for member in calibration)
        raise ValueError(f"{named}: no clip has both a rationale and a label; judges need such")
    reader = fit_reader(
        [clip.rationale or "" for clip in clips],
        [clip.label or "" for clip in clips],
        words=judges.reader_words,
        folds=judges.folds,
        penalty=judges.penalty,
        seed=judges.seed,
        masked=names_emotion,
    )
    voice = _fit_voice(clips, calibration, measures, judges)
    face = _fit_face(clips, calibration, judges)
    verdicts = _verdicts(voice, face, tested, "test", measures)
    for judge in (voice, face):
        write_judge(judge, out)
    write_reader(reader, out / "reader.json")
    write_verdicts(verdicts, out / "verdicts.parquet")
    _write_reliability((voice, face), reader, out / "reliability.json")
    known = _verdicts(voice, face, trained, "train", measures) if trained else None
    write_evidence(None if known is None else Evidence(known, reader), evidence)


def _verdicts(
    voice: ClaimJudge, face: ClaimJudge, members: Sequence[Member], split: Split, measures: Path
) -> dict[str, Verdict]:
    """Both judges' verdicts on the members' clips of one split."""
    return merged(
        verdict
        for member in members
        for clips in [[c for c in read_manifest(member.manifest) if c.split == split]]
        for verdict in (_hear(voice, member, clips, measures), _see(face, member, clips))
    )


def _reasoned(member: Member) -> list[Clip]:
    found = read_manifest(member.manifest)
    return [c for c in found if c.rationale and c.label and c.split == "train"]


def _fit_voice(
    clips: Sequence[Clip], members: Sequence[Member], measures: Path, judges: JudgesParams
) -> ClaimJudge:
    """Each corpus of the calibration is standardised by itself, as later each judged one."""
    rows, heard = [], []
    for member in members:
        table = read_measures(measures / f"{member.manifest.stem}.parquet")
        own = [c for c in clips if c.corpus == member.corpus and c.clip_id in table.index]
        if own:
            rows.append(table.loc[[c.clip_id for c in own], list(MEASURES)].to_numpy(float))
            heard += own
    x = np.concatenate(rows) if rows else np.zeros((0, len(MEASURES)))
    corpora = [clip.corpus for clip in heard]
    return fit_judge(
        x, *_texts(heard), side="voice", components=None, judges=judges, corpora=corpora
    )


def _fit_face(clips: Sequence[Clip], members: Sequence[Member], judges: JudgesParams) -> ClaimJudge:
    folders = features_of(members)
    seen = without_rejects(clips, folders)
    if not seen:
        raise ValueError(f"{folders[0]}: no clip with a rationale was decoded; judges need such")
    store = FeatureStore(folders)
    rows = np.concatenate(list(_pictures(store, seen)))
    face = fit_judge(rows, *_texts(seen), side="face", components=judges.components, judges=judges)
    return replace(face, towers=store.towers)


def _texts(clips: Sequence[Clip]) -> tuple[list[str], list[str]]:
    return [clip.rationale or "" for clip in clips], [clip.label or "" for clip in clips]


def _hear(
    judge: ClaimJudge, member: Member, clips: Sequence[Clip], measures: Path
) -> dict[str, Verdict]:
    table = read_measures(measures / f"{member.manifest.stem}.parquet")
    table = table[table.index.isin([clip.clip_id for clip in clips])]
    rows = table[list(MEASURES)].to_numpy(float)
    return dict(zip(table.index, judge.verdicts(rows, own_scale=True), strict=True))


def _see(judge: ClaimJudge, member: Member, clips: Sequence[Clip]) -> dict[str, Verdict]:
    folders = features_of([member])
    clips = without_rejects(clips, folders)
    found = [
        verdict
        for rows in _pictures(FeatureStore(folders), clips)
        for verdict in judge.verdicts(rows, own_scale=False)
    ]
    return dict(zip([clip.clip_id for clip in clips], found, strict=True))


def _pictures(store: FeatureStore, clips: Sequence[Clip]) -> Iterator[Floats]:
    """The clips' pictures as rows of numbers, some at a time."""
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        part = clips[start : start + CLIPS_AT_ONCE]
        rows = [picture_row(features) for features in store.load([clip.clip_id for clip in part])]
        for clip, row in zip(part, rows, strict=True):
            if len(row) != len(rows[0]):
                raise ValueError(
                    f"clip {clip.clip_id!r}: its picture has {len(row)} numbers, that of "
                    f"{part[0].clip_id!r} {len(rows[0])}; judges of the face need equally many"
                )
        yield np.stack(rows)


def _write_reliability(judges: Sequence[ClaimJudge], reader: Reader, path: Path) -> None:
    tree: dict[str, Any] = {
        judge.side: {
            name: {
                "reliability": None if p.reliability is None else round(p.reliability, 4),
                "judged": p.judged,
                "texts": p.n,
            }
            for name, p in judge.probes.items()
        }
        for judge in judges
    }
    tree["reader"] = {"accuracy": round(reader.accuracy, 4), "texts": reader.n}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
