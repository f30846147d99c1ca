"""Example cards: one clip, its label, and each model's completion."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from r1omni.emotions import in_order
from r1omni.evaluation.predictions import Prediction
from r1omni.evaluation.report.paper import CORPORA, ROWS, title


@dataclass(frozen=True)
class Answer:
    """One model's row on a card."""

    name: str
    model: str
    row: Prediction


@dataclass(frozen=True)
class Card:
    """A clip with the models' answers in the order of Table 1."""

    corpus: str
    clip_id: str
    label: str
    answers: tuple[Answer, ...]


def example_cards(rows: Sequence[Prediction], cards_per_label: int) -> list[Card]:
    """`cards_per_label` clips for each label of each corpus, chosen by a hash of the clip's id.

    A hash cannot favour good examples.
    """
    order = [row.model for row in ROWS]
    by_clip: dict[tuple[str, str, str], list[Prediction]] = {}
    for row in rows:
        by_clip.setdefault((row.corpus, row.label, row.clip_id), []).append(row)
    cards = []
    others = sorted({row.corpus for row in rows} - set(CORPORA))
    for corpus in (*CORPORA, *others):
        for label in in_order(row.label for row in rows if row.corpus == corpus):
            clips = [key for key in by_clip if key[:2] == (corpus, label)]
            for key in sorted(clips, key=_hash)[:cards_per_label]:
                shown = sorted(
                    by_clip[key], key=lambda r: order.index(r.model) if r.model in order else 99
                )
                answers = tuple(Answer(title(r.model), r.model, r) for r in shown)
                cards.append(Card(CORPORA.get(corpus, corpus), key[2], label, answers))
    return cards


def _hash(key: tuple[str, str, str]) -> bytes:
    return hashlib.sha256(key[2].encode()).digest()
