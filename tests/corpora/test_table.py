"""A plain table is a corpus without a module: rows, rejects, roles, and what the how-to says."""

import csv
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clip_files import write_clip
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.corpora import read_clips
from r1omni.corpora.clip import read_manifest, read_rejects, write_manifest
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.sets import read_set

HEADER = ["path", "label", "split", "subject", "rationale"]
ROWS = [
    ["a.mp4", "Anger.", "train", "Ann", "Her brows are low."],
    ["b/c.mp4", "happy", "test", "", ""],
]


def write_table(root: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    path = root / "clips.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_read_as_it_stands(root, place, kind):
    place("a.mp4"), place("b/c.mp4")
    if kind == "csv":
        write_table(root, ROWS)
    else:
        pd.DataFrame(ROWS, columns=HEADER).assign(subject=["Ann", None]).to_parquet(
            root / "clips.parquet"
        )
    clips, rejects = read_clips("table", root, workers=1)
    assert rejects == []
    assert [(c.clip_id, c.corpus, c.path, c.label, c.split, c.fold) for c in clips] == [
        ("table/a.mp4", "table", "a.mp4", "angry", "train", None),
        ("table/b/c.mp4", "table", "b/c.mp4", "happy", "test", None),
    ]
    assert [(c.subject, c.rationale) for c in clips] == [("Ann", "Her brows are low."), (None,) * 2]


def test_columns_stand_in_any_order_and_others_are_not_read(root, place):
    place("a.mp4")
    write_table(root, [["x", "train", "sad", "a.mp4"]], ["note", "split", "label", "path"])
    (clip,), _ = read_clips("table", root, workers=1)
    assert (clip.label, clip.split, clip.subject, clip.rationale) == ("sad", "train", None, None)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (["none.mp4", "sad", "train"], "missing_file", "looked for none.mp4"),
        (["bad.mp4", "sad", "train"], "unreadable", ""),
        (["a.mp4", "bored", "train"], "unknown_label", "'bored' for table; known: neutral, happy"),
        (["a.mp4", "", "train"], "unknown_label", "unknown label '' for table"),
        (["good.mp4", "sad", "train"], "duplicate", "stands at clips.csv:2 already"),
        (["../a.mp4", "sad", "train"], "escapes_root", "is not a relative path inside"),
        (["/etc/passwd", "sad", "train"], "escapes_root", "is not a relative path inside"),
        (["link.mp4", "sad", "train"], "escapes_root", "leads out of the corpus root"),
        (["a.mp4", "sad", "valid"], "malformed_row", "split 'valid'; expected a path, and train"),
        (["", "sad", "train"], "malformed_row", "path ''"),
        (["a.mp4", "sad"], "malformed_row", "more or fewer cells than the header has columns"),
    ],
)
def test_a_bad_row_costs_one_clip_and_says_where_and_why(
    root, place, clips, tmp_path, row, reason, detail
):
    place("good.mp4"), place("a.mp4"), place("bad.mp4", "garbage")
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(clips["good"].read_bytes())
    (root / "link.mp4").symlink_to(outside)
    write_table(root, [["good.mp4", "sad", "test"], row], ["path", "label", "split"])
    kept, (reject,) = read_clips("table", root, workers=1)
    assert [clip.path for clip in kept] == ["good.mp4"]
    assert (reject.corpus, reject.where, reject.reason) == ("table", "clips.csv:3", reason)
    assert detail in reject.detail


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clips.csv", b"path,label\na.mp4,sad\n", r"clips\.csv:1: missing column split; expected"),
        ("clips.csv", b"path,label,split\n", r"clips\.csv:2: no rows below the header"),
        ("clips.csv", b"path,label,split\n\xff", r"clips\.csv:2: byte 0xff is no UTF-8"),
        ("clips.parquet", b"PAR1 nothing", r"clips\.parquet: not a parquet file"),
        ("other.csv", b"path,label,split\n", r"holds neither; expected one of clips\.csv and"),
    ],
)
def test_a_file_that_is_no_such_table_is_named(root, name, content, message):
    (root / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_clips("table", root)


def test_two_tables_and_a_parquet_file_without_a_column_are_named(root):
    pd.DataFrame({"path": ["a.mp4"], "label": ["sad"]}).to_parquet(root / "clips.parquet")
    with pytest.raises(CorpusError, match=r"clips\.parquet: missing column split"):
        read_clips("table", root)
    write_table(root, ROWS)
    with pytest.raises(CorpusError, match=r"holds clips\.csv and clips\.parquet; expected one of"):
        read_clips("table", root)


LABELS = ("happy", "sad", "angry")


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """30 rendered clips: 3 labels, 5 clips each in both splits, as the how-to asks for."""
    root = tmp_path_factory.mktemp("mine")
    rows = []
    (root / "clips").mkdir()
    for n in range(30):
        label, split = LABELS[n % 3], ("train", "test")[n // 15]
        write_clip(root / f"clips/{n:03d}.mp4", seconds=1.0, seed=n)
        rows.append([f"clips/{n:03d}.mp4", label, split, f"{split} {n % 5}", f"It looks {label}."])
    write_table(root, rows)
    return root


def project(folder: Path, repo: Path, root: Path, entry: str) -> Path:
    """A folder with the params that the how-to describes: the default's and `mine`."""
    text = (repo / "params.yaml").read_text()
    values = yaml.safe_load(text)
    corpora = values["corpora"] | yaml.safe_load(entry.replace("/data/mine", str(root)))
    if "cold_start" in corpora["mine"]["roles"]:  # it alone: nothing has to be rendered
        corpora = {"mine": corpora["mine"]}
    values["corpora"] = corpora
    values["held_out"]["clips"] = 5
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


def r1omni(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def how_to(repo: Path) -> str:
    return (repo / "docs/how-to/add-a-corpus.md").read_text()


def test_the_how_to_is_followed_word_for_word(mine, repo, tmp_path, monkeypatch):
    """Its three lines of params, then the stages that read a corpus, on 30 clips."""
    (entry,) = re.findall(r"```yaml\n(  mine:\n(?:    .*\n){3})```", how_to(repo))
    everything = entry.replace("[train, test]", "[cold_start, train, test]")
    monkeypatch.chdir(project(tmp_path, repo, mine, everything))
    assert "30 of 30 listed clips have their file" in r1omni("doctor", "table", mine)
    r1omni("ingest", "--corpus", "mine", "--manifest", "data/manifests/mine.parquet",
           "--rejects", "data/rejects/mine.parquet")  # fmt: skip
    clips = read_manifest(Path("data/manifests/mine.parquet"))
    assert (len(clips), read_rejects(Path("data/rejects/mine.parquet"))) == (30, [])
    assert {clip.corpus for clip in clips} == {"mine"}
    out = Path("data/validation")
    r1omni("validate", "data/manifests", "--summary", out / "summary.json",
           "--docs", out / "docs", "--reasoned", out / "reasoned.json")  # fmt: skip
    (member,) = read_set(out / "reasoned.json")
    assert (member.corpus, member.features) == ("mine", None)
    Path("data/features/mine").mkdir(parents=True)
    r1omni("sets", "data/sets", "--manifests", "data/manifests", "--features", "data/features")
    for role in ("cold_start", "train", "test"):
        (member,) = read_set(Path(f"data/sets/{role}.json"))
        assert member.labels == LABELS  # those that its clips have, in emotions.py's order
        assert member.features == Path("data/features/mine")


@pytest.mark.parametrize(
    ("rows", "roles", "message"),
    [
        ([["a", "sad", "test", "", ""]], "[train, test]",
         "lacks a row whose split is train; the role train of corpora.mine needs such rows"),
        ([["a", "sad", "train", "", ""]], "[train, test]", "lacks a row whose split is test; the"),
        ([["a", "sad", "train", "", ""], ["a", "sad", "test", "", "x"]],
         "[cold_start, train, test]",
         "lacks a row whose split is train and which has a rationale; the role cold_start"),
    ],
)  # fmt: skip
def test_a_table_that_lacks_what_its_role_needs_is_refused_before_anything_runs(
    repo, root, tmp_path, monkeypatch, rows, roles, message
):
    write_table(root, rows)
    entry = f"mine: {{adapter: table, root: /data/mine, roles: {roles}}}"
    monkeypatch.chdir(project(tmp_path, repo, root, entry))
    for command in (
        ("repro",),
        ("ingest", "--corpus", "mine", "--manifest", "m.parquet", "--rejects", "r.parquet"),
    ):
        done = CliRunner().invoke(app, [*command])
        assert isinstance(done.exception, CorpusError)
        assert message in str(done.exception)


def test_a_corpus_that_is_not_listed_needs_its_root(repo, tmp_path, monkeypatch):
    entry = "mine: {adapter: table, root: x, roles: [test]}"
    monkeypatch.chdir(project(tmp_path, repo, tmp_path, entry))
    command = ["ingest", "--corpus", "dfwe", "--manifest", "m", "--rejects", "r"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "has no corpora.dfwe: list it there" in " ".join(done.output.replace("│", "").split())


def test_rows_may_name_segments_of_a_file(root, tmp_path):
    write_clip(root / "film.mp4", seconds=3.0)
    header = ["path", "label", "split", "start", "end"]
    rows = [["film.mp4", "sad", "train", "0", "1.5"], ["film.mp4", "happy", "train", "1.5", "3"]]
    wrong = (("2", "1"), ("", "1"), ("x", "2"), ("-1", "2"), ("0", "inf"))
    bad = [["film.mp4", "sad", "train", *times] for times in wrong]
    write_table(root, [*rows, ["film.mp4", "sad", "train", "7", "8"], *bad], header)
    kept, rejects = read_clips("table", root, workers=1)
    assert [(c.clip_id, c.path, c.start, c.end) for c in kept] == [
        ("table/film.mp4#0-1.5", "film.mp4", 0.0, 1.5),
        ("table/film.mp4#1.5-3", "film.mp4", 1.5, 3.0),
    ]
    assert [(c.n_frames, c.duration, c.subject) for c in kept] == [(12, 1.5, "film.mp4")] * 2
    assert kept[0].sha256 != kept[1].sha256
    assert [reject.reason for reject in rejects] == ["unreadable"] + ["malformed_row"] * 5
    assert "expected 0 <= start < end, in s" in rejects[1].detail
    write_manifest(kept, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == kept
