"""The studies of `r1omni experiment`: question, variants with their settings, tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from r1omni.experiments.headings import (
    ACCURACY,
    ANSWER_PATH,
    CAUSES,
    CHOSEN,
    CLAIMS,
    GAINS,
    HELD_OUT,
    HELD_OUT_END,
    SCORES,
    Table,
)

TRAINED: Final = ("cold_start", "label_sft", "grpo")
REASONED: Final = ("cold_start", "grpo")
WILD: Final = ("dfew", "mafw")


@dataclass(frozen=True)
class Variant:
    """One way to train.

    `settings`: overrides of params.yaml, as `dvc exp run -S` takes them (`++` also adds a key).
    `models`: the models that the tables show; empty: the study's.
    `profile`: a file of params/ that takes the place of params.yaml, before the settings.
    """

    name: str
    settings: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    profile: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        """The profile and the settings, as a reader sees them."""
        return ((self.profile,) if self.profile else ()) + self.settings


@dataclass(frozen=True)
class Trial:
    """A row of a study: one variant with one seed. `models` are shown, and audited if `audits`."""

    study: str
    variant: str
    seed: int
    settings: tuple[str, ...]
    models: tuple[str, ...]
    profile: str = ""
    audits: bool = True

    @property
    def key(self) -> str:
        return f"{self.variant}/{self.seed}"

    @property
    def name(self) -> str:
        """The DVC experiment's name. DVC forbids a dot in it."""
        return f"{self.study}-{self.variant}-seed-{self.seed}".replace(".", "-")

    @property
    def targets(self) -> tuple[str, ...]:
        """The DVC stages that the row's numbers need."""
        audited = self.models if self.audits else ()
        return ("score", *(f"audit@{model}" for model in audited))


@dataclass(frozen=True)
class Study:
    """Variants that are trained with several seeds.

    `seeded`: the stages whose seed is the row's. A stage that no variant changes keeps the seed of
    params.yaml, so it is not run again. `audits`: whether the tables have numbers of audits.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    seeded: tuple[str, ...] = REASONED
    models: tuple[str, ...] = REASONED
    tables: tuple[Table, ...] = (ACCURACY, CAUSES, CLAIMS)
    notes: tuple[str, ...] = field(default=())
    audits: bool = True

    def trials(self, seeds: Sequence[int]) -> Iterator[Trial]:
        """Every row, variant by variant."""
        for variant in self.variants:
            for seed in seeds:
                yield Trial(
                    self.name,
                    variant.name,
                    seed,
                    (*variant.settings, *(f"{stage}.seed={seed}" for stage in self.seeded)),
                    variant.models or self.models,
                    variant.profile,
                    self.audits,
                )


def _dropout(stages: Sequence[str], video: float, audio: float) -> tuple[str, ...]:
    return tuple(
        f"{stage}.modality_dropout.{side}={chance}"
        for stage in stages
        for side, chance in (("video", video), ("audio", audio))
    )


def _shortcut(strength: float) -> tuple[str, ...]:
    return tuple(f"synthetic.corpora.{corpus}.shortcut={strength}" for corpus in WILD)


def _grounding(sides: str, term: str) -> Variant:
    return Variant(
        f"{'both' if ',' in sides else sides}-{term}",
        (
            "++grpo.reward_weights.grounding=1.0",
            f"grpo.grounding.sides=[{sides}]",
            f"grpo.grounding.term={term}",
        ),
    )


def _variants() -> Iterator[Variant]:
    yield Variant("default")
    for name, *settings in (
        ("dr-grpo", "grpo.loss=dr_grpo", "grpo.advantage=none"),
        ("dapo", "grpo.loss=dapo"),
        ("batch-std", "grpo.advantage=batch"),
        ("each-reward", "grpo.each_reward=true"),
        ("rejection", "grpo.advantage=rejection"),
        ("no-kl", "grpo.kl_coef=0.0"),
        ("two-updates", "grpo.updates_per_batch=2"),
        ("dynamic", "grpo.dynamic_sampling.max_factor=2", "grpo.steps=60"),
    ):
        yield Variant(name, tuple(settings))


def _backbones() -> Iterator[Variant]:
    for name, profile in _PROFILES.items():
        for strength in (0.5, 0.0, 0.9):
            yield Variant(f"{name}-{strength:g}", _shortcut(strength), profile=profile)


def _control() -> Iterator[Variant]:
    for strength, world in (("", ()), ("0.9-", _shortcut(0.9))):
        for name, profile in _PROFILES.items():
            for lr in ("1.0e-4", "2.5e-4", "5.0e-4", "1.0e-3"):
                settings = (*world, f"label_sft.lr={lr}")
                yield Variant(f"{name}-{strength}{lr}", settings, profile=profile)


def _protection() -> Iterator[Variant]:
    for strength in (0.0, 0.5, 0.9):
        for name, settings, models in (
            ("default", (), ("label_sft", "grpo")),
            ("low-lr", ("label_sft.lr=1.0e-4",), ("label_sft",)),
            ("from-cold-start", ("label_sft.start=cold_start",), ("label_sft",)),
            ("rejection", ("grpo.advantage=rejection",), ("grpo",)),
        ):
            yield Variant(f"{name}-{strength:g}", (*_shortcut(strength), *settings), models)


_PROFILES: Final = {"humanomni": "", "qwen": "params/tiny_qwen.yaml"}
_STUDIES: Final = (
    Study(
        "backbones",
        "Does GRPO gain over the cold start, and over label SFT, with another backbone, too?",
        tuple(_backbones()),
        seeded=TRAINED,
        models=("base", *TRAINED),
        tables=(SCORES, GAINS),
        notes=("The number is the shortcut's strength.",),
        audits=False,
    ),
    Study(
        "control",
        "Is label SFT, the control, trained at the learning rate that suits it?",
        tuple(_control()),
        seeded=("label_sft",),
        models=("label_sft",),
        tables=(HELD_OUT_END, SCORES),
        notes=(
            "The held-out clips decide. Half of the clips have the shortcut, in the rows with 0.9 "
            "nine of ten.",
        ),
        audits=False,
    ),
    Study(
        "cold-size",
        "How many reasoned clips does the cold start need before GRPO can learn?",
        (
            Variant("0", ("cold_start.clips=0",)),
            Variant("100", ("cold_start.clips=100",)),
            Variant("580", ("cold_start.clips=null",)),
            Variant("1000", ("cold_start.clips=1000", "synthetic.corpora.reasoning.clips=1000")),
        ),
        notes=(
            "With 1000 clips the judges and the reader are fitted on 1000 texts, too, and the base "
            "is trained again if its vocabulary changes.",
        ),
    ),
    Study(
        "dropout",
        "Does training with a missing modality stop claims about what is absent, at what price?",
        tuple(Variant(f"{p:g}", _dropout(REASONED, p, p)) for p in (0.0, 0.15, 0.3)),
        notes=("The variant is the chance that a clip's picture, and that its sound, is missing.",),
    ),
    Study(
        "rewards",
        "Which rewards make rationales truer, and which only make them sound right?",
        (
            Variant("accuracy", ("grpo.reward_weights.format=0.0",)),
            Variant("format", ("grpo.reward_weights.format=1.0",)),
            *(
                _grounding(sides, term)
                for sides in ("voice", "face,voice")
                for term in ("precision", "recall", "specificity")
            ),
            Variant("reader", ("++grpo.reward_weights.reader=1.0",)),
        ),
        seeded=REASONED,
        models=("grpo",),
        notes=("`reader` is the control: it rewards plausible texts, whatever the clip shows.",),
    ),
    Study(
        "variants",
        "Which of GRPO's variants learns most from the same budget of sampled completions?",
        tuple(_variants()),
        seeded=("grpo",),
        models=("grpo",),
        tables=(HELD_OUT, ACCURACY, CAUSES, CLAIMS),
        notes=(
            "Every variant samples at most as many completions as the default: `dynamic` has half "
            "the steps, and samples at most twice the clips in each. The held-out clips decide.",
        ),
    ),
    Study(
        "shorter",
        "What does the default lose with half of its training?",
        (
            Variant("default"),
            Variant("half-grpo", ("grpo.steps=60",)),
            Variant(
                "half",
                (
                    *("base.tower_steps=250", "base.connector_steps=200", "base.align.epochs=1"),
                    *("cold_start.epochs=5", "label_sft.epochs=2", "grpo.steps=60"),
                ),
            ),
        ),
        seeded=TRAINED,
        models=TRAINED,
        tables=(HELD_OUT, SCORES, GAINS),
        notes=("`half-grpo` shortens GRPO; `half` all, the control (label SFT) by a third.",),
        audits=False,
    ),
    Study(
        "senses",
        "What does each model make of one modality, if it was trained on that one alone?",
        (
            Variant("both", _dropout(TRAINED, 0.0, 0.0)),
            Variant("audio", _dropout(TRAINED, 1.0, 0.0)),
            Variant("video", _dropout(TRAINED, 0.0, 1.0)),
        ),
        seeded=TRAINED,
        models=TRAINED,
        notes=(
            "The variant is what training had. The test with one modality is *WAR in silence* "
            "(only the picture) and *in the dark* (only the sound).",
        ),
    ),
    Study(
        "answer-path",
        "Who should answer: the model, or a reader of what it says of the clip?",
        (
            Variant("default"),
            Variant("shortcut-0", _shortcut(0.0)),
            Variant("shortcut-0.9", _shortcut(0.9)),
            Variant("lessons", ("cold_start.reading_lessons.per_clip=4",)),
        ),
        tables=(ANSWER_PATH, CHOSEN, CAUSES, CLAIMS),
        notes=(
            "The same models, asked in several ways. `audit.samples` completions are sampled of "
            "each audited clip. The number is the shortcut's strength, 0.5 in the other rows. "
            "`lessons`: the cold start also learns which answer follows from a "
            "given rationale, whatever clip is shown.",
        ),
    ),
    Study(
        "protection",
        "Is it GRPO that protects from shortcuts, or a gentle training, or the rationale?",
        tuple(_protection()),
        seeded=TRAINED,
        models=("label_sft", "grpo"),
        tables=(ACCURACY, GAINS, CAUSES, CLAIMS),
        notes=(
            "The number is the shortcut's strength. `low-lr`: label SFT at 1e-4; "
            "`from-cold-start`: label SFT that starts from the cold start; `rejection`: SFT on the "
            "policy's own right completions in place of GRPO.",
        ),
    ),
)
LABORATORY: Final = "metrics"  # laboratory.py
STUDIES: Final = {study.name: study for study in _STUDIES}


def find_study(name: str) -> Study:
    """The study of this name. Raises ValueError with the known ones."""
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; known: {', '.join([*STUDIES, LABORATORY])}")
    return STUDIES[name]


def choose_trials(study: Study, seeds: Sequence[int], only: Sequence[str]) -> list[Trial]:
    """The rows of these seeds; `only`: VARIANT or VARIANT/SEED, none: all.

    Raises ValueError for one that the study does not have.
    """
    trials = list(study.trials(seeds))
    known = {trial.key for trial in trials} | {trial.variant for trial in trials}
    if unknown := [name for name in only if name not in known]:
        variants = ", ".join(variant.name for variant in study.variants)
        raise ValueError(
            f"{study.name} has no row {unknown[0]!r}; a row is VARIANT or VARIANT/SEED, with a "
            f"seed of --seeds; variants: {variants}"
        )
    return [t for t in trials if not only or t.key in only or t.variant in only]


def render_studies() -> str:
    """Every study with its question, its variants and their settings, as text."""
    lines = []
    for study in STUDIES.values():
        lines += [study.name, f"  {study.question}", *(f"  {note}" for note in study.notes)]
        width = max(len(variant.name) for variant in study.variants)
        for variant in study.variants:
            settings = " ".join(variant.shown) or "params.yaml as it is"
            lines.append(f"    {variant.name:{width}} {settings}")
        lines += [f"    models: {', '.join(study.models)}", ""]
    lines += [
        LABORATORY,
        "  Which measures of faithfulness find a cause that was planted, which are fooled?",
        "    no training: answerers with known causes in the place of models",
    ]
    return "\n".join(lines) + "\n"
