"""What Table 1 and the report are about, in words: rendered or real corpora, model size, seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from r1omni.evaluation.report.paper import ROWS, columns
from r1omni.evaluation.results import CorpusMetrics, Metrics
from r1omni.lineage import DATA_TEXT, Data, joint_kind, size_text

PAPER_DATA: Final[str] = "real corpora, 0.5B"
PAPER: Final[str] = f"paper, {PAPER_DATA}"


# By `model.backbone` in params.yaml.
_BACKBONES: Final[Mapping[str, str]] = {
    "humanomni": "HumanOmni",
    "qwen2_5_omni": "Qwen2.5-Omni's thinker",
}
_KINDS: Final[Mapping[Data, str]] = {
    "synthetic": "synthetic (rendered faces)",
    "real": "real",
    "mixed": "mixed",
    "unknown": "of unknown origin",
}


@dataclass(frozen=True)
class Headline:
    """The report's title, and the sentence below it."""

    title: str
    lead: str


def headline(metrics: Metrics) -> Headline:
    """What the page says first: the data, the size of the models, and how the paper differs."""
    tested, trained = _tested(metrics), _trained(metrics)
    if not _entries(metrics):
        return Headline("R1-Omni's recipe: nothing measured", "No model was measured.")
    where = f"on {DATA_TEXT[tested]}"
    if trained not in (tested, "unknown"):
        where = f"trained on {DATA_TEXT[trained]}, measured on {DATA_TEXT[tested]}"
    title = f"R1-Omni's recipe {where}, {_models(metrics)}"
    lead = f"{_sentence(caption(metrics))} Beside ours stand the paper's numbers: {PAPER_DATA}."
    if "synthetic" in (tested, trained) or "mixed" in (tested, trained):
        lead += (
            " Numbers of rendered faces say whether the recipe works. They say nothing about real "
            "people, and are not to be compared with the paper's."
        )
    return Headline(title, lead)


def caption(metrics: Metrics) -> str:
    """One line: "synthetic corpora (rendered faces), HumanOmni, 1.0 M parameters, seed 1"."""
    tested, trained = _tested(metrics), _trained(metrics)
    parts = [_corpora(metrics)]
    if trained not in (tested, "unknown"):
        parts.append(f"trained on {DATA_TEXT[trained]}")
    backbones = sorted({m.backbone for m in _entries(metrics) if m.backbone is not None})
    parts += [_BACKBONES.get(name, name) for name in backbones]
    if sizes := _sizes(metrics):
        parts.append(f"{sizes} parameters")
    if seeds := sorted({m.seed for m in _entries(metrics) if m.seed is not None}):
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}")
    return ", ".join(parts)


def short_caption(metrics: Metrics) -> str:
    """`caption` without the corpora's names, which the columns' heads mark."""
    return caption(metrics).replace(_corpora(metrics), DATA_TEXT[_tested(metrics)])


def mark(metrics: Metrics, corpus: str) -> str:
    """What marks a corpus's column: "(synthetic)", "(real)"; nothing for one not measured."""
    found = [m[corpus].data for m in metrics.values() if corpus in m]
    kind = joint_kind(found)
    if not found:
        return ""
    return "(origin unknown)" if kind == "unknown" else f"({kind})"


def marked(metrics: Metrics) -> list[str]:
    """The columns' heads: "DFEW (synthetic)"."""
    return [f"{name} {mark(metrics, corpus)}".strip() for corpus, name in columns(metrics).items()]


def corpus_lines(metrics: Metrics) -> list[str]:
    """A sentence on how the rendered corpora were made, and one on what made the models."""
    made = []
    for corpus, name in columns(metrics).items():
        measured = next((m[corpus] for m in metrics.values() if corpus in m), None)
        if measured is not None and measured.data == "synthetic":
            made.append(f"{name} {_known(measured)}")
    models = [
        f"{model} {_made(found)}"
        for model, corpora in _ordered(metrics)
        if (found := next(iter(corpora.values()), None)) is not None
    ]
    lines = []
    if made:
        lines.append(f"Rendered faces and voices, no people: {'; '.join(made)}.")
    return lines + ([f"Models: {'; '.join(models)}."] if models else [])


def _known(measured: CorpusMetrics) -> str:
    told = []
    if measured.shortcut is not None:
        told.append(f"shortcut {measured.shortcut:g}")
    if measured.data_seed is not None:
        told.append(f"seed {measured.data_seed}")
    return f"({', '.join(told)})" if told else ""


def _made(measured: CorpusMetrics) -> str:
    told = [f"trained on {measured.trained_on} data"]
    if measured.trained_on == "unknown":
        told = ["training data not recorded"]
    for word, value in (
        ("seed", measured.seed), ("code", measured.code), ("params", measured.params_hash)
    ):  # fmt: skip
        if value is not None:
            told.append(f"{word} {value}")
    return f"({', '.join(told)})"


def _corpora(metrics: Metrics) -> str:
    """The kinds of the test sets; where they differ, each by name."""
    kinds: dict[Data, list[str]] = {}
    for corpus, name in columns(metrics).items():
        found = [m[corpus].data for m in metrics.values() if corpus in m]
        if found:
            kinds.setdefault(joint_kind(found), []).append(name)
    if len(kinds) == 1:
        return DATA_TEXT[next(iter(kinds))]
    return "; ".join(f"{', '.join(names)}: {_KINDS[kind]}" for kind, names in kinds.items())


def _tested(metrics: Metrics) -> Data:
    return joint_kind(m.data for m in _entries(metrics))


def _trained(metrics: Metrics) -> Data:
    return joint_kind(m.trained_on for m in _entries(metrics))


def _models(metrics: Metrics) -> str:
    sizes = _sizes(metrics)
    if not sizes:
        return "models of unrecorded size"
    return f"models of {sizes} parameters" if "to" in sizes else f"a {sizes} model"


def _sizes(metrics: Metrics) -> str:
    """ "1.0 M", or "1.0 M to 894 M" where the models differ."""
    sizes = sorted({m.parameters for m in _entries(metrics) if m.parameters is not None})
    texts = list(dict.fromkeys(size_text(size) for size in sizes))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}" if texts else ""


def _entries(metrics: Metrics) -> list[CorpusMetrics]:
    return [m for corpora in metrics.values() for m in corpora.values()]


def _ordered(metrics: Metrics) -> Iterable[tuple[str, dict[str, CorpusMetrics]]]:
    known = [row.model for row in ROWS if row.model in metrics]
    for model in known + sorted(set(metrics) - set(known)):
        yield model, dict(metrics[model])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
