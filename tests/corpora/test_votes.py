"""DFEW's votes: shares worked by hand, liberal columns, and sheets that are none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import write_xlsx

from r1omni.corpora import read_clips
from r1omni.corpora.clip import read_manifest, write_manifest
from r1omni.corpora.ingestion import spreadsheet
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.ingestion.spreadsheet import read_xlsx
from r1omni.corpora.ingestion.votes import read_votes, soft_label
from r1omni.corpora.known.dfew import CORPUS, find_votes

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SEVEN = tuple(CORPUS.ids.values())
HEADER = ["1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear", "order"]
ROWS = [
    ["7", "0", "3", "", "", "", "0", "1"],
    ["0"] * 7 + ["2"],
    ["1", "1", "0", "0", "0", "0", "2", "00003"],
]


def test_votes_become_shares(tmp_path):
    votes = read_votes(write_xlsx(tmp_path / "annotation.xlsx", [HEADER, *ROWS]), SEVEN)
    assert soft_label(votes, 1) == (("happy", 0.7), ("neutral", 0.3))
    assert soft_label(votes, 2) is None  # nobody voted
    assert soft_label(votes, 3) == (("happy", 0.25), ("sad", 0.25), ("fear", 0.5))
    assert soft_label(votes, 4) is None  # not in the sheet


@pytest.mark.parametrize(
    "header",
    [
        ["label", "order", *HEADER[:7]],
        ["Order", "Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear"],
        [
            "video_name",
            "1_happiness",
            "2 sadness",
            "3.neutral",
            "4anger",
            "5surprised",
            "6disgust",
            "7fear",
        ],
    ],
)
def test_columns_are_known_by_name_in_any_order(tmp_path, header):
    places = {"order": "12", "video_name": "12"}
    row = [places.get(name.casefold(), "2" if "happ" in name.casefold() else "") for name in header]
    votes = read_votes(write_xlsx(tmp_path / "annotation.xlsx", [header, row]), SEVEN)
    assert soft_label(votes, 12) == (("happy", 1.0),)


def test_a_csv_of_votes_is_read_too(annotate, root):
    annotate("Annotation/annotation.csv", ",".join(HEADER) + "\n1,0,0,0,0,0,3,9\n")
    assert soft_label(read_votes(find_votes(root), SEVEN), 9) == (("happy", 0.25), ("fear", 0.75))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [["happy", "sad"], ["1", "2"]],
            r"annotation.xlsx:1: expected columns 1happy, .*order; found",
        ),
        ([HEADER], r"annotation.xlsx:2: no rows below the header"),
        (
            [HEADER, ROWS[0], ["x", *ROWS[0][1:]]],
            r"annotation.xlsx:3: '1, x, 0.*expected a clip's number",
        ),
        ([HEADER, ["1"] * 7], r"annotation.xlsx:2: .*expected a clip's number and the votes"),
        ([HEADER, ["-1", *ROWS[0][1:]]], r"annotation.xlsx:2: .*each 0 or more"),
        ([HEADER, ROWS[0], ROWS[0]], r"annotation.xlsx:3: clip 1 stands there twice"),
    ],
)
def test_a_sheet_that_is_none_names_file_row_and_expectation(tmp_path, rows, message):
    with pytest.raises(CorpusError, match=message):
        read_votes(write_xlsx(tmp_path / "annotation.xlsx", rows), SEVEN)


def test_a_broken_sheet_stops_the_ingestion_with_its_name(root, annotate):
    annotate("label/single_trainset_1.csv", "video_name,label\n1,1\n")
    annotate("label/single_testset_1.csv", "video_name,label\n2,1\n")
    annotate("Annotation/annotation.xlsx", b"PK\x03\x04 not a workbook")
    with pytest.raises(CorpusError, match=r"annotation.xlsx:1: cannot be read as a spreadsheet"):
        read_clips("dfew", root)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(spreadsheet, "_LARGEST", 2**20)
    path = write_xlsx(tmp_path / "bomb.xlsx", [], " " * (2**20 + 1))
    with pytest.raises(CorpusError, match=r"unpacks to more than 1048576 bytes"):
        list(read_xlsx(path))


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_a_mutated_workbook_gives_rows_or_an_error_that_names_it(
    tmp_path_factory, place, byte, cut
):
    path = tmp_path_factory.getbasetemp() / "mutated.xlsx"
    content = write_xlsx(path, [HEADER, *ROWS]).read_bytes()
    place %= len(content)
    path.write_bytes(content[:place] + (b"" if cut else bytes([byte]) + content[place + 1 :]))
    try:
        for line, cells in read_xlsx(path):
            assert line >= 1 and all(isinstance(cell, str) for cell in cells)
    except CorpusError as error:
        assert str(error).startswith(f"{path}:")


def test_soft_labels_survive_the_manifest_and_a_plain_manifest_has_none(
    root, place, annotate, tmp_path
):
    annotate("label/single_trainset_1.csv", "video_name,label\n1,1\n2,3\n")
    annotate("label/single_testset_1.csv", "video_name,label\n3,7\n")
    for number in (1, 2, 3):
        place(f"clip/{number}.mp4")
    write_xlsx(root / "Annotation/annotation.xlsx", [HEADER, *ROWS])
    clips, _ = read_clips("dfew", root, workers=1)
    write_manifest(clips, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == clips
    assert [clip.soft_label for clip in clips][:2] == [(("happy", 0.7), ("neutral", 0.3)), None]
    import pandas as pd

    table = pd.read_parquet(tmp_path / "m.parquet")
    assert table.soft_label[0] == '{"happy": 0.7, "neutral": 0.3}'
    table.assign(soft_label="{").to_parquet(tmp_path / "m.parquet")
    with pytest.raises(ValueError, match=r"m.parquet: clip 'dfew/1': soft_label is '{'; expected"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "rows",
    [
        '<row><c r="ZZZ1"><v>1</v></c></row>' * 100_000,
        "<row>" + "<c><v>1</v></c>" * 100_000 + "</row>",
        '<row r="1"><c><v>1</v></c></row><row r="1000000000000"><c><v>1</v></c></row>',
    ],
    ids=["wide", "many", "far"],
)
def test_a_sheet_of_too_many_cells_is_refused_at_once(tmp_path, rows):
    sheet = f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>'
    path = write_xlsx(tmp_path / "annotation.xlsx", [], sheet)
    with pytest.raises(CorpusError, match=r"annotation.xlsx:\d+: .*more than 512 columns or"):
        list(read_xlsx(path))


def test_an_entity_is_not_fetched_and_does_not_grow(tmp_path):
    """A billion laughs and a file from outside, in the sheet: nothing of either is read."""
    (tmp_path / "secret").write_text("secret")
    for entity in (
        f'<!DOCTYPE x [<!ENTITY a SYSTEM "{(tmp_path / "secret").as_uri()}">]>',
        '<!DOCTYPE x [<!ENTITY b "ha"><!ENTITY a "' + "&b;" * 2**14 + '">]>',
    ):
        cells = '<c t="str"><v>' + "&a;" * 2**10 + "</v></c>"
        body = f'<worksheet xmlns="{MAIN}"><sheetData><row>{cells}</row></sheetData></worksheet>'
        path = write_xlsx(tmp_path / "annotation.xlsx", [], entity + body)
        with pytest.raises(
            CorpusError, match=r"annotation.xlsx:1: cannot be read as a spreadsheet"
        ):
            list(read_xlsx(path))
