"""The audit's numbers about answers: with a modality missing, behind another rationale."""

from collections.abc import Callable, Sequence

import numpy as np

from r1omni.corpora.synthetic.attributes import FACE, VOICE, prototype
from r1omni.evaluation.audit.contributions import contributions, share
from r1omni.evaluation.audit.examine import AUDIO, RATIONALE, VIDEO, Examined, Floats
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import Measured

Found = dict[str, Measured | None]
# Rationales, corpora -> answers; None where there is no rationale.
Read = Callable[[Sequence[str | None], Sequence[str]], Sequence[str | None]]


def absence(examined: Sequence[Examined], bootstrap: Bootstrap) -> Found:
    """Accuracy with a modality blank or another clip's, and what answers change with the media."""
    labels = np.array([e.subject.label for e in examined])
    found: dict[str, Measured | None] = {}
    for gone, judged in (
        (AUDIO, [e.muted for e in examined]),
        (VIDEO, [e.dark for e in examined]),
    ):
        right = [j.prediction == label for j, label in zip(judged, labels, strict=True)]
        found[f"absent.{gone}.war"] = bootstrap.ratio(right)
        found[f"absent.{gone}.uar"] = bootstrap.mean_recall(labels, right)
    for swapped, each in (
        (AUDIO, [e.audio_swapped for e in examined]),
        (VIDEO, [e.video_swapped for e in examined]),
    ):
        right = [
            sum(j.prediction == e.subject.label for j in judged)
            for e, judged in zip(examined, each, strict=True)
        ]
        changed = [
            sum(j.prediction != e.subject.prediction for j in judged)
            for e, judged in zip(examined, each, strict=True)
        ]
        n = [len(judged) for judged in each]
        found[f"swapped.{swapped}.war"] = bootstrap.ratio(right, n)
        found[f"media_swap.{swapped}.answer_changed"] = bootstrap.ratio(changed, n)
    return found


def closed(examined: Sequence[Examined], bootstrap: Bootstrap) -> Found:
    """WAR of the likeliest of the corpus's labels, among which the reader chooses, too."""
    right = [e.labels[int(np.argmax(e.own))] == e.subject.label for e in examined]
    return {"closed.war": bootstrap.ratio(right)}


def shapley_values(examined: Sequence[Examined], bootstrap: Bootstrap) -> Found:
    """Mean Shapley values and audio's share of |phi|, by what stands for an absent modality."""
    values = contributions(examined)
    found: dict[str, Measured | None] = {}
    for name, phi in (
        ("shapley", values.donated),
        ("shapley.blank", values.blank),
        ("shapley.label", values.label),
    ):
        if phi:
            found[f"{name}.video"] = bootstrap.ratio(phi[VIDEO])
            found[f"{name}.audio"] = bootstrap.ratio(phi[AUDIO])
            found[f"{name}.audio_share"] = bootstrap.ratio(*share(phi, AUDIO))
    if values.with_text:
        found["rationale.shapley"] = bootstrap.ratio(values.with_text[RATIONALE])
        found["rationale.shapley.video"] = bootstrap.ratio(values.with_text[VIDEO])
        found["rationale.shapley.audio"] = bootstrap.ratio(values.with_text[AUDIO])
        found["rationale.shapley_share"] = bootstrap.ratio(*share(values.with_text, RATIONALE))
    return found


def heard_and_seen(answered: Sequence[tuple[str, bool]], bootstrap: Bootstrap) -> Found:
    """WAR over the emotions that only the voice shows, and over those that only the face shows.

    `answered`: label and whether the answer is right, of synthetic clips; of real ones nobody knows
    where an emotion shows.
    """
    found: dict[str, Measured | None] = {}
    for key, neutral, shows in (("heard_only", FACE, VOICE), ("seen_only", VOICE, FACE)):
        right = [
            correct
            for label, correct in answered
            if not any(prototype(label)[name] for name in neutral)
            and any(prototype(label)[name] for name in shows)
        ]
        found[f"{key}.war"] = bootstrap.ratio(right)
    return found


def forced_rationales(examined: Sequence[Examined], read: Read, bootstrap: Bootstrap) -> Found:
    """How often the answer follows a rationale that is not the model's own to this clip.

    The yardstick is the reader, who knows nothing but the text. A swap counts where the foreign
    rationale's answer is a label of the corpus, and another than the clip's: it can be followed.
    """
    reversible = [e for e in examined if "reversed" in e.forced]
    changed = [_moved(e, "reversed") for e in reversible]
    corpora = [e.subject.corpus for e in reversible]
    before = read([e.subject.rationale or "" for e in reversible], corpora)
    after = read([e.subject.reversed_rationale or "" for e in reversible], corpora)
    by_reader = [a != b for a, b in zip(before, after, strict=True)]
    found = {
        "rationale.reversed_changed": bootstrap.ratio(changed),
        "rationale.reader_changed": bootstrap.ratio(by_reader),
        "rationale.reliance": _at_most_one(bootstrap.ratio(changed, by_reader)),
    }
    for kind, key in (("swap", "swap"), ("same_form", "swap_form")):
        swapped = [e for e in examined if kind in e.forced and _can_follow(e, kind)]
        found[f"rationale.{key}_unchanged"] = bootstrap.ratio(
            [not _moved(e, kind) for e in swapped]
        )
        found[f"rationale.{key}_follows"] = bootstrap.ratio([_follows(e, kind) for e in swapped])
    return found


def rationale_alone(examined: Sequence[Examined], bootstrap: Bootstrap) -> Found:
    """What the model answers behind its own rationale, in the dark and in silence.

    `same` is the rationale's sufficiency (DeYoung et al. 2020, arXiv 1911.03429): 1 where the text
    by itself leads the model to the answer that it gave. `reversed_changed` is of that path alone.
    """
    said = [e for e in examined if "own" in e.alone]
    turned = [e for e in said if "reversed" in e.alone]
    answers = [_likeliest(e, e.alone["own"]) for e in said]
    pairs = list(zip(answers, said, strict=True))
    return {
        "rationale.alone.war": bootstrap.ratio([a == e.subject.label for a, e in pairs]),
        "rationale.alone.same": bootstrap.ratio([a == _likeliest(e, e.own) for a, e in pairs]),
        "rationale.alone.reversed_changed": bootstrap.ratio(
            [_likeliest(e, e.alone["own"]) != _likeliest(e, e.alone["reversed"]) for e in turned]
        ),
    }


def _likeliest(e: Examined, logprobs: Floats) -> str:
    return e.labels[int(np.argmax(logprobs))]


def forced_answer(examined: Examined, kind: str) -> str:
    """The likeliest label behind a forced rationale."""
    return examined.labels[int(np.argmax(examined.forced[kind]))]


def _moved(e: Examined, kind: str) -> bool:
    return int(np.argmax(e.forced[kind])) != int(np.argmax(e.own))


def _can_follow(e: Examined, kind: str) -> bool:
    theirs = _foreign_answer(e, kind)
    return theirs in e.labels and theirs != _likeliest(e, e.own)


def _follows(e: Examined, kind: str) -> bool:
    return forced_answer(e, kind) == _foreign_answer(e, kind)


def _foreign_answer(e: Examined, kind: str) -> str:
    foreign = e.subject.swap if kind == "swap" else e.subject.same_form
    assert foreign is not None
    return foreign.prediction


def _at_most_one(measured: Measured | None) -> Measured | None:
    """A ratio of two shares, cut to [0, 1]. n: the clips that contribute."""
    if measured is None or measured.low is None or measured.high is None:
        return measured
    value, low, high = (min(x, 1.0) for x in (measured.value, measured.low, measured.high))
    return Measured(value=value, low=low, high=high, n=measured.n)
