"""Which clips each synthetic corpus has: names, labels and latents, before anything is drawn.

A plan depends on the corpus's params and the seed alone. The imbalance follows the real corpora:
DFEW's fold-1 test list (Jiang et al. 2020), MAFW's class counts (Liu et al. 2022, rounded).
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from r1omni.config import SyntheticCorpusParams, SyntheticParams
from r1omni.corpora.known.ravdess import CORPUS as RAVDESS
from r1omni.corpora.synthetic.attributes import SPEAKERS, UNSEEN, Latent, draw_latent
from r1omni.corpora.synthetic.faces import Style
from r1omni.emotions import EMOTIONS, in_order

CORPORA: Final = ("generic", "reasoning", "dfew", "mafw", "ravdess")
FOLDS: Final = 5

_DFEW_COUNTS: Final = {
    "neutral": 534, "happy": 489, "angry": 435, "sad": 379, "surprise": 294, "fear": 181,
    "disgust": 29,
}  # fmt: skip
_MAFW_COUNTS: Final = {
    "sad": 1480, "angry": 1390, "happy": 1225, "neutral": 1130, "surprise": 1015, "anxious": 930,
    "disgust": 640, "fear": 625, "helpless": 340, "contemptuous": 235, "disappointed": 175,
}  # fmt: skip
_REASONING_COUNTS: Final = {
    "neutral": 12, "happy": 12, "sad": 12, "angry": 12, "anxious": 11, "surprise": 10, "fear": 9,
    "disgust": 9, "helpless": 8, "contemptuous": 8, "disappointed": 8,
}  # fmt: skip
_DFEW_FLOOR: Final = 8 * FOLDS  # clips of a label, so that a test fold has that many
_MAFW_FLOOR: Final = 12 * FOLDS
_COMPOUND_SHARE: Final = 0.02
_SILENT_SHARE: Final = 0.002
_CLIPS_PER_ACTOR: Final = 60
_UNIFORM: Final = 2 / 3  # attribute noise that makes all three levels equally likely


@dataclass(frozen=True)
class Planned:
    """One file to be rendered. `index` seeds its own randomness, `person` its face's."""

    index: int
    clip_id: str | None  # the adapter's; None for a file that the adapter must leave out
    path: str  # relative to the corpus's root
    latent: Latent
    label: str  # canonical, as annotated: not always the latent's emotion
    style: Style = "wild"
    person: int = 0
    tracks: Literal["both", "video", "audio"] = "both"
    second_label: str | None = None  # of a compound emotion

    @property
    def visible_scene(self) -> int:
        """The scene behind the face, UNSEEN in the studio."""
        return self.latent.scene if self.style == "wild" else UNSEEN


def plan(corpus: str, synthetic: SyntheticParams) -> list[Planned]:
    """All files of a corpus in index order.

    Raises ValueError where the params ask for what the layout cannot hold.
    """
    _params(corpus, synthetic)
    make = {
        "generic": _generic,
        "reasoning": _reasoning,
        "dfew": _dfew,
        "mafw": _mafw,
        "ravdess": _ravdess,
    }[corpus]
    return make(synthetic)


def stream(
    seed: int, corpus: str, use: Literal["plan", "latent", "clip", "person"], index: int = 0
) -> np.random.Generator:
    """The random numbers for one use: the same whatever else is drawn, and in which order."""
    uses = ("plan", "latent", "clip", "person")
    return np.random.default_rng([seed, zlib.crc32(corpus.encode()), uses.index(use), index])


def apportion(weights: Mapping[str, float], total: int, floor: int = 0) -> dict[str, int]:
    """Whole counts in proportion to `weights` that sum to `total`, none below `floor`.

    A floor above half of an equal share is lowered to that.
    """
    floor = min(floor, total // (2 * len(weights)))
    share = total / sum(weights.values())
    counts = {name: max(floor, int(weight * share)) for name, weight in weights.items()}
    order = sorted(weights, key=lambda name: (-weights[name], name))
    step = 1 if sum(counts.values()) < total else -1
    i = 0
    while sum(counts.values()) != total:
        name = order[i % len(order)]
        if step > 0 or counts[name] > floor:
            counts[name] += step
        i += 1
    return counts


def _generic(synthetic: SyntheticParams) -> list[Planned]:
    """Every combination of levels, both styles: half of the clips show no emotion's prototype."""
    clips = synthetic.corpora["generic"].clips
    weights = dict.fromkeys(EMOTIONS, 1.0)
    planned = _labelled("generic", synthetic, weights, clips)
    noise = synthetic.render.attribute_noise
    return [
        replace(
            p,
            clip_id=f"conversations/generic/{p.index + 1:06d}",
            path=f"generic/{p.index + 1:06d}.mp4",
            style="studio" if p.index % 2 else "wild",
            latent=_latent(
                "generic", synthetic, p.index, p.latent.emotion,
                _UNIFORM if p.index % 4 < 2 else min(2 * noise, _UNIFORM),
            ),
        )
        for p in planned
    ]  # fmt: skip


def _reasoning(synthetic: SyntheticParams) -> list[Planned]:
    clips = synthetic.corpora["reasoning"].clips
    planned = _labelled("reasoning", synthetic, _REASONING_COUNTS, clips)
    rng = stream(synthetic.seed, "reasoning", "plan", 1)
    numbers = np.sort(rng.choice(10 * max(clips, 1000), clips, replace=False))
    names = [
        f"MER24/{'samplenew' if rng.random() < 0.3 else 'sample'}_{number:08d}"
        for number in numbers
    ]
    return [
        replace(p, clip_id=f"conversations/{name}", path=f"{name}.mp4")
        for p, name in zip(planned, names, strict=True)
    ]


def _dfew(synthetic: SyntheticParams) -> list[Planned]:
    clips = synthetic.corpora["dfew"].clips
    planned = _labelled("dfew", synthetic, _DFEW_COUNTS, clips, _DFEW_FLOOR)
    return [
        replace(p, clip_id=f"dfew/{p.index + 1}", path=f"Clip/original/{p.index + 1}.mp4")
        for p in planned
    ]


def _mafw(synthetic: SyntheticParams) -> list[Planned]:
    """Single labels, then a few compound clips; a handful of the single ones has no sound."""
    total = synthetic.corpora["mafw"].clips
    compound = round(_COMPOUND_SHARE * total)
    planned = _labelled("mafw", synthetic, _MAFW_COUNTS, total - compound, _MAFW_FLOOR)
    rng = stream(synthetic.seed, "mafw", "plan", 1)
    silent = max(3, round(_SILENT_SHARE * total))
    common = [p.index for p in planned if p.label in list(_MAFW_COUNTS)[:5]]  # rare ones stay whole
    mute = set(rng.choice(common, min(silent, len(common)), replace=False).tolist())
    for index in range(total - compound, total):
        first, second = (str(e) for e in rng.choice(in_order(_MAFW_COUNTS), 2, replace=False))
        latent = _latent("mafw", synthetic, index, first)
        planned.append(Planned(index, None, "", latent, first, person=index, second_label=second))
    numbers = rng.permutation(total) + 1  # compound clips stand among the others
    return [
        replace(
            p,
            clip_id=None if p.second_label else f"mafw/{number:05d}",
            path=f"data/clips/{number:05d}.mp4",
            tracks="video" if p.index in mute else "both",
        )
        for p, number in zip(planned, numbers, strict=True)
    ]


def _ravdess(synthetic: SyntheticParams) -> list[Planned]:
    """Full audio-video speech, balanced per actor, and two distractors for each actor."""
    corpus = synthetic.corpora["ravdess"]
    if corpus.label_noise:
        raise ValueError("params.yaml: synthetic.corpora.ravdess.label_noise: must be 0, because "
                         "the file name is the label")  # fmt: skip
    actors = -(-corpus.clips // _CLIPS_PER_ACTOR)
    if actors > 24:
        raise ValueError(f"params.yaml: synthetic.corpora.ravdess.clips: at most 1440 (24 actors), "
                         f"not {corpus.clips}")  # fmt: skip
    planned: list[Planned] = []
    for actor in range(1, actors + 1):
        clips = corpus.clips * actor // actors - corpus.clips * (actor - 1) // actors
        takes = list(_takes())[:clips]
        odd_one = "01-02" if actor % 2 else "03-01"  # a song, or sound alone
        names = [f"01-01-{take}" for take in takes] + [f"02-01-{takes[0]}", f"{odd_one}-{takes[1]}"]
        for name in names:
            planned.append(_ravdess_file(synthetic, len(planned), name, actor))
    return planned


def _ravdess_file(synthetic: SyntheticParams, index: int, name: str, actor: int) -> Planned:
    """One file by its name without the actor, MM-CC-EE-II-SS-RR."""
    emotion = RAVDESS.ids[name.split("-")[2]]
    latent = replace(_latent("ravdess", synthetic, index, emotion), speaker=(actor - 1) % SPEAKERS)
    stem = f"{name}-{actor:02d}"
    return Planned(
        index,
        f"ravdess/{stem}" if name.startswith("01-01") else None,
        f"Actor_{actor:02d}/{stem}" + (".wav" if name.startswith("03") else ".mp4"),
        latent,
        emotion,
        style="studio",
        person=actor,
        tracks={"01": "both", "02": "video", "03": "audio"}[name[:2]],  # type: ignore[arg-type]
    )


def _takes() -> Iterator[str]:
    """EE-II-SS-RR of an actor's 60 clips, so ordered that any prefix is nearly balanced."""
    for intensity in ("01", "02"):
        for statement in ("01", "02"):
            for repetition in ("01", "02"):
                for code in RAVDESS.ids:
                    if not (code == "01" and intensity == "02"):  # neutral is never strong
                        yield f"{code}-{intensity}-{statement}-{repetition}"


def _labelled(
    corpus: str,
    synthetic: SyntheticParams,
    weights: Mapping[str, float],
    clips: int,
    floor: int = 0,
) -> list[Planned]:
    """`clips` clips in random order with apportioned emotions and noisy labels, still unnamed."""
    rng = stream(synthetic.seed, corpus, "plan")
    counts = apportion(weights, clips, floor)
    emotions = rng.permutation([e for e, count in counts.items() for _ in range(count)]).tolist()
    labels = _annotate(emotions, _params(corpus, synthetic).label_noise, rng)
    return [
        Planned(i, None, "", _latent(corpus, synthetic, i, emotion), label, person=i)
        for i, (emotion, label) in enumerate(zip(emotions, labels, strict=True))
    ]


def _annotate(emotions: list[str], noise: float, rng: np.random.Generator) -> list[str]:
    """Labels of which the share `noise` is wrong and the class counts stay what they are.

    The wrong ones are dealt among themselves, so rare labels are not drowned in wrong ones.
    """
    labels = np.array(emotions)
    wrong = rng.choice(len(labels), round(noise * len(labels)), replace=False)
    dealt = rng.permutation(labels[wrong])
    for _ in range(1000):
        same = np.flatnonzero(dealt == labels[wrong])
        if not same.size or len(set(labels[wrong])) < 2:
            break
        other = int(rng.integers(len(dealt)))
        dealt[[same[0], other]] = dealt[[other, same[0]]]
    labels[wrong] = dealt
    return [str(label) for label in labels]


def _latent(
    corpus: str, synthetic: SyntheticParams, index: int, emotion: str, noise: float | None = None
) -> Latent:
    return draw_latent(
        emotion,
        stream(synthetic.seed, corpus, "latent", index),
        noise=synthetic.render.attribute_noise if noise is None else noise,
        shortcut=_params(corpus, synthetic).shortcut,
    )


def _params(corpus: str, synthetic: SyntheticParams) -> SyntheticCorpusParams:
    for name, params in synthetic.corpora.items():
        if name == corpus:
            return params
    known = ", ".join(sorted(synthetic.corpora)) or "none"
    raise ValueError(f"params.yaml: synthetic.corpora has no {corpus!r}; it has {known}")
