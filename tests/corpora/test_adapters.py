"""Whatever bytes an annotation file holds: rows, or one error that names the file."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1omni.corpora import read_clips
from r1omni.corpora.clip import REASONS, Reject
from r1omni.corpora.ingestion.lists import CorpusError, Listed
from r1omni.corpora.known import find_corpus

FILES = {
    "dfew": ("label/single_trainset_1.csv", "label/single_testset_1.csv"),
    "mafw": tuple(f"Train & Test Set/single/no_caption/set_1/{s}.txt" for s in ("train", "test")),
    "conversations": ("annotations.json",),
    "emer": ("final-EMER-reason.csv", "openset.csv"),
}
HEADERS = {
    "label/single_trainset_1.csv": b"video_name,label\n",
    "final-EMER-reason.csv": b"name,chinese,english\n",
    "openset.csv": b"name,openset\n",
}
JSON = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["video", "gpt", "a.mp4", "happy"]),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["video", "conversations", "from", "value"]), inner),
)  # fmt: skip


def read(corpus: str, content: bytes) -> list[Listed | Reject]:
    with TemporaryDirectory() as folder:
        for name in FILES[corpus]:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(HEADERS.get(name, b"") + content)
        try:
            rows = list(find_corpus(corpus).read_rows(Path(folder), 1))
        except CorpusError as error:
            assert any(name in str(error) for name in FILES[corpus])
            return []
    for row in rows:
        assert isinstance(row, Listed) or (row.reason in REASONS and row.detail)
        json.dumps([row.where], ensure_ascii=False).encode("utf-8")
    return rows


@pytest.mark.parametrize("corpus", sorted(FILES))
@settings(deadline=None, max_examples=60)
@given(content=st.binary() | st.text(alphabet="01,.\"'[]{}/\\ \n\r\tahppy_-").map(str.encode))
def test_any_bytes_become_rows_or_an_error_that_names_the_file(corpus, content):
    read(corpus, content)


@settings(deadline=None, max_examples=60)
@given(entries=st.lists(JSON, min_size=1))
def test_any_json_list_gives_one_row_an_entry(entries):
    assert len(read("conversations", json.dumps(entries).encode())) == len(entries)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("conversations", "annotations.json"),
        ("conversations", "a stray one.json"),
        ("emer", "a stray one.csv"),
        ("dfew", "Annotation/annotation.csv"),
        ("dfew", "Annotation/annotation.xlsx"),
    ],
)
@pytest.mark.parametrize("special", ["a FIFO", "a device"])
def test_a_list_that_is_no_regular_file_is_refused_by_name(root, annotate, corpus, name, special):
    """Reading a FIFO waits for a writer that never comes: the timeout would end the test."""
    path = annotate(name, "")
    path.unlink()
    if special == "a FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(CorpusError, match=rf"{name}: is no regular file"):
        read_clips(corpus, root)
