"""The shape of a HumanOmni model: four transformers configs and how they are joined."""

from os import PathLike
from typing import Any, ClassVar

from transformers import (
    BertConfig,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
    WhisperConfig,
)

from r1omni.model.humanomni.original_layout import (
    ORIGINAL_MODEL_TYPE,
    PROJECTOR_TYPE,
    original_settings,
)
from r1omni.model.weights import find_directory
from r1omni.model_config import HumanOmniMediaParams, HumanOmniParams

ANSWER_MODES = ("reasoned", "direct")
ASPECT_RATIOS = ("pad", "none")


class HumanOmniConfig(PreTrainedConfig):  # type: ignore[misc]
    """SigLIP, Whisper's encoder, BERT and Qwen2, and what stands between them.

    Raises ValueError for a shape that the architecture does not know, above all an odd patch grid
    (the projector halves it) and one without room for the audio pooling.
    """

    model_type = "humanomni"
    sub_configs: ClassVar[dict[str, Any]] = {
        "text_config": Qwen2Config,
        "vision_config": SiglipVisionConfig,
        "audio_config": WhisperConfig,
        "gate_config": BertConfig,
    }

    text_config: Any = None
    vision_config: Any = None
    audio_config: Any = None
    gate_config: Any = None
    vision_select_layer: int = -2  # which of SigLIP's hidden states the projector reads
    num_frames: int = 8
    image_aspect_ratio: str = "pad"
    audio_pool: int = 3  # Whisper positions averaged into one audio token
    projector_type: str = PROJECTOR_TYPE
    gate_hidden_size: int = 3584  # inside the gate's MLP, whatever the other widths
    answer_mode: str = "direct"
    video_token_id: int = -201  # sentinels in the prompt, outside the vocabulary
    audio_token_id: int = -202
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if not isinstance(value, config_class):
                setattr(self, name, config_class(**(value or {})))
        self.text_config.tie_word_embeddings = self.tie_word_embeddings
        super().__post_init__(**kwargs)
        self._check()

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings in a checkpoint's config.json; an original HumanOmni's are translated."""
        settings, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if settings.get("model_type") == ORIGINAL_MODEL_TYPE:
            directory = find_directory(pretrained_model_name_or_path, kwargs, weights=False)
            settings = cls(**original_settings(directory)).to_dict()
        return settings, rest

    @property
    def end_token_ids(self) -> list[int]:
        """What ends a completion: the end tokens, and padding, which Qwen ends texts with."""
        eos = self.eos_token_id
        ends = eos if isinstance(eos, list) else [eos]
        return [token for token in dict.fromkeys([*ends, self.pad_token_id]) if token is not None]

    @property
    def patch_grid(self) -> int:
        """Patches along one side of a frame; the square of it is SigLIP's tokens per frame."""
        return int(self.vision_config.image_size // self.vision_config.patch_size)

    @property
    def vision_layers(self) -> int:
        """How many SigLIP layers run: those below the selected hidden state."""
        layers, select = self.vision_config.num_hidden_layers, self.vision_select_layer
        return int(select if select >= 0 else layers + 1 + select)

    @property
    def visual_tokens(self) -> int:
        """Tokens that the video sentinel becomes, for `num_frames` frames."""
        return self.num_frames * (self.patch_grid // 2) ** 2

    @property
    def audio_tokens(self) -> int:
        """Tokens that the audio sentinel becomes."""
        return int(self.audio_config.max_source_positions // self.audio_pool)

    def _check(self) -> None:
        vision, audio = self.vision_config, self.audio_config
        side = f"image_size {vision.image_size} / patch_size {vision.patch_size}"
        if vision.image_size % vision.patch_size:
            raise ValueError(f"HumanOmniConfig: {side} is not a whole number of patches")
        if self.patch_grid % 2:
            raise ValueError(
                f"HumanOmniConfig: {side} gives an odd patch grid of {self.patch_grid}; "
                "odd grids are not supported (the projector merges 2 x 2 patches)"
            )
        if not 0 <= self.vision_layers <= vision.num_hidden_layers:
            raise ValueError(
                f"HumanOmniConfig: vision_select_layer {self.vision_select_layer} is not one of "
                f"the {vision.num_hidden_layers + 1} hidden states of the vision tower"
            )
        if not 1 <= self.audio_pool <= audio.max_source_positions:
            raise ValueError(
                f"HumanOmniConfig: audio_pool {self.audio_pool} does not fit "
                f"{audio.max_source_positions} audio positions"
            )
        for name, known in (
            ("projector_type", (PROJECTOR_TYPE,)),
            ("answer_mode", ANSWER_MODES),
            ("image_aspect_ratio", ASPECT_RATIOS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"HumanOmniConfig: {name} {getattr(self, name)!r} is unknown; "
                    f"known: {', '.join(known)}"
                )


def build_config(
    model: HumanOmniParams,
    media: HumanOmniMediaParams,
    *,
    vocab_size: int,
    gate_vocab_size: int,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> HumanOmniConfig:
    """The config of a HumanOmni of these sizes, without dropout.

    `pad_token_id` stays out of the Qwen2 config: there it would freeze that token's embedding at
    zero, which is the end token's too where one token is both.
    """
    positions, odd = divmod(round(media.audio_seconds * media.sampling_rate), 2 * media.hop_length)
    if odd:
        raise ValueError(
            f"media.audio_seconds {media.audio_seconds} at {media.sampling_rate} Hz is not "
            f"a multiple of 2 x hop_length {media.hop_length} samples"
        )
    return HumanOmniConfig(
        text_config=Qwen2Config(
            **model.text.model_dump(),
            vocab_size=vocab_size,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        ),
        vision_config=SiglipVisionConfig(**model.vision.model_dump(), image_size=media.image_size),
        audio_config=WhisperConfig(
            **model.audio.model_dump(),
            num_mel_bins=media.num_mel_bins,
            max_source_positions=positions,
            encoder_layerdrop=0.0,
        ),
        gate_config=BertConfig(
            **model.gate.model_dump(),
            vocab_size=gate_vocab_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        num_frames=media.num_frames,
        image_aspect_ratio=media.aspect_ratio,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
