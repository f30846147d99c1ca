"""The model card: README.md in Hugging Face's layout, from files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from r1omni.cards import uses
from r1omni.cards.audited import audit_rows
from r1omni.cards.facts import Checkpoint, CorpusFacts, Step
from r1omni.evaluation.audit_results import AuditResults
from r1omni.evaluation.results import PROTOCOL, CorpusMetrics
from r1omni.lineage import DATA_TEXT, Origin, size_text

UNKNOWN = "not recorded"
TASK = "video-classification"  # of the tasks that Hugging Face lists, the nearest
KINDS = {
    "base": "The base: a model before any fine-tuning.",
    "cold_start": "The cold start: the base, fine-tuned on reasoned clips (EMER-SFT in the paper).",
    "label_sft": "The base, fine-tuned on labels without reasoning (MAFW-DFEW-SFT in the paper).",
    "grpo": "The cold start, trained by GRPO on labels as rewards (R1-Omni in the paper).",
}


def render_model_card(
    checkpoint: Checkpoint,
    steps: Sequence[Step],
    released: Sequence[Mapping[str, str]],
    corpora: Sequence[CorpusFacts],
    metrics: Mapping[str, CorpusMetrics],
    audit: AuditResults | None,
) -> str:
    """The card's text: YAML front matter with the evaluation's results, then the page.

    `corpora`: those that it was trained or measured on. Raises ValueError for metrics of another
    checkpoint than this.
    """
    _check_same(checkpoint, metrics)
    lineage = checkpoint.lineage
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # a corpus's or a label's name may contain markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("model_card.md.jinja").render(
        name=checkpoint.name,
        what=KINDS.get(steps[0].stage, f"The checkpoint of the stage {steps[0].stage}."),
        kind=lineage.trained_on,
        data_text=DATA_TEXT[lineage.trained_on],
        parameters=_size(lineage.parameters),
        language_model=_size(lineage.language_model),
        mode=lineage.mode or UNKNOWN,
        checkpoint=checkpoint,
        weights=[item for item in checkpoint.files.items() if item[0].endswith(".safetensors")],
        steps=steps,
        released=released,
        corpora=corpora,
        unlisted={n: o for n, o in lineage.data.items() if n not in {c.name for c in corpora}},
        metrics=metrics,
        audited=[] if audit is None else audit_rows(audit),
        titles={corpus.name: corpus.title for corpus in corpora},
        levels=", ".join(sorted({f"{100 * m.confidence:g} %" for m in metrics.values()})),
        protocol=PROTOCOL,
        uses=uses,
        told=_told,
        origin=_origin,
        asked=_asked,
        counts=_counts,
        rate=_rate,
        yaml=lambda values: yaml.safe_dump(dict(values), sort_keys=True).rstrip(),
    )
    card = ModelCard(f"---\n{_front_matter(checkpoint, released, corpora, metrics)}\n---\n\n{page}")
    return str(card).rstrip() + "\n"


def _front_matter(
    checkpoint: Checkpoint,
    released: Sequence[Mapping[str, str]],
    corpora: Sequence[CorpusFacts],
    metrics: Mapping[str, CorpusMetrics],
) -> str:
    """What Hugging Face reads. No licence: none of the weights is recorded."""
    known = {corpus.name: corpus for corpus in corpora}
    results = [
        EvalResult(
            task_type=TASK,
            task_name="emotion recognition",
            dataset_type=corpus,
            dataset_name=known[corpus].title if corpus in known else corpus,
            dataset_split="test",
            dataset_config=None if m.fold is None else f"fold {m.fold}",
            dataset_revision=known[corpus].sha256 if corpus in known else None,
            metric_type=kind,
            metric_name=name,
            metric_value=value,
            metric_args={"n": m.n, "confidence": m.confidence, "interval": list(interval)},
        )
        for corpus, m in metrics.items()
        for kind, name, value, interval in (
            ("accuracy", "WAR", m.war, m.war_ci),
            ("recall", "UAR", m.uar, m.uar_ci),
        )
    ]
    stage, lineage = str(checkpoint.record.get("stage")), checkpoint.lineage
    backbone = str(checkpoint.config.get("model_type", UNKNOWN))
    data = ModelCardData(
        language="en",
        library_name="r1omni",
        pipeline_tag=TASK,
        base_model=[parent["repo"] for parent in released] or None,
        tags=["emotion-recognition", backbone, stage, f"trained-on-{lineage.trained_on}-data"],
        model_name=f"r1-omni {checkpoint.name}",
        eval_results=results or None,
    )
    return data.to_yaml()


def _check_same(checkpoint: Checkpoint, metrics: Mapping[str, CorpusMetrics]) -> None:
    lineage = checkpoint.lineage
    own = (lineage.code, lineage.params_hash, lineage.seed)
    for corpus, m in metrics.items():
        if (m.code, m.params_hash, m.seed) != own:
            raise ValueError(
                f"{checkpoint.name}: the metrics on {corpus} are of another checkpoint: code, "
                f"params and seed are {(m.code, m.params_hash, m.seed)}, the checkpoint's {own}; "
                "run `dvc repro score`"
            )


def _told(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def _size(parameters: int | None) -> str:
    return UNKNOWN if parameters is None else size_text(parameters)


def _origin(origin: Origin) -> str:
    told: list[str] = [origin.data]
    if origin.shortcut is not None:
        told.append(f"shortcut {origin.shortcut:g}")
    if origin.seed is not None:
        told.append(f"seed {origin.seed}")
    return ", ".join(told)


def _asked(corpus: CorpusFacts) -> str:
    if corpus.origin.data == "synthetic":
        return "no one: rendered here"
    return corpus.record.ask or UNKNOWN


def _counts(trained_on: Mapping[str, int]) -> str:
    return ", ".join(f"{corpus} {n:,}" for corpus, n in sorted(trained_on.items())) or UNKNOWN


def _rate(value: float, interval: tuple[float, float]) -> Any:
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
