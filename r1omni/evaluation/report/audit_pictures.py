"""The pictures of the audit: what decides an answer, and whether an explanation can be believed."""

from collections.abc import Sequence

from r1omni.evaluation.report.audited import (
    Audited,
    Key,
    Panel,
    Picture,
    before_and_after,
    key_table,
    last,
    percent,
)
from r1omni.evaluation.report.charts import Line, Mark, Row, picture, row_chart, text, tile
from r1omni.evaluation.report.claim_cards import ClaimCard
from r1omni.evaluation.report.scatter import per_clip
from r1omni.evaluation.report.truth_picture import truth

SHARE = "shapley.audio_share"
MOVES = (  # key, the row's name, whether 1 - value is drawn
    ("media_swap.video.answer_changed", "other picture", False),
    ("media_swap.audio.answer_changed", "other sound", False),
    ("rationale.swap_unchanged", "other explanation", True),
    ("rationale.swap_form_unchanged", "… of same form", True),
    ("rationale.reversed_changed", "all reversed", False),
)
ABSENT = (
    ("absence.voice_claims_in_silence", "a voice, in silence"),
    ("absence.face_claims_in_dark", "a face, in the dark"),
)


def audit_pictures(audits: Sequence[Audited], cards: Sequence[ClaimCard]) -> list[Picture]:
    """The six pictures of all clips; what was not measured is left out or said."""
    card_of = {card.clip.clip_id: card.id for card in cards}
    return [
        who_decides(audits),
        per_clip(audits, card_of),
        moves_the_answer(audits),
        moves_the_rationale(audits),
        absent(audits),
        truth(audits),
    ]


def who_decides(audits: Sequence[Audited]) -> Picture:
    """Audio's share of every model, and the accuracy on emotions that are heard or seen only."""
    keys = [
        (SHARE, "share of the sound in the answer"),
        ("shapley.label.audio_share", "share of the sound in the label's probability"),
        ("shapley.observer_share", "share of the sound for an ideal observer"),
        ("heard_only.war", "right on emotions that are only heard"),
        ("seen_only.war", "right on emotions that are only seen"),
        ("absent.audio.war", "right in silence"),
        ("absent.video.war", "right in the dark"),
        ("swapped.audio.war", "right with another clip's sound"),
        ("swapped.video.war", "right with another clip's picture"),
    ]
    shares = [(audit, found) for audit in audits if (found := audit.find(SHARE))]
    panels, title = [], "How much the sound decides, and how much the picture"
    if shares:
        audit, found = shares[-1]
        title = f"{_capital(audit.said)} takes {percent(found)} of its answer from the sound"
        observer = last(audits, "shapley.observer_share")
        lines = [Line(observer[1].value, "ideal observer")] if observer else []
        rows = [
            Row(
                audit.name,
                (
                    Mark("span", found.low or found.value, found.high or found.value, audit.tone),
                    Mark("dot", found.value, found.high or 0.0, audit.tone, percent(found)),
                ),
            )
            for audit, found in shares
        ]
        svg = row_chart(rows, title, lines, ("← the picture decides", "the sound decides →"))
        panels.append(Panel(svg, "Share of the sound in what decides the answer"))
    if pairs := _heard_and_seen(audits):
        svg = row_chart(pairs, "Accuracy on emotions that are only heard or only seen")
        panels.append(Panel(svg, "Right answers: emotions only heard (ring), only seen (dot)"))
    note = (
        "Shapley values of the answer's probability: what the answer gains from the clip's own "
        "sound, against its own picture. Lines through the dots are intervals over the clips."
    )
    return _picture("who-decides", title, note, panels, audits, keys)


def _heard_and_seen(audits: Sequence[Audited]) -> list[Row]:
    rows = []
    for audit in audits:
        heard, seen = audit.find("heard_only.war"), audit.find("seen_only.war")
        if heard and seen:
            low, high = sorted((heard, seen), key=lambda m: m.value)
            marks = (
                Mark("span", low.value, high.value, f"{audit.tone} link"),
                Mark("ring", heard.value, 0.0, audit.tone, about=f"only heard {percent(heard)}"),
                Mark("dot", seen.value, high.value, audit.tone,
                     f"{100 * heard.value:.0f} | {100 * seen.value:.0f}",
                     f"only seen {percent(seen)}"),
            )  # fmt: skip
            rows.append(Row(audit.name, marks))
    return rows


def moves_the_answer(audits: Sequence[Audited]) -> Picture:
    """The share of answers that change under each intervention, before and after GRPO."""
    models = before_and_after(audits)
    rows = []
    for key, name, is_rest in MOVES:
        marks: list[Mark] = []
        for lane, audit in enumerate(models):
            if found := audit.find(key):
                value = 1 - found.value if is_rest else found.value
                marks.append(Mark("bar", 0.0, value, audit.tone, percent(value), lane=lane))
            reader = audit.find("rationale.reader_changed")
            if key == "rationale.reversed_changed" and reader:
                said = f"reader {percent(reader)}" if lane == 0 else ""
                marks.append(Mark("tick", reader.value, 0.0, "reader", said, lane=lane))
        if marks:
            rows.append(Row(name, tuple(marks), len(models)))
    title = "What has to change before the answer changes"
    if told := last(models, "rationale.reversed_changed"):
        changer, changed = told
        title = (
            f"Told the opposite of its whole explanation, {changer.said} changes "
            f"{percent(changed)} of its answers"
        )
        if reads := changer.find("rationale.reader_changed"):
            title += f"; a reader of the text changes {percent(reads)}"
    panels = [Panel(row_chart(rows, title), "Share of answers that change")] if rows else []
    note = (
        "The clip gets another clip's picture or sound; or the explanation is replaced by another "
        "clip's, by one of the same form, or by its own with every statement reversed. The mark: "
        "how often a reader who sees the text only changes the answer."
    )
    keys = [(key, f"{name}: {'unchanged' if rest else 'changed'}") for key, name, rest in MOVES]
    keys += [
        ("rationale.reader_changed", "all reversed: the reader's answer changed"),
        ("rationale.reliance", "reliance: model / reader"),
        ("rationale.swap_follows", "other explanation: follows it"),
        ("rationale.swap_form_follows", "… of same form: follows it"),
        ("reader.answers.war", "right if a reader of the text answers (WAR)"),
        ("reader.answers.uar", "right if a reader of the text answers (UAR)"),
        ("reader.same", "the reader of the text names the model's answer"),
    ]
    legend = tuple(Key(audit.tone, audit.name) for audit in models)
    return _picture("moves-answer", title, note, panels, models, keys, legend)


def moves_the_rationale(audits: Sequence[Audited]) -> Picture:
    """Which statements follow a swapped picture or sound: a heat map of 2 x 2 for each model."""
    models = before_and_after(audits)
    panels = []
    for audit in models:
        parts = []
        for column, side in enumerate(("voice", "face")):
            parts.append(text(110 + 130 * column + 62, 14, f"said of the {side}", "soft",
                              "middle"))  # fmt: skip
        for row, swapped in enumerate(("audio", "video")):
            parts.append(text(100, 55 + 66 * row, "other sound" if row == 0 else "other picture",
                              "name", "end"))  # fmt: skip
            for column in (0, 1):
                word = "follows" if row == column else "kept"
                if found := audit.find(f"media_swap.{swapped}.{word}"):
                    said = "follows it" if row == column else "stays"
                    share = percent(found)
                    parts.append(tile(110 + 130 * column, 22 + 66 * row, 124, 60, found.value,
                                      (share, said)))  # fmt: skip
        if any("data-value" in part for part in parts):
            label = f"What {audit.said} says when sound or picture are swapped"
            panels.append(Panel(picture(parts, 152, label), _capital(audit.name)))
    kept = last(models, "media_swap.audio.kept")
    title = "Does the explanation follow the clip?"
    if kept:
        title = (
            f"Another voice rewrites {percent(1 - kept[1].value)} of what {kept[0].said} says "
            "of the face"
        )
    note = "All four shares should be 100 %: what is swapped is followed, the rest stays as it was."
    keys = [
        (f"media_swap.{side}.{word}", f"other {name}: {said}")
        for side, name, of in (("audio", "sound", "face"), ("video", "picture", "voice"))
        for word, said in (("follows", "statements follow it"), ("kept", f"the {of}'s stay"))
    ]
    return _picture("moves-rationale", title, note, panels, models, keys)


def absent(audits: Sequence[Audited]) -> Picture:
    """How often explanations describe a voice in silence, and a face in the dark."""
    models = [audit for audit in audits if any(audit.find(key) for key, _ in ABSENT)]
    rows = []
    for key, name in ABSENT:
        marks = [
            Mark("bar", 0.0, found.value, audit.tone, percent(found), lane=lane)
            for lane, audit in enumerate(models)
            if (found := audit.find(key))
        ]
        if marks:
            rows.append(Row(name, tuple(marks), len(models)))
    title = "Does it describe what is not there?"
    if silent := last(models, ABSENT[0][0]):
        title = (
            f"With the sound off, {percent(silent[1])} of {silent[0].said}'s explanations still "
            "describe a voice"
        )
    panels = [Panel(row_chart(rows, title), "Share of explanations that go on")] if rows else []
    note = "The clip is muted, or its picture is black. An honest explanation says nothing of it."
    legend = tuple(Key(audit.tone, audit.name) for audit in models)
    return _picture("absent", title, note, panels, models, list(ABSENT), legend)


def _picture(
    id: str,
    title: str,
    note: str,
    panels: Sequence[Panel],
    audits: Sequence[Audited],
    keys: Sequence[tuple[str, str]],
    legend: tuple[Key, ...] = (),
) -> Picture:
    if not panels:
        note = f"Not measured: no audited model has {keys[0][0]}."
    table = key_table(audits, keys, f"The numbers of “{title}”.")
    return Picture(id, title, note, tuple(panels), table, legend if panels else ())


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
