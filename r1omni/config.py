"""params.yaml as frozen pydantic classes, one per section. Unknown keys are errors.

Imports no torch, so that the command line answers at once. Every default value stands in
params.yaml and nowhere else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from r1omni.evaluation_config import (
    AuditParams,
    JudgesParams,
    PromotionParams,
    ReportParams,
    ScoreParams,
)
from r1omni.limits import Limits
from r1omni.model_config import (
    HumanOmniMediaParams,
    HumanOmniParams,
    MediaParams,
    ModelParams,
    QwenOmniMediaParams,
    QwenOmniParams,
)
from r1omni.section import (
    Count,
    Fraction,
    Positive,
    Section,
    Seed,
    Workers,
    at_least,
    matches,
)
from r1omni.training_config import (
    BaseParams,
    ColdStartParams,
    EngineParams,
    GRPOParams,
    HeldOutParams,
    LabelSFTParams,
)

SyntheticCorpus = Literal["generic", "reasoning", "dfew", "mafw", "ravdess"]
HUB_REPO, HUB_REVISION = r"[\w-][\w.-]*/[\w.-]+", r"\w[\w./-]*"


def _inside_project(path: Path) -> Path:
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError("must be a folder inside the project, as DVC writes it")
    if "'" in str(path):
        raise ValueError("must hold no apostrophe: dvc.yaml quotes it with such")
    return path


class CorpusParams(Section):
    """Where one corpus lies, how it is read, and what it is used for (params_file checks it).

    A corpus with official folds names one; `labels` are a table's closed set of labels, by default
    those that it holds.
    """

    adapter: str
    root: Path
    fold: Annotated[int, Field(ge=1)] | None = None
    roles: tuple[Literal["cold_start", "train", "test"], ...]
    labels: tuple[str, ...] | None = None


class HubParams(Section):
    """A checkpoint of the Hugging Face hub, and the folder that it is fetched to."""

    repo: Annotated[str, matches(HUB_REPO, "OWNER/NAME")]
    revision: Annotated[str, matches(HUB_REVISION, "a branch, a tag or a commit")]
    folder: Annotated[Path, AfterValidator(_inside_project)]
    towers: dict[
        Literal["vision", "audio", "gate"],
        Annotated[str, matches(f"{HUB_REPO}@{HUB_REVISION}", "OWNER/NAME@REVISION")],
    ]


class RenderParams(Section):
    """How synthetic clips look and sound."""

    frame_size: Annotated[int, Field(ge=32, multiple_of=2)]
    fps: Positive
    min_seconds: Positive
    max_seconds: Annotated[Positive, at_least("min_seconds")]
    attribute_noise: Fraction
    visual_noise: Fraction
    audio_noise: Fraction
    sheet_columns: Count


class SyntheticCorpusParams(Section):
    """One synthetic corpus: how many clips and how confounded."""

    clips: Count
    shortcut: Fraction
    label_noise: Fraction


class SyntheticParams(Section):
    """The synthetic corpora; an empty `corpora` means that real files are used."""

    seed: Seed
    render: RenderParams
    corpora: dict[SyntheticCorpus, SyntheticCorpusParams]


class IngestParams(Section):
    """How corpora are read."""

    max_pixels: Annotated[int, Field(ge=1, lt=2**31)]
    missing_audio: Literal["reject", "silence"]
    max_rationale_words: Count


class ValidationParams(Section):
    """The bounds of the Great Expectations suite."""

    min_seconds: Positive
    max_seconds: Annotated[Positive, at_least("min_seconds")]
    min_clips_per_label: Annotated[int, Field(ge=0)]
    min_clips: Annotated[int, Field(ge=0)]
    max_copies: Annotated[int, Field(ge=0)]
    same_sound: Annotated[float, Field(ge=0.8, le=1.01)]


def _needs_zero(value: str, info: ValidationInfo) -> str:
    if value != "none" and info.data.get("zero_stage") == 0:
        raise ValueError("needs zero_stage 1 or more")
    return value


class MachineParams(Section):
    """Where and how the stages run: time and memory, no result beyond rounding. dvc.yaml and a
    training's fingerprint know none of these keys: a change of them runs nothing again.
    """

    device: Literal["auto", "cpu", "cuda"]
    processes: Count
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    offload_optimizer: Annotated[Literal["none", "cpu"], AfterValidator(_needs_zero)]
    micro_batch_size: Count | None
    gradient_checkpointing: bool
    prefix: Literal["reuse", "recompute"]
    features_batch_size: Count
    predict_batch_size: Count
    threads: Count
    workers: Workers
    clip_timeout_seconds: Positive
    clip_memory_mb: Annotated[int, Field(ge=64)]
    min_free_gb: Annotated[float, Field(ge=0.0)]
    save_every: Count
    keep_last: Count
    restarts: Annotated[int, Field(ge=0)]
    collective_timeout_seconds: Positive
    engine: Literal["local", "ray"]
    ray_address: str | None
    rank_patience_seconds: Positive


class PredictParams(Section):
    """Greedy decoding for evaluation."""

    max_new_tokens: Count


class TrackingParams(Section):
    """Where MLflow remembers; docs/how-to/lab.md has PostgreSQL, S3 and servers."""

    uri: str
    artifacts: str | None
    experiment: str
    system_metrics: bool
    registered_model: str


class ServeParams(Section):
    """What a request to the server of `r1omni serve` may cost, and who answers it."""

    answer: Literal["model", "reader"]
    samples: Count
    temperature: Positive
    port: Annotated[int, Field(ge=1, le=65535)]
    max_body_mb: Count
    max_rows: Count
    max_requests: Count
    timeout_seconds: Count
    url_schemes: tuple[Literal["https", "http"], ...]
    fetch_seconds: Positive
    demo_port: Annotated[int, Field(ge=1, le=65535)]


class Params(Section):
    """The whole of params.yaml; `params_class` tells which subclass a file is read as."""

    corpora: dict[str, CorpusParams]
    synthetic: SyntheticParams
    hub: dict[str, HubParams]
    ingest: IngestParams
    validation: ValidationParams
    media: MediaParams
    model: ModelParams
    base: BaseParams
    cold_start: ColdStartParams
    label_sft: LabelSFTParams
    grpo: GRPOParams
    held_out: HeldOutParams
    engine: EngineParams
    machine: MachineParams
    predict: PredictParams
    judges: JudgesParams
    audit: AuditParams
    score: ScoreParams
    report: ReportParams
    promotion: PromotionParams
    tracking: TrackingParams
    serve: ServeParams

    @property
    def limits(self) -> Limits:
        """What one clip may cost, wherever clips are decoded."""
        m = self.machine
        return Limits(m.clip_timeout_seconds, self.ingest.max_pixels, m.clip_memory_mb)


class HumanOmniProfile(Params):
    """The whole of params.yaml for HumanOmni."""

    media: HumanOmniMediaParams
    model: HumanOmniParams


class QwenOmniProfile(Params):
    """The whole of params.yaml for Qwen2.5-Omni."""

    media: QwenOmniMediaParams
    model: QwenOmniParams


PROFILES: Final[Mapping[str, type[Params]]] = {
    "humanomni": HumanOmniProfile,
    "qwen2_5_omni": QwenOmniProfile,
}


def params_class(values: Any) -> type[Params]:
    """The class that validates these values, by `model.backbone`; HumanOmni's without one."""
    model = values.get("model") if isinstance(values, Mapping) else None
    named = model.get("backbone") if isinstance(model, Mapping) else None
    return PROFILES.get(str(named), HumanOmniProfile)
