"""metrics.json, typed: the metrics of each model on each test corpus."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from r1omni.lineage import Data
from r1omni.prompts import AnswerMode

PROTOCOL: Final[str] = "open vocabulary, after normalisation"

Interval = tuple[float, float]


class Result(BaseModel):
    """A frozen part of metrics.json that forbids unknown keys. Numbers are fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rates(Result):
    """WAR and UAR with their bootstrap intervals, and the recall of every class present."""

    war: float
    uar: float
    war_ci: Interval
    uar_ci: Interval
    n: int
    recall: dict[str, float]


class ConfusionCounts(Result):
    """counts[i][j]: the clips of label rows[i] with prediction columns[j]; the last is "none"."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]


class RationaleTruth(Result):
    """The share of true statements about face and voice in the rationales; None if there are 0.

    `n_face` and `n_voice` count the statements; None in older files. `n_statements` is their sum.
    `specificity`: 0 for statements that would be as true of other clips of the same answer, 1 if
    all are true. `recall`: of the levels off the middle the share that is stated. `judge_auc`: the
    chance that the judges prefer a true statement to a false one.
    """

    face: float | None
    voice: float | None
    n_statements: int
    n_face: int | None = None
    n_voice: int | None = None
    face_specificity: float | None = None
    voice_specificity: float | None = None
    face_recall: float | None = None
    voice_recall: float | None = None
    face_judge_auc: float | None = None
    voice_judge_auc: float | None = None


class SceneFollowing(Result):
    """The share of clips, of those with a contradicting scene, predicted as the scene's emotion."""

    share: float
    n: int


class SetScores(Result):
    """Agreement of sets of words by their groups, over the `n` clips with a known true word.

    Precision and recall are averages over the clips, `f` is the harmonic mean of the averages,
    `hit` the share of clips with a common group.
    """

    precision: float
    recall: float
    f: float
    hit: float
    n: int


class WordScores(Result):
    """The answers as sets of emotion words, against the sets of true words (wheels.py).

    `groupings`: the scores by ekman, plutchik, shaver and quadrant; `f` is the mean of their F.
    `oov_rate`: the share of predicted words that the table does not know, each of which is wrong.
    `set_size`: predicted words per clip. `unknown_truth`: true words that were left out, since the
    table does not know them. `baselines`: the mean F of trivial models. `affectgpt`: the scores by
    AffectGPT's own rules, by the wheels of `score.wheels`.
    """

    groupings: dict[str, SetScores]
    f: float
    oov_rate: float
    set_size: float
    unknown_truth: int
    baselines: dict[str, float]
    affectgpt: dict[str, SetScores] | None = None


class GainOver(Result):
    """The gain in WAR and UAR over another model, with paired bootstrap intervals.

    The intervals are None in older files, which have half-widths only.
    """

    war: float
    war_ci: Interval | None = None
    war_half_width: float
    uar: float
    uar_ci: Interval | None = None
    uar_half_width: float

    @property
    def direction(self) -> Literal["gain", "loss"] | None:
        """A gain or a loss if the intervals of both WAR and UAR exclude 0 on the same side."""
        if self.war_ci is None or self.uar_ci is None:
            return None
        if self.war_ci[0] > 0 and self.uar_ci[0] > 0:
            return "gain"
        return "loss" if self.war_ci[1] < 0 and self.uar_ci[1] < 0 else None


class BestOf(Result):
    """The truth of the audited clips' greedy rationales, and of those that the judges chose.

    They chose among several sampled ones. `n` audited clips have both.
    """

    greedy: RationaleTruth
    best: RationaleTruth
    n: int


class ReaderRates(Rates):
    """The rates of the reader, who answers from the model's rationales alone."""

    gain_over_own: GainOver


class CorpusMetrics(Rates):
    """The metrics of one model on one test corpus. The rates at the top keep calm as a class.

    Absent: `calm` if the corpus has no calm, `rationale_truth` for models that answer directly, and
    both `rationale_truth` and `follows_scene` without a side file. `silent`, `digital_silence` and
    `cut` count clips without sound, with only zero samples, and with more sound than the model
    hears; the last two are None in older files.
    `undecoded`: test clips that the stage `features` could not decode. The model did not see them,
    so they are left out of n, not counted as wrong; None if they were not counted. An answer that
    is not one known label is among the n, and wrong.
    `best_read`: the reader's rates from the one of several sampled rationales that the judges
    support most, over the n audited clips alone; None without samples.
    `words`: the answers as sets of words; None in older files.
    `data`, `shortcut` and `data_seed` describe the corpus; `backbone`, `trained_on`, `parameters`,
    `seed`, `code` and `params_hash` the model. They are unknown or absent if its checkpoint lacks
    them.
    `recorded_mode` is set only if the model was asked in another mode than it records.
    """

    fold: int | None
    mode: AnswerMode
    confidence: float
    protocol: str
    calm_policy: Literal["keep"]
    format_rate: float
    finished_rate: float
    silent: int
    digital_silence: int | None = None
    cut: int | None = None
    undecoded: int | None = None
    confusion: ConfusionCounts
    gain_over: dict[str, GainOver]
    calm: dict[Literal["keep", "merge", "drop"], Rates] | None = None
    rationale_truth: RationaleTruth | None = None
    reader: ReaderRates | None = None
    best_of: BestOf | None = None
    best_read: Rates | None = None
    follows_scene: SceneFollowing | None = None
    words: WordScores | None = None
    data: Data = "unknown"
    shortcut: float | None = None
    data_seed: int | None = None
    backbone: str | None = None
    trained_on: Data = "unknown"
    parameters: int | None = None
    seed: int | None = None
    code: str | None = None
    params_hash: str | None = None
    recorded_mode: AnswerMode | None = None


Metrics = Mapping[str, Mapping[str, CorpusMetrics]]
_FILE = TypeAdapter(dict[str, dict[str, CorpusMetrics]])


def read_metrics(path: Path) -> Metrics:
    """The contents of metrics.json: {model: {corpus: metrics}}.

    Raises ValueError naming the file and the key for anything else.
    """
    try:
        return _FILE.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg']}") from error


def write_metrics(metrics: Metrics, path: Path) -> None:
    """Write metrics.json with sorted keys, atomically."""
    tree = {
        model: {
            corpus: m.model_dump(exclude_defaults=True)
            | {"data": m.data, "trained_on": m.trained_on}
            for corpus, m in corpora.items()
        }
        for model, corpora in metrics.items()
    }
    write_text(path, json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_summary(metrics: Metrics, path: Path) -> None:
    """Write DVC's metrics file, atomically: {model: {corpus: {war, uar, format}}}.

    Fractions with four decimals; metrics.json has the intervals and everything else.
    """
    tree = {
        model: {
            corpus: {
                "war": round(m.war, 4), "uar": round(m.uar, 4), "format": round(m.format_rate, 4)
            }
            for corpus, m in corpora.items()
        }
        for model, corpora in metrics.items()
    }  # fmt: skip
    write_text(path, json.dumps(tree, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
