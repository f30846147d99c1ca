"""The picture of truth: what judges say of the claims, and whether they are about this clip."""

from collections.abc import Sequence
from typing import Final

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
from r1omni.evaluation.report.certainty_curve import certainty_chart
from r1omni.evaluation.report.charts import Mark, Row, row_chart

ATTRIBUTE: Final[str] = "grounding.attribute."
SIDES: Final[tuple[str, ...]] = ("face", "voice")
LEGEND: Final[tuple[Key, ...]] = (
    Key("supported", "the judge supports it"),
    Key("undecided", "undecided"),
    Key("contradicted", "✗ contradicted"),
    Key("ring-key", "the judge's reliability"),
)


def truth(audits: Sequence[Audited]) -> Picture:
    """Each attribute's claims by verdict, before and after GRPO, specificity, and certainty."""
    models = before_and_after(audits)
    names = _attributes(models)
    panels = [
        Panel(row_chart(rows, f"Verdicts on the claims of {audit.said}"), f"Claims of {audit.said}")
        for audit in models
        if (rows := [row for name in names if (row := _verdicts(audit, name))])
    ]
    has_verdicts = bool(panels)
    if rows := [row for side in SIDES if (row := _specificity(models, side))]:
        ends = ("recites", "describes this clip")
        panels.append(Panel(row_chart(rows, "Specificity", ends=ends), "Is it about this clip?"))
    if drawn := certainty_chart(models):
        words = "Is it so where the model is sure? Face: solid, voice: dashed"
        panels.append(Panel(drawn, words))
    title = "Is it true, and is it about this clip?"
    if found := last(models, "grounding.face.supported"):
        title = f"A judge supports {percent(found[1])} of what {found[0].said} says of the face"
        if contradicted := found[0].find("grounding.face.contradicted"):
            title += f" and contradicts {percent(contradicted)}"
    note = (
        "Specificity: 0 % is what a reciter of each emotion's stereotype reaches without looking, "
        "100 % would be a true description of this clip and no other."
    )
    if not panels:
        note = "Not measured: no audited model has grounding.attribute or grounding.face."
    table = key_table(models, _keys(names), f"The numbers of “{title}”.")
    legend = LEGEND if has_verdicts else ()
    models_legend = tuple(Key(audit.tone, audit.name) for audit in models) if panels else ()
    return Picture("truth", title, note, tuple(panels), table, legend + models_legend)


def _attributes(models: Sequence[Audited]) -> list[str]:
    """The attributes with a verdict: the face's, then the voice's, as the claims say."""
    keys = {key for audit in models for key in audit.results.corpora.get("all", {})}
    names = {
        key.removeprefix(ATTRIBUTE).rpartition(".")[0] for key in keys if key.startswith(ATTRIBUTE)
    }
    sides = {
        claim.attribute: claim.side
        for audit in models
        for clip in audit.clips
        for claim in clip.claims
    }
    return sorted(names, key=lambda name: (sides.get(name, "voice"), name))


def _verdicts(audit: Audited, name: str) -> Row | None:
    supported = audit.find(f"{ATTRIBUTE}{name}.supported")
    contradicted = audit.find(f"{ATTRIBUTE}{name}.contradicted")
    if supported is None or contradicted is None:
        return None
    end, start = supported.value, 1 - contradicted.value
    marks = [
        Mark("bar", 0.0, end, "supported", about=f"supported {percent(supported)}"),
        Mark("bar", end, start, "undecided", about=f"undecided {percent(max(start - end, 0))}"),
        Mark("bar", start, 1.0, "contradicted", f"✗ {percent(contradicted)}",
             f"contradicted {percent(contradicted)}"),
    ]  # fmt: skip
    if reliable := audit.find(f"{ATTRIBUTE}{name}.reliability"):
        about = f"the judge's reliability (AUC within labels) {percent(reliable)}"
        marks.append(Mark("ring", reliable.value, tone="judge", about=about))
    return Row(name, tuple(marks))


def _specificity(models: Sequence[Audited], side: str) -> Row | None:
    marks = tuple(
        Mark("bar", 0.0, max(found.value, 0.0), audit.tone, percent(found), lane=lane)
        for lane, audit in enumerate(models)
        if (found := audit.find(f"grounding.{side}.specificity"))
    )
    return Row(side, marks, len(models)) if marks else None


def _keys(names: Sequence[str]) -> list[tuple[str, str]]:
    keys = [
        (f"grounding.{side}.{word}", f"{side}: {word}")
        for side in SIDES
        for word in ("supported", "contradicted", "specificity", "recall")
    ]
    for side in SIDES:
        keys += [
            (f"certainty.{side}.supported_at_70", f"{side}: supported of the 70 % most certain"),
            (f"certainty.{side}.supported_at_100", f"{side}: supported of all with a certainty"),
            (f"certainty.{side}.auc", f"{side}: certainty finds false claims, AUC"),
        ]
    words = ("supported", "contradicted", "reliability")
    return keys + [(f"{ATTRIBUTE}{name}.{word}", f"{name}: {word}") for name in names
                   for word in words]  # fmt: skip
