"""The annotation files of each corpus, in the layouts of the real releases."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r1omni.completions import render
from r1omni.corpora.known.dfew import CORPUS as DFEW
from r1omni.corpora.known.mafw import CORPUS as MAFW
from r1omni.corpora.synthetic.plans import FOLDS, Planned, stream
from r1omni.corpora.synthetic.texts import caption, rationale
from r1omni.prompts import AUDIO, CAPTION_QUESTION, VIDEO, instruction

ANNOTATIONS = "annotations.json"

# Now and then annotators write another form of the word; emotions.VARIANTS maps all of these.
_FORMS = {"anxious": "worried", "fear": "fearful", "surprise": "surprised", "angry": "mad",
          "happy": "joyful", "disgust": "disgusted"}  # fmt: skip
_FORM_SHARE = 0.05


def write_annotations(corpus: str, planned: Sequence[Planned], root: Path, seed: int) -> None:
    """Write the corpus's own lists under `root`; RAVDESS has none, its names say it all."""
    if corpus == "dfew":
        _write_dfew(planned, root)
    elif corpus == "mafw":
        _write_mafw(planned, root)
    elif corpus in ("generic", "reasoning"):
        _write_conversations(corpus, planned, root, seed)


def folds(labels: Sequence[str]) -> list[int]:
    """The fold, 1…5, in whose test list each clip stands: labels are dealt out evenly."""
    dealt = dict.fromkeys(range(len(labels)), 0)
    order = sorted(range(len(labels)), key=lambda i: (labels[i], i))
    for position, i in enumerate(order):
        dealt[i] = position % FOLDS + 1
    return [dealt[i] for i in range(len(labels))]


def _write_dfew(planned: Sequence[Planned], root: Path) -> None:
    ids = {label: number for number, label in DFEW.ids.items()}
    rows = [f"{Path(p.path).stem},{ids[p.label]}" for p in planned]
    tests = folds([p.label for p in planned])
    for fold in range(1, FOLDS + 1):
        for split in ("train", "test"):
            lines = [
                r for r, f in zip(rows, tests, strict=True) if (f == fold) == (split == "test")
            ]
            path = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
            _write_lines(path, ["video_name,label", *lines])


def _write_mafw(planned: Sequence[Planned], root: Path) -> None:
    """`single` lists the clips with one label, `compound` those with two joined by `_`."""
    names = {label: name for name, label in MAFW.ids.items()}
    for kind in ("single", "compound"):
        chosen = sorted(
            (p for p in planned if (p.second_label is None) == (kind == "single")),
            key=lambda p: p.path,
        )
        parts = [[p.label, p.second_label] if p.second_label else [p.label] for p in chosen]
        labels = ["_".join(names[part] for part in both) for both in parts]
        rows = [f"{Path(p.path).name} {label}" for p, label in zip(chosen, labels, strict=True)]
        tests = folds(labels)
        for fold in range(1, FOLDS + 1):
            folder = root / "Train & Test Set" / kind / "no_caption" / f"set_{fold}"
            for split in ("train", "test"):
                lines = [
                    r for r, f in zip(rows, tests, strict=True) if (f == fold) == (split == "test")
                ]
                _write_lines(folder / f"{split}.txt", lines)


def _write_conversations(corpus: str, planned: Sequence[Planned], root: Path, seed: int) -> None:
    """The JSON list of HumanOmni's own sets: a question with both placeholders, and its answer."""
    write = _captioned if corpus == "generic" else _reasoned
    entries = [write(p, stream(seed, corpus, "plan", 1000 + p.index)) for p in planned]
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    _write_lines(root / ANNOTATIONS, [text])


def _reasoned(planned: Planned, rng: np.random.Generator) -> dict[str, object]:
    text = rationale(planned.latent.levels, rng)
    other = rng.random() < _FORM_SHARE
    answer = _FORMS.get(planned.label, planned.label) if other else planned.label
    return {
        "video": planned.path,
        "conversations": _turns(instruction("reasoned"), render(text, answer)),
    }


def _captioned(planned: Planned, rng: np.random.Generator) -> dict[str, object]:
    """With the drawn levels beside it: this corpus is our own, for aligning the base model."""
    latent = planned.latent
    return {
        "video": planned.path,
        "conversations": _turns(CAPTION_QUESTION, caption(latent.levels, rng)),
        "attributes": {**latent.levels, "scene": planned.visible_scene, "speaker": latent.speaker},
        "style": planned.style,
        "emotion": planned.label,
    }


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": f"{VIDEO}\n{AUDIO}\n{question}"},
        {"from": "gpt", "value": answer},
    ]


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
