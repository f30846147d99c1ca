import csv
import json
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from r1omni.completions import parse
from r1omni.corpora.known import find_corpus
from r1omni.corpora.synthetic.attributes import ATTRIBUTES
from r1omni.corpora.synthetic.texts import statements
from r1omni.corpora.synthetic.writers import folds
from r1omni.emotions import canonical
from r1omni.prompts import CAPTION_QUESTION, instruction


def read_truth(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).set_index("clip_id")


def test_folds_deal_every_label_out_evenly():
    dealt = folds(["a"] * 7 + ["b"] * 8)
    assert sorted(dealt[:7]) == [1, 1, 2, 2, 3, 4, 5]
    assert np.bincount(dealt).tolist() == [0, 3, 3, 3, 3, 3]


def test_dfew_lists_are_five_folds_that_partition_the_clips(rendered):
    root, truth = rendered("dfew")
    table = read_truth(truth)
    tests = []
    for fold in range(1, 6):
        lists = {}
        for split in ("train", "test"):
            path = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
            with path.open(newline="") as file:
                rows = list(csv.reader(file))
            assert rows[0] == ["video_name", "label"]
            lists[split] = {name: find_corpus("dfew").ids[label] for name, label in rows[1:]}
        assert not set(lists["train"]) & set(lists["test"])
        both = lists["train"] | lists["test"]
        assert {f"dfew/{name}": label for name, label in both.items()} == table["label"].to_dict()
        tests += list(lists["test"])
    assert sorted(tests, key=int) == [str(i) for i in range(1, 41)]
    assert {p.name for p in (root / "Clip/original").iterdir()} == {
        f"{i}.mp4" for i in range(1, 41)
    }


def test_mafw_lists_have_single_and_compound_labels_apart(rendered):
    root, truth = rendered("mafw")
    folder = root / "Train & Test Set"
    singles, compounds, tests = {}, {}, []
    for fold in range(1, 6):
        for kind, found in (("single", singles), ("compound", compounds)):
            for split in ("train", "test"):
                path = folder / kind / "no_caption" / f"set_{fold}" / f"{split}.txt"
                rows = dict(line.split(" ") for line in path.read_text().splitlines())
                found.update(rows)
                tests += list(rows) if split == "test" else []
    assert sorted(tests) == sorted([*singles, *compounds])
    assert sorted(tests) == sorted(p.name for p in (root / "data/clips").iterdir())
    assert "00001.mp4" in tests
    ids = {f"mafw/{name[:-4]}": find_corpus("mafw").ids[label] for name, label in singles.items()}
    assert ids == read_truth(truth)["label"].to_dict()
    assert len(compounds) == 1  # 2 % of 60
    assert all(
        part in find_corpus("mafw").ids for label in compounds.values() for part in label.split("_")
    )


def test_three_mafw_clips_have_no_audio_stream(rendered):
    root, _ = rendered("mafw")
    silent = []
    for path in sorted((root / "data/clips").iterdir()):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            if not container.streams.audio:
                silent.append(path.name)
    assert len(silent) == 3


def test_ravdess_keeps_the_other_modalities_beside_the_speech(rendered):
    root, truth = rendered("ravdess")
    names = sorted(p.name for p in (root / "Actor_01").iterdir())
    assert len([n for n in names if n.startswith("01-01")]) == 20
    assert [n for n in names if not n.startswith("01-01")] == [
        "01-02-02-01-01-01-01.mp4",
        "02-01-01-01-01-01-01.mp4",
    ]
    with av.open(str(root / "Actor_01/02-01-01-01-01-01-01.mp4")) as container:
        assert not container.streams.audio
    table = read_truth(truth)
    assert set(table.index) == {f"ravdess/{n[:-4]}" for n in names if n.startswith("01-01")}
    assert table.loc["ravdess/01-01-02-01-01-01-01", "label"] == "calm"


def test_reasoned_answers_are_true_and_their_words_are_known(rendered):
    root, truth = rendered("reasoning")
    entries, table = json.loads((root / "annotations.json").read_text()), read_truth(truth)
    assert len(entries) == len(table) == 24
    for entry in entries:
        assert (root / entry["video"]).is_file()
        row = table.loc["conversations/" + entry["video"].removesuffix(".mp4")]
        human, gpt = entry["conversations"]
        assert human == {"from": "human", "value": f"<video>\n<audio>\n{instruction('reasoned')}"}
        parsed = parse(gpt["value"])
        assert parsed is not None
        assert canonical(parsed.answer) == row["label"]
        claims = statements(parsed.rationale)
        assert all(row[name] == level for name, level in claims.items())
        assert {n for n in ATTRIBUTES if row[n]} <= set(claims)


def test_captions_state_the_attributes_that_stand_beside_them(rendered):
    root, truth = rendered("generic")
    table = read_truth(truth)
    for entry in json.loads((root / "annotations.json").read_text()):
        row = table.loc["conversations/" + entry["video"].removesuffix(".mp4")]
        human, gpt = entry["conversations"]
        assert human["value"].endswith(CAPTION_QUESTION)
        levels = statements(gpt["value"])
        assert entry["attributes"] == levels | {"scene": row["scene"], "speaker": row["speaker"]}
        assert {name: row[name] for name in ATTRIBUTES} == levels
        assert entry["emotion"] == row["label"]


@pytest.mark.parametrize("corpus", ["dfew", "mafw", "ravdess", "reasoning", "generic"])
def test_a_corpus_holds_nothing_that_the_real_one_would_not(rendered, corpus):
    root, _ = rendered(corpus)
    suffixes = {p.suffix for p in root.rglob("*") if p.is_file()}
    assert suffixes <= {".mp4", ".wav", ".csv", ".txt", ".json"}
    assert not list(root.rglob(".*"))
