"""What each corpus should hold, from its paper and its loaders, and where to ask for it.

Numbers: DFEW arXiv 2008.05924, MAFW arXiv 2208.00847, RAVDESS PLoS ONE 13(5), EMER arXiv
2306.15401, the conversations R1-Omni arXiv 2503.05379; fold sizes as the corpora's lists have them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Documented:
    """`folds`: rows of the train and the test list of fold 1, 2, …; empty where there are none.

    `rows` are the sizes that a corpus without folds is known in, `usable` how many of the rows can
    become clips, `labels` what fold 1's test list (or all usable rows) should count, `files` the
    number of clip files.
    """

    title: str
    ask: str
    layout: str
    files: int | None = None
    folds: tuple[tuple[int, int], ...] = ()
    rows: tuple[int, ...] = ()
    usable: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    subjects: int | None = None


DOCUMENTED: Final[Mapping[str, Documented]] = {
    "dfew": Documented(
        "DFEW: 16,372 film clips, 11,697 of them with one label and a face",
        "https://dfew-dataset.github.io (signed agreement; not to be passed on)",
        "Clip/original/N.mp4 and EmoLabel_DataSplit/{train,test}(single-labeled)/set_{1..5}.csv",
        files=16372,
        folds=((9356, 2341), (9356, 2341), (9357, 2340), (9358, 2339), (9361, 2336)),
        labels={"neutral": 534, "happy": 489, "angry": 435, "sad": 379, "surprise": 294,
                "fear": 181, "disgust": 29},
    ),
    "mafw": Documented(
        "MAFW: 10,045 clips, 9,172 of them with a single label",
        "https://mafw-database.github.io/MAFW (signed agreement; not to be passed on)",
        "data/clips/00025.mp4 and Train & Test Set/single/no_caption/set_{1..5}/{train,test}.txt",
        files=10045,
        folds=((7333, 1839), (7335, 1837), (7339, 1833), (7340, 1832), (7341, 1831)),
    ),
    "mafw_compound": Documented(
        "MAFW with compound emotions: 11 single and 32 compound labels",
        "https://mafw-database.github.io/MAFW (signed agreement; not to be passed on)",
        "data/clips/00025.mp4 and Train & Test Set/compound/no_caption/set_{1..5}/{train,test}.txt",
        files=10045,
    ),
    "ravdess": Documented(
        "RAVDESS: 7,356 recordings of 24 actors, 1,440 of them speech with sound and picture",
        "https://zenodo.org/records/1188976 (CC BY-NC-SA 4.0)",
        "Actor_XX/01-01-EE-II-SS-RR-AA.mp4 or Video_Speech_Actor_XX/Actor_XX/…",
        rows=(7356, 4320, 2880, 1440),
        usable=1440,
        labels={"neutral": 96} | dict.fromkeys(
            ("calm", "happy", "sad", "angry", "fear", "disgust", "surprise"), 192),
        subjects=24,
    ),
    "emer": Documented(
        "EMER: 332 clips with reasons (v2), 100 in v1",
        "https://github.com/zeroQiaoba/AffectGPT; its clips are MER2023's, "
        "http://merchallenge.cn (signed agreement)",
        "final-EMER-reason.csv, a csv with name,openset, and sample_XXXXXXXX.avi or .mp4",
        rows=(332, 232, 100),
    ),
    "conversations": Documented(
        "HumanOmni/R1-Omni conversations: 580 of them in the paper's cold start",
        "https://github.com/HumanMLLM/R1-Omni and https://github.com/HumanMLLM/HumanOmni",
        "annotations.json (or *.json) and the clips that it names, relative to it",
    ),
}  # fmt: skip
