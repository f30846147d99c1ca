"""The audit's pictures on the report page: values, escaping, missing numbers, print and phone."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_audit import ATTACK, write_audits
from made_up_run import REPORT, SCORE, Run
from test_report import Page

from r1omni.evaluation.audit_results import (
    AuditedClaim,
    AuditedClip,
    AuditResults,
    Measured,
    read_audit,
    read_audited_clips,
    write_audit,
    write_audited_clips,
)
from r1omni.evaluation.report.audit_pictures import (
    absent,
    audit_pictures,
    moves_the_answer,
    moves_the_rationale,
    who_decides,
)
from r1omni.evaluation.report.audited import Audited, Picture, read_audits
from r1omni.evaluation.report.claim_cards import claim_cards, pieces
from r1omni.evaluation.report.report import run_report
from r1omni.evaluation.report.scatter import per_clip
from r1omni.evaluation.report.truth_picture import truth
from r1omni.evaluation.score import run_score

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audits(tmp_path_factory.mktemp("audit"))


@pytest.fixture
def audits(folder: Path) -> list[Audited]:
    return read_audits(folder)


@pytest.fixture(scope="module")
def report(run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audited")
    run_score(run.predictions, run.truth, out / "metrics.json", out / "plots", score=SCORE)
    run_report(
        out / "metrics.json", run.predictions, run.training, run.sheets, out, folder, report=REPORT
    )
    return out / "report.html"


def values(drawn: Picture) -> list[float]:
    """The values that a picture's marks carry."""
    svg = "".join(panel.svg for panel in drawn.panels)
    return [float(value) for value in re.findall(r'data-value="([-\d.e]+)"', svg)]


def made(model: str, *clips: AuditedClip, **numbers: float) -> Audited:
    measured = {k.replace("__", "."): Measured(value=v, n=10) for k, v in numbers.items()}
    mode = "direct" if model in ("base", "label_sft") else "reasoned"
    return Audited(AuditResults(model=model, mode=mode, corpora={"all": measured}), clips)


def test_every_value_drawn_is_the_files(folder: Path, audits: list[Audited]):
    numbers = json.loads((folder / "grpo.json").read_text())["corpora"]["all"]
    drawn = {
        who_decides: ["shapley.audio_share", "heard_only.war", "shapley.observer_share"],
        moves_the_answer: ["media_swap.audio.answer_changed", "rationale.reversed_changed"],
        moves_the_rationale: ["media_swap.video.follows", "media_swap.audio.kept"],
        absent: ["absence.voice_claims_in_silence"],
        truth: ["grounding.attribute.tremor.supported", "grounding.attribute.jaw.contradicted",
                "grounding.voice.specificity"],
    }  # fmt: skip
    for draw, keys in drawn.items():
        found = values(draw(audits))
        for key in keys:
            assert any(v == pytest.approx(numbers[key]["value"], abs=1e-4) for v in found), key
    swapped = 1 - numbers["rationale.swap_unchanged"]["value"]
    assert any(v == pytest.approx(swapped, abs=1e-4) for v in values(moves_the_answer(audits)))


def test_a_title_says_the_number():
    audit = made("grpo", rationale__reversed_changed=0.02, rationale__reader_changed=0.84,
                 media_swap__audio__kept=0.755, shapley__audio_share=0.517,
                 absence__voice_claims_in_silence=1.0)  # fmt: skip
    assert moves_the_answer([audit]).title == (
        "Told the opposite of its whole explanation, GRPO changes 2.0 % of its answers; a reader "
        "of the text changes 84 %"
    )
    assert moves_the_rationale([audit]).title.startswith("Another voice rewrites 24 % of")
    cold = made("cold_start", shapley__audio_share=0.06)
    assert who_decides([cold]).title == "The cold start takes 6.0 % of its answer from the sound"
    assert who_decides([cold, audit]).title == "GRPO takes 52 % of its answer from the sound"
    assert absent([audit]).title.startswith("With the sound off, 100 % of GRPO's explanations")


def test_a_missing_number_is_left_out_or_said():
    for draw in (who_decides, moves_the_answer, moves_the_rationale, absent, truth):
        empty = draw([made("grpo")])
        assert empty.panels == () and empty.note.startswith("Not measured: ")
        assert empty.table.rows == ()
    assert per_clip([made("grpo")], {}).note.startswith("Not measured: ")
    only = moves_the_answer([made("grpo", rationale__reversed_changed=0.02)])
    assert values(only) == [0.02]
    assert "reader" not in only.title
    direct = audit_pictures([made("base", shapley__audio_share=0.1)], [])
    assert [bool(picture.panels) for picture in direct] == [True, *[False] * 5]


def test_the_table_has_the_interval_and_each_corpus(audits: list[Audited]):
    rows = dict(who_decides(audits).table.rows)
    share = read_audit_share(audits[-1])
    assert rows["share of the sound in the answer"][-1].text == (
        f"51.7 [{100 * share.low:.1f}, {100 * share.high:.1f}] n 480"
    )
    assert rows["right in silence"][0].text.startswith("16.0 [")
    assert rows["share of the sound in the answer, DFEW"][-1].text.endswith("n 160")


def read_audit_share(audit: Audited) -> Measured:
    share = audit.find("shapley.audio_share")
    assert share is not None and share.low is not None and share.high is not None
    return share


def test_a_dot_for_every_clip_and_a_line_for_every_emotion(audits: list[Audited]):
    drawn = per_clip(audits, {"dfew/000": "card-neutral-1"})
    clips, means = (panel.svg for panel in drawn.panels)
    assert clips.count("<circle") == 120
    assert clips.count('<a href="#card-neutral-1">') == 1
    assert means.count("<circle") == means.count('class="span e-') == 12
    cells = dict(drawn.table.rows)["calm"]
    calm = [c for c in audits[-1].clips if c.label == "calm"]
    mean = sum(c.phi_audio or 0 for c in calm) / len(calm)
    assert cells[1].text.endswith(f"/ {mean:+.2f} n {len(calm)}")


def test_claims_are_cut_out_of_the_text():
    said = "Loud, fast voice"
    claims = [
        AuditedClaim("voice", "rate", 1, 6, 10, p=0.1, certainty=0.5),
        AuditedClaim("voice", "loudness", 1, 0, 4, p=0.5, certainty=0.95),
        AuditedClaim("voice", "pitch", 1, 2, 7),  # overlaps the first
    ]
    found = pieces(said, claims)
    assert "".join(piece.text for piece in found) == said
    assert [(p.text, p.verdict, p.certainty, p.sign) for p in found if p.verdict] == [
        ("Loud", "supported", "certain", "✓"), ("fast", "contradicted", "unsure", "✗"),
    ]  # fmt: skip
    assert [p.verdict for p in pieces("Loud", [replace(claims[1], p=0.2)])] == ["undecided"]


def test_a_denied_claim_is_said_to_be_denied():
    """The probability is of what is claimed: that the voice is not loud."""
    clip = AuditedClip(
        "c1", "dfew", "sad", prediction="sad", rationale="Her voice is not loud, it is slow.",
        claims=(AuditedClaim("voice", "loudness", 1, 17, 21, p=0.9, certainty=0.5),
                AuditedClaim("voice", "rate", -1, 29, 33, p=0.9, certainty=0.5)),
    )  # fmt: skip
    (card,) = claim_cards([made("grpo", clip)], 1)
    assert [row.words for row in card.claims] == ["not loud", "slow"]
    assert [piece.about.split(";")[0] for piece in card.pieces if piece.about] == [
        "loudness: denied, supported, judge 0.90", "rate: supported, judge 0.90",
    ]  # fmt: skip


def test_a_card_has_the_weights_and_the_share_of_the_sound():
    clip = AuditedClip(
        "dfew/1", "dfew", "fear", "fear", "Loud, fast", 0.5, -1.5, muted_rationale="Nothing",
        muted_prediction="sad",
        claims=(AuditedClaim("voice", "loudness", 1, 0, 4, weight=-0.8),
                AuditedClaim("voice", "rate", 1, 6, 10, weight=0.4)),
    )  # fmt: skip
    (card,) = claim_cards([made("grpo", clip)], 1)
    assert [(c.weight, c.share, c.is_against) for c in card.claims] == [
        ("-0.80", 1.0, True), ("+0.40", 0.5, False),
    ]  # fmt: skip
    assert (card.heard, card.phi) == (0.75, "picture +0.50, sound -1.50 nats")
    assert claim_cards([made("label_sft", replace(clip, rationale=None))], 1) == []


def test_the_page_shows_seven_pictures_and_escapes_every_text(report: Path):
    html = report.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    assert page.tags.count("section") == 7 + 4  # pictures; folded sections
    assert page.tags.count("svg") >= 10
    assert ATTACK not in html and "&lt;script&gt;alert(&#39;voice&#39;)" in html
    assert "script" not in page.tags
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert {href.removeprefix("#") for href in page.values("href")} <= set(ids)
    text = " ".join(page.text)
    for words in ("Muted, it says", "Told the opposite,", "A reader of the text answers"):
        assert words in text
    assert len(html) < 4_000_000
    assert "url(" not in html and "http" not in html


def test_audits_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"none: no such folder"):
        read_audits(tmp_path / "none")
    write_audit(read_audit(folder / "grpo.json"), tmp_path / "base.json")
    with pytest.raises(ValueError, match=r"base\.json: model: is 'grpo', expected 'base'"):
        read_audits(tmp_path)
    (tmp_path / "base.json").rename(tmp_path / "grpo.json")
    with pytest.raises(ValueError, match=r"grpo\.parquet: no such file"):
        read_audits(tmp_path)
    write_audited_clips(read_audited_clips(folder / "grpo.parquet"), tmp_path / "grpo.parquet")
    assert [audit.name for audit in read_audits(tmp_path)] == ["GRPO"]


def chromium(*arguments: str, profile: Path) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command = [CHROMIUM, *flags, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_printed_it_has_at_most_12_pages(report: Path, tmp_path: Path):
    pdf = tmp_path / "report.pdf"
    print_it = ("--no-pdf-header-footer", f"--print-to-pdf={pdf}", report.as_uri())
    ran = chromium(*print_it, profile=tmp_path / "profile")
    assert 1 < len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) <= 12
    assert "CONSOLE" not in ran.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_at_400_pixels_no_part_is_wider_than_the_page(report: Path, tmp_path: Path):
    """Chromium's own window is at least 500 pixels wide, so the body is made narrow instead."""
    narrow = "<style>body { width: 400px; }</style>"
    script = "<script>document.title = `width ${document.body.scrollWidth}`</script></body>"
    html = report.read_text(encoding="utf-8").replace("</head>", f"{narrow}</head>", 1)
    html = html.replace("<details", "<details open")
    copy = tmp_path / "narrow.html"
    copy.write_text(html.replace("</body>", script, 1), encoding="utf-8")
    dom = chromium("--dump-dom", copy.as_uri(), profile=tmp_path / "profile").stdout
    assert "<title>width 400</title>" in dom
