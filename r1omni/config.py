"""params.yaml as frozen pydantic classes, one per section. Unknown keys are errors.

Imports no torch, so that the command line answers at once. Every default value stands in
params.yaml and nowhere else.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from r1omni.limits import Limits
from r1omni.params_file import ParamsError, line_of, read_yaml

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Workers = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]
WITH_FOLDS = ("dfew", "mafw")
SyntheticCorpus = Literal["generic", "reasoning", "dfew", "mafw", "ravdess"]
HUB_REPO, HUB_REVISION = r"[\w-][\w.-]*/[\w.-]+", r"\w[\w./-]*"


class Section(BaseModel):
    """A frozen section of params.yaml that forbids unknown keys.

    `KNOBS` are its keys that change time, memory and rounding alone: what a training is to give
    does not depend on them. All others are its recipe.
    """

    KNOBS: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    def recipe(self) -> dict[str, Any]:
        """The values that decide a result: a training goes on only where they are the same."""
        return self.model_dump(mode="json", exclude=set(self.KNOBS))

    def knobs(self) -> dict[str, Any]:
        """The other values."""
        return self.model_dump(mode="json", include=set(self.KNOBS))

    @field_validator("*", mode="before")
    @classmethod
    def _number_not_bool(cls, value: Any, info: ValidationInfo) -> Any:
        expected = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and expected in (int, float):
            raise ValueError("expected a number, not true or false")
        return value


def _divides(name: str) -> AfterValidator:
    """A check that the value divides that of the field `name`, which stands above it."""

    def check(value: int, info: ValidationInfo) -> int:
        whole = info.data.get(name, 0)
        if whole % value:
            raise ValueError(f"must divide {name}, which is {whole}")
        return value

    return AfterValidator(check)


def _at_least(name: str) -> AfterValidator:
    """A check that the value is not below that of the field `name`, which stands above it."""

    def check(value: float, info: ValidationInfo) -> float:
        if value < info.data.get(name, value):
            raise ValueError(f"must not be below {name}, which is {info.data[name]}")
        return value

    return AfterValidator(check)


def _matches(pattern: str, form: str) -> AfterValidator:
    """A check that the value has the form that `pattern` describes."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"expected {form}")
        return value

    return AfterValidator(check)


def _inside_project(path: Path) -> Path:
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError("must be a folder inside the project, as DVC writes it")
    if "'" in str(path):
        raise ValueError("must hold no apostrophe: dvc.yaml quotes it with such")
    return path


class CorpusParams(Section):
    """Where one corpus lies and how it is read."""

    adapter: Literal["dfew", "mafw", "ravdess", "conversations", "emer"]
    root: Path
    fold: Annotated[int, Field(ge=1, le=5)]

    @field_validator("adapter", mode="before")
    @classmethod
    def _has_one_label(cls, adapter: Any) -> Any:
        if adapter == "mafw_compound":
            raise ValueError(
                "clips with several emotions have no single label, which training and test need; "
                "`r1omni ingest --corpus mafw_compound` reads them into a manifest of their own"
            )
        return adapter


class HubParams(Section):
    """A checkpoint of the Hugging Face hub, and the folder that it is fetched to."""

    repo: Annotated[str, _matches(HUB_REPO, "OWNER/NAME")]
    revision: Annotated[str, _matches(HUB_REVISION, "a branch, a tag or a commit")]
    folder: Annotated[Path, AfterValidator(_inside_project)]
    towers: dict[
        Literal["vision", "audio", "gate"],
        Annotated[str, _matches(f"{HUB_REPO}@{HUB_REVISION}", "OWNER/NAME@REVISION")],
    ]


class RenderParams(Section):
    """How synthetic clips look and sound."""

    frame_size: Annotated[int, Field(ge=32, multiple_of=2)]
    fps: Positive
    min_seconds: Positive
    max_seconds: Annotated[Positive, _at_least("min_seconds")]
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
    workers: Workers
    render: RenderParams
    corpora: dict[SyntheticCorpus, SyntheticCorpusParams]


class IngestParams(Section):
    """How corpora are read."""

    workers: Workers
    timeout_seconds: Positive
    max_pixels: Annotated[int, Field(ge=1, lt=2**31)]
    memory_mb: Annotated[int, Field(ge=64)]
    missing_audio: Literal["reject", "silence"]
    max_rationale_words: Count

    @property
    def limits(self) -> Limits:
        """What one clip may cost, wherever clips are decoded."""
        return Limits(self.timeout_seconds, self.max_pixels, self.memory_mb)


class ValidationParams(Section):
    """The bounds of the Great Expectations suite."""

    min_seconds: Positive
    max_seconds: Annotated[Positive, _at_least("min_seconds")]
    min_clips_per_label: Annotated[int, Field(ge=0)]
    min_clips: Annotated[int, Field(ge=0)]
    max_copies: Annotated[int, Field(ge=0)]
    same_sound: Annotated[float, Field(ge=0.8, le=1.01)]


class MediaParams(Section):
    """How a clip becomes tensors."""

    num_frames: Count
    image_size: Count
    aspect_ratio: Literal["pad", "none"]
    sampling: Literal["index", "time"]
    sampling_rate: Count
    audio_seconds: Positive
    hop_length: Count
    n_fft: Count
    num_mel_bins: Count


class VisionParams(Section):
    """The SigLIP tower."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Annotated[Count, _divides("hidden_size")]
    patch_size: Count


class AudioParams(Section):
    """The Whisper encoder."""

    d_model: Count
    encoder_ffn_dim: Count
    encoder_layers: Count
    encoder_attention_heads: Annotated[Count, _divides("d_model")]


class GateParams(Section):
    """The BERT that reads the instruction for the gate."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Annotated[Count, _divides("hidden_size")]


class TextParams(Section):
    """The Qwen2 language model."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Annotated[Count, _divides("hidden_size")]
    num_key_value_heads: Annotated[Count, _divides("num_attention_heads")]


class ModelParams(Section):
    """The size of HumanOmni where it is not loaded from a checkpoint."""

    vision: VisionParams
    audio: AudioParams
    gate: GateParams
    text: TextParams
    max_vocab_size: Annotated[int, Field(ge=300)]


class FeaturesParams(Section):
    """The cache of tower outputs."""

    batch_size: Count
    workers: Workers
    min_free_gb: Annotated[float, Field(ge=0.0)]


class SFTParams(Section):
    """Supervised fine-tuning: `cold_start` on rationales, `label_sft` on bare labels."""

    seed: Seed
    epochs: Count
    batch_size: Count
    lr: Positive
    warmup: Fraction
    weight_decay: Annotated[float, Field(ge=0.0)]
    max_grad_norm: Positive
    balance: Fraction


class BaseParams(Section):
    """The base model: convert a public checkpoint, or train tiny towers and align them."""

    KNOBS = frozenset({"workers"})

    source: Path
    allow: tuple[str, ...]
    seed: Seed
    workers: Workers
    tower_steps: Count
    tower_batch_size: Count
    tower_lr: Positive
    connector_steps: Count
    emotion_share: Fraction
    emotion_label_noise: Fraction
    align: SFTParams


class GRPOParams(Section):
    """Group relative policy optimisation (arXiv 2402.03300; R1-Omni: arXiv 2503.05379)."""

    KNOBS = frozenset({"prefix", "reference_cache_gb"})

    seed: Seed
    steps: Count
    clips_per_step: Count
    group_size: Annotated[int, Field(ge=2)]
    prefix: Literal["reuse", "recompute"]
    reference_cache_gb: Annotated[float, Field(ge=0.0)]
    temperature: Positive
    max_new_tokens: Count
    lr: Positive
    warmup: Fraction
    weight_decay: Annotated[float, Field(ge=0.0)]
    max_grad_norm: Positive
    kl_coef: Annotated[float, Field(ge=0.0)]
    balance: Fraction
    advantage_eps: Positive
    reward_weights: Mapping[str, Annotated[float, Field(ge=0.0)]]

    @field_validator("reward_weights", mode="before")
    @classmethod
    def _every_reward(cls, weights: Any) -> Any:
        if isinstance(weights, Mapping) and set(weights) != {"accuracy", "format"}:
            raise ValueError("must give accuracy and format and no other; 0 leaves one out")
        if isinstance(weights, Mapping) and any(isinstance(w, bool) for w in weights.values()):
            raise ValueError("expected a number, not true or false")
        return weights


class HeldOutParams(Section):
    """Training clips that label SFT and GRPO never see: what settings are chosen by."""

    KNOBS = frozenset({"every"})

    clips: Annotated[int, Field(ge=0)]
    seed: Seed
    every: Count


class EngineParams(Section):
    """The DeepSpeed engine that base, SFT and GRPO train in."""

    KNOBS = frozenset(
        {
            *("device", "zero_stage", "processes", "hostfile", "threads"),
            *("micro_batch_size", "gradient_checkpointing"),
            *("save_every", "keep_last", "restarts"),
        }
    )

    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["fp32", "bf16"]
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    processes: Count
    hostfile: Path | None
    micro_batch_size: Count | None
    gradient_checkpointing: bool
    threads: Count
    save_every: Count
    keep_last: Count
    restarts: Annotated[int, Field(ge=0)]


class PredictParams(Section):
    """Greedy decoding for evaluation."""

    batch_size: Count
    max_new_tokens: Count


class ScoreParams(Section):
    """The bootstrap behind the intervals."""

    bootstrap_samples: Count
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]
    seed: Seed


class ReportParams(Section):
    """What the report shows."""

    cards_per_label: Count
    rollout_groups: Count


class TrackingParams(Section):
    """Where MLflow remembers."""

    uri: str
    experiment: str
    system_metrics: bool
    registered_model: str


class Params(Section):
    """The whole of params.yaml."""

    corpora: dict[str, CorpusParams]
    synthetic: SyntheticParams
    hub: dict[str, HubParams]
    ingest: IngestParams
    validation: ValidationParams
    media: MediaParams
    model: ModelParams
    base: BaseParams
    features: FeaturesParams
    cold_start: SFTParams
    label_sft: SFTParams
    grpo: GRPOParams
    held_out: HeldOutParams
    engine: EngineParams
    predict: PredictParams
    score: ScoreParams
    report: ReportParams
    tracking: TrackingParams

    @field_validator("corpora")
    @classmethod
    def _one_fold(cls, corpora: dict[str, CorpusParams]) -> dict[str, CorpusParams]:
        folds = {name: c.fold for name, c in corpora.items() if c.adapter in WITH_FOLDS}
        if len(set(folds.values())) > 1:
            raise ValueError(f"one fold for all, as a test clip of one trains the others: {folds}")
        return corpora


def read_params(path: Path) -> Params:
    """The checked contents of `path`.

    Raises ParamsError, naming file, line, key and what was expected, for a file that is missing,
    is not YAML in UTF-8, or holds a key twice, an unknown key, a missing key or a value that is
    out of range or does not fit another.
    """
    node, values = read_yaml(path)
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [_explain(path, node, dict(e)) for e in error.errors()]
        raise ParamsError("\n".join(lines)) from error


def check_listed(listed: Collection[str], read: Collection[str], params: Path) -> None:
    """Raise ParamsError unless the corpora in params are those whose manifests dvc.yaml names.

    A corpus that only one of the two names would be used although it is not listed, or ingested
    and never used.
    """
    for name in sorted(set(read) - set(listed)):
        raise ParamsError(
            f"{params}: corpora.{name} is missing, and stages of dvc.yaml read "
            f"data/manifests/{name}.parquet: list the corpus, or take its manifest and features "
            "out of the stages validate, label_sft, grpo and predict there"
        )
    for name in sorted(set(listed) - set(read)):
        raise ParamsError(
            f"{params}: corpora.{name} is listed, and no stage of dvc.yaml reads "
            f"data/manifests/{name}.parquet: add its manifest and features to the stages validate, "
            "label_sft, grpo or predict there, or take the corpus out of params"
        )


def _explain(path: Path, node: yaml.Node | None, error: dict[str, Any]) -> str:
    keys = [str(k) for k in error["loc"] if k != "[key]"]
    where = f"{path}:{line_of(node, keys)}: {'.'.join(keys) or 'the file'}"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; known here: {', '.join(_known(keys[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: is missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def _known(keys: list[str]) -> list[str]:
    here: Any = Params
    for key in keys:
        if get_origin(here) is dict:
            here = get_args(here)[1]
        elif _is_section(here):
            here = here.model_fields[key].annotation
    return sorted(here.model_fields) if _is_section(here) else []


def _is_section(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
