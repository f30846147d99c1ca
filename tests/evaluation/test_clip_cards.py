"""The clips on the report's cards: frames, sound, levels. Claims in rollouts. Certainty's curve."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from clip_files import LIMITS, write_clip
from PIL import Image

from r1omni.claims import Verdict
from r1omni.completions import render
from r1omni.config import CorpusParams, Params
from r1omni.corpora.clip import Clip, write_manifest
from r1omni.corpora.sets import Member
from r1omni.evaluation.audit_results import AuditedClaim, AuditedClip, AuditResults
from r1omni.evaluation.report.audited import Audited
from r1omni.evaluation.report.certainty_curve import KEPT, certainty_chart, kept_and_supported
from r1omni.evaluation.report.claim_cards import claim_cards, with_pictures
from r1omni.evaluation.report.clip_media import MAX_HEIGHT, Clips, ShownClip
from r1omni.evaluation.report.clip_pictures import contact_sheet, sound_picture
from r1omni.evaluation.report.groups import cut_at_claims


def audited(*clips: AuditedClip) -> Audited:
    return Audited(AuditResults(model="grpo", mode="reasoned", corpora={}), clips)


def manifest_row(name: str, path: str, start: float | None = None) -> Clip:
    end = None if start is None else start + 0.5
    return Clip(f"dfew/{name}", "dfew", path, "happy", "test", 1, None, None, 1.0, 8.0, 8, True,
                name, start=start, end=end)  # fmt: skip


@pytest.fixture(scope="module")
def clips(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """A corpus of a large clip, a segment of it, a silent one, and one that is gone."""
    folder = tmp_path_factory.mktemp("corpus")
    write_clip(folder / "large.mp4", size=(384, 192))
    write_clip(folder / "silent.mp4", audio=None)
    rows = [
        manifest_row("large", "large.mp4"),
        manifest_row("part", "large.mp4", 0.25),
        manifest_row("silent", "silent.mp4"),
        manifest_row("gone", "gone.mp4"),
    ]
    write_manifest(rows, folder / "dfew.parquet")
    corpora = {"dfew": CorpusParams(adapter="dfew", root=folder, fold=1, roles=("test",))}
    member = Member("dfew", folder / "dfew.parquet", None, ("happy",), "0")
    return Clips((member,), corpora, params.media, 1, LIMITS)


@pytest.fixture(scope="module")
def shown(clips: Clips) -> dict[str, ShownClip | str]:
    return clips.read({f"dfew/{name}" for name in ("large", "part", "silent", "gone", "unknown")})


def test_the_frames_that_the_model_sees_are_read_small_and_the_sound_as_it_hears_it(
    shown: dict[str, ShownClip | str], params: Params
) -> None:
    large, part, silent = (shown[f"dfew/{name}"] for name in ("large", "part", "silent"))
    assert isinstance(large, ShownClip) and isinstance(part, ShownClip)
    assert large.frames.shape == (params.media.num_frames, MAX_HEIGHT, 192, 3)
    assert large.frames.dtype == np.uint8 and large.frames.std() > 10
    assert len(large.waveform) == 16 * 1024  # AAC frames
    assert len(part.waveform) == 8000  # half a second at 16 kHz
    assert isinstance(silent, ShownClip)
    assert silent.frames.shape[1:3] == (64, 64) and not silent.waveform.any()


def test_a_clip_that_is_gone_has_a_card_that_says_so(shown: dict[str, ShownClip | str]) -> None:
    rows = [AuditedClip(f"dfew/{name}", "dfew", "happy", "happy", "Loud.")
            for name in ("gone", "silent", "large", "unknown")]  # fmt: skip
    cards = with_pictures(claim_cards([audited(*rows)], 4), shown)
    found = {card.clip.clip_id: card.pictures for card in cards}
    gone, silent, large, unknown = (found[row.clip_id] for row in rows)
    assert gone is not None and gone.frames == "" and gone.sound is None
    assert gone.missing == "The clip cannot be shown: its file is gone."
    assert unknown is not None and unknown.missing.endswith("no test set has this clip.")
    assert silent is not None and silent.missing == "The clip is silent."
    assert silent.frames.startswith("data:image/webp;base64,") and silent.sound is None
    assert large is not None and large.missing == "" and "<svg" in str(large.sound)


def test_a_contact_sheet_has_four_frames_in_a_row() -> None:
    frames = np.stack([np.full((20, 30, 3), 50 * i, dtype=np.uint8) for i in range(5)])
    uri = contact_sheet(frames)
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert image.size == (4 * 30, 2 * 20)
    assert abs(image.getpixel((45, 10))[0] - 50) < 6  # the second frame
    assert abs(image.getpixel((15, 30))[0] - 200) < 6  # the fifth, below the first
    assert image.getpixel((45, 30))[0] < 6  # nothing


def test_loudness_and_pitch_of_a_tone_stand_where_they_belong() -> None:
    at = np.arange(16000) / 16000
    svg = str(sound_picture((0.5 * np.sin(2 * np.pi * 200 * at)).astype(np.float32), 16000))
    wave, loud, pitch = re.findall(r'<path d="([^"]+)"', svg)
    heights = {
        name: [float(y) for y in re.findall(r",([\d.]+)", path)]
        for name, path in (("wave", wave), ("loud", loud), ("pitch", pitch))
    }
    # -9.03 dB of full scale, on -60 … 0 dB from 58 to 4: 58 - 54 * (1 - 9.03 / 60)
    assert np.median(heights["loud"]) == pytest.approx(12.1, abs=0.3)
    # 200 Hz on 70 … 500 Hz, by octaves, from 106 to 68: 106 - 38 * log(200 / 70) / log(500 / 70)
    assert np.median(heights["pitch"]) == pytest.approx(85.7, abs=0.4)
    assert (min(heights["wave"]), max(heights["wave"])) == (4.0, 58.0)  # scaled to its peak
    assert "1.0 s of sound" in svg


def test_where_no_voice_is_the_pitchs_line_is_broken() -> None:
    at = np.arange(8000) / 16000
    tone = np.sin(2 * np.pi * 200 * at)
    svg = str(sound_picture(np.concatenate([tone, np.zeros(8000), tone]).astype(np.float32), 16000))
    pitch = re.findall(r'<path d="([^"]+)"', svg)[2]
    assert pitch.count("M") == 2


def test_a_card_says_what_the_judges_make_of_the_clip() -> None:
    row = AuditedClip("dfew/1", "dfew", "happy", "happy", "Loud.")
    verdicts: dict[str, Verdict] = {
        "dfew/1": {"brows": (0.1, 0.2, 0.7), "pitch": (0.6, 0.3, 0.1), "rate": (0.0, 1.0, 0.0)}
    }
    (card,) = claim_cards([audited(row)], 1, verdicts)
    spaced = {side: text.replace("\N{NARROW NO-BREAK SPACE}", " ")
              for side, text in card.levels.items()}  # fmt: skip
    assert spaced["face"] == "brows ▲ 0.70"
    assert set(spaced["voice"].split(" · ")) == {"pitch ▼ 0.60", "rate ● 1.00"}
    assert claim_cards([audited(row)], 1)[0].levels == {}
    assert card.pictures is None


def test_a_rollouts_claims_are_marked_inside_its_rationale_alone() -> None:
    completion = render("The brows are raised; a loud voice.", "happy")
    judged = cut_at_claims(completion, {"brows": (0.9, 0.05, 0.05)})
    assert "".join(piece.text for piece in judged) == completion
    marked = [(p.text, p.verdict, p.side) for p in judged if p.verdict]
    assert marked == [("raised", "contradicted", "face"), ("loud", "unjudged", "voice")]
    assert [p.verdict for p in cut_at_claims("a loud voice", {})] == [""]  # not well formed
    (first, *_) = [p for p in cut_at_claims(render("think loud voice", "sad"), {}) if p.verdict]
    assert first.text == "loud"


def test_the_certainty_curve_by_hand() -> None:
    """The ten most certain claims of twenty are supported, no other."""
    claims = [
        AuditedClaim("face", "brows", 1, 0, 1, p=0.9 if i < 10 else 0.1, certainty=1 - i / 100)
        for i in range(20)
    ]
    unknown = AuditedClaim("face", "brows", 1, 0, 1, p=None, certainty=1.0)
    voice = AuditedClaim("voice", "pitch", 1, 0, 1, p=0.0, certainty=1.0)
    row = AuditedClip("dfew/1", "dfew", "sad", "sad", "x", claims=(*claims[::-1], unknown, voice))
    curve = dict(kept_and_supported(audited(row), "face"))
    assert list(curve) == list(KEPT) and len(KEPT) == 19
    assert (curve[0.1], curve[0.5], curve[0.75], curve[1.0]) == (1.0, 1.0, 10 / 15, 0.5)
    assert kept_and_supported(audited(row), "voice") == ()  # one claim is too few
    drawn = str(certainty_chart([audited(row)]))
    assert drawn.count("<path") == 1 and "dashed" not in drawn
    # from 50 % at the bottom (168) to 100 % at the top (18)
    heights = [
        float(y) for y in re.findall(r",([\d.]+)", drawn.partition('d="')[2].partition('"')[0])
    ]
    assert (heights[0], heights[-1]) == (18.0, 168.0)
    assert certainty_chart([]) is None


def test_a_clip_outside_its_corpus_is_refused(clips: Clips, tmp_path: Path) -> None:
    write_manifest([manifest_row("out", "../out.mp4")], tmp_path / "dfew.parquet")
    member = Member("dfew", tmp_path / "dfew.parquet", None, (), "0")
    outside = Clips((member,), clips.corpora, clips.media, 1, LIMITS)
    with pytest.raises(ValueError, match=r"dfew.parquet: clip 'dfew/out'"):
        outside.read({"dfew/out"})
