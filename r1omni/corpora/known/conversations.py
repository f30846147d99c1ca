"""The conversation JSON of HumanOmni and R1-Omni: a video, a question, an answer.

`[{"video": "MER24/sample_00000967.mp4", "conversations": [{"from": "human", "value": …},
{"from": "gpt", "value": …}]}]`. The answer is a reasoned completion, a bare label or a caption.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from r1omni.completions import parse
from r1omni.corpora.clip import Reason, Reject
from r1omni.corpora.ingestion.lists import CorpusError, Listed, read_json_list, reject, shown
from r1omni.corpora.origin import MARK
from r1omni.corpora.paths import EscapesRoot, relative_path
from r1omni.corpora.record import Corpus
from r1omni.emotions import EMOTIONS, canonical

_ENTRY = '{"video": …, "conversations": [{"from": "human", …}, {"from": "gpt", "value": …}]}'
_TAG = re.compile(r"</?(think|answer)>")


class _Bad(Exception):
    """Why an entry is rejected."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail


def read_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every entry of annotations.json, or of all JSON files beside the clips; all train clips.

    Raises CorpusError if there is no such file or it is not a list.
    """
    del fold
    only = root / "annotations.json"
    files = (
        [only]
        if only.is_file()
        else sorted(path for path in root.glob("*.json") if path.name != MARK)
    )
    if not files:
        raise CorpusError(f"{root}: no annotations.json; expected a JSON list of {_ENTRY}")
    for path in files:
        for index, entry in enumerate(read_json_list(path, _ENTRY)):
            where = f"{path.name}:[{index}]"
            video = entry.get("video") if isinstance(entry, dict) else None
            try:
                yield _read_entry(entry, where)
            except _Bad as bad:
                named = video if isinstance(video, str) else None
                yield reject("conversations", where, bad.reason, bad.detail, named)


def read_answer(text: str) -> tuple[str | None, str | None]:
    """Label and rationale of an answer; a caption is a rationale without a label.

    Raises _Bad for broken tags and for a word that is no emotion.
    """
    parsed = parse(text)
    if parsed is not None:
        return _known(parsed.answer), parsed.rationale
    if _TAG.search(text) or not text.strip():
        raise _Bad("malformed_row", f"answer {shown(text)}; expected <think>…</think>\\n"
                   "<answer>…</answer>, a bare label or a caption")  # fmt: skip
    if canonical(text) is not None or len(text.split()) == 1:
        return _known(text), None
    return None, text.strip()


def _known(answer: str) -> str:
    label = canonical(answer)
    if label is None:
        detail = f"unknown label {shown(answer)}; known: {', '.join(EMOTIONS)}"
        raise _Bad("unknown_label", detail)
    return label


def _read_entry(entry: Any, where: str) -> Listed:
    if not isinstance(entry, dict) or not isinstance(entry.get("video"), str):
        raise _Bad("malformed_row", f"no video; expected {_ENTRY}")
    video: str = entry["video"]
    turns = entry.get("conversations")
    turns = turns if isinstance(turns, list) else []
    answers = [t.get("value") for t in turns if isinstance(t, dict) and t.get("from") == "gpt"]
    if not answers or not isinstance(answers[0], str):
        raise _Bad("malformed_row", f"no answer from gpt; expected {_ENTRY}")
    if not _is_text(video) or not _is_text(answers[0]):
        raise _Bad("malformed_row", "characters that are no text (a lone surrogate)")
    try:
        path = relative_path(video)
    except EscapesRoot as error:
        raise _Bad("escapes_root", str(error)) from error
    stem, dot, _ = path.rpartition(".")
    if not dot or "/" in path[len(stem) :]:
        raise _Bad("malformed_row", f"video {shown(video)} has no suffix; expected .mp4 or .avi")
    label, rationale = read_answer(answers[0])
    candidates = tuple(dict.fromkeys((video, path, f"{stem}.mp4", f"{stem}.avi")))
    return Listed(
        f"conversations/{stem}", candidates, label, "train", where,
        rationale=rationale, anywhere=True,
    )  # fmt: skip


def _is_text(text: str) -> bool:
    return not re.search("[\ud800-\udfff]", text)


CORPUS: Final = Corpus(  # counts: arXiv 2503.05379
    name="conversations",
    title="conversations",
    about="HumanOmni/R1-Omni conversations: 580 of them in the paper's cold start",
    ask="https://github.com/HumanMLLM/R1-Omni and https://github.com/HumanMLLM/HumanOmni",
    layout="annotations.json (or *.json) and the clips that it names, relative to it",
    read_rows=read_rows,
    splits=("train",),
    has_rationales=True,
)
