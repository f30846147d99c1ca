"""HumanOmni (arXiv 2501.15111): SigLIP, Whisper, a gated connector and Qwen2 as one model.

Shapes: `B` prompts, `L` prompt ids, `L'` positions once every sentinel has become its tokens, `F`
frames, `N` patches a frame, `Tv` visual tokens, `A` audio tokens, `Dv`/`Da` tower widths, `D` width
of the language model, `V` vocabulary, `I` ids of the instruction.

Tensor names are the released checkpoints' own, without any mapping. Attention is sdpa throughout
(the decoder's by decoder_layers.py): eager attention would add a boolean 4-D mask as a number.
"""

import math
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    BertModel,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    initialization,
)
from transformers.generation.utils import GenerateOutput
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

from r1omni.model.decoder_layers import use_own_attention
from r1omni.model.feed_forward import use_lean_feed_forward
from r1omni.model.head import LanguageModelHead
from r1omni.model.humanomni.configuration import HumanOmniConfig
from r1omni.model.humanomni.conversion import Checkpoint, check_tensors, read_checkpoint
from r1omni.model.humanomni.projector import HumanOmniProjector, mlp
from r1omni.model.humanomni.splicing import splice
from r1omni.model.humanomni.towers import TOWERS, AudioTower, VisionTower, are_half
from r1omni.model.onednn import use_onednn
from r1omni.model.weights import GENERATION_FILE, read_end_tokens

_PROMPT = (  # what `embed_prompt` takes besides the ids
    "attention_mask",
    "pixel_values_videos",
    "vision_features",
    "input_features",
    "audio_features",
    "gate_input_ids",
    "gate_attention_mask",
)


class HumanOmniModel(Qwen2Model):  # type: ignore[misc]
    """Qwen2 with the towers, the connector and the gate as its children; `forward` is Qwen2's."""

    _no_split_modules = ("Qwen2DecoderLayer", "RegNetBlock")

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__(config.text_config)
        use_own_attention(self)
        use_lean_feed_forward(self)
        width, gate_width = config.text_config.hidden_size, config.gate_config.hidden_size
        self.vision_tower = VisionTower(config)
        self.mm_projector = HumanOmniProjector(config.vision_config.hidden_size, width)
        self.bert_model = BertModel(config.gate_config)
        self.bert_gate = nn.Sequential(
            nn.Linear(gate_width, config.gate_hidden_size),
            nn.GELU(),
            nn.Linear(config.gate_hidden_size, 3),
        )
        self.audio_tower = AudioTower(config)
        self.audio_projector = mlp(config.audio_config.d_model, width)
        use_onednn([self.layers, self.mm_projector, self.audio_projector])
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers and embeddings normal(0, initializer_range); convolutions as torch does."""
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            initialization.kaiming_uniform_(module.weight, a=math.sqrt(5))


class HumanOmniForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The whole model: media and an instruction in, logits over the expanded prompt out."""

    config_class = HumanOmniConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = set(TOWERS)  # noqa: RUF012 (transformers' name)
    _can_compile_fullgraph = False
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers' name)

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__(config)
        if config._attn_implementation == "eager":
            raise ValueError("HumanOmni runs on sdpa attention; eager misreads boolean 4-D masks")
        self.model = HumanOmniModel(config)
        self.lm_head = LanguageModelHead(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()
        self.generation_config.eos_token_id = config.end_token_ids or None

    def encode_vision(self, pixel_values_videos: Tensor) -> Tensor:
        """SigLIP's hidden state at `vision_select_layer`: (B, F, 3, H, W) -> (B, F, N, Dv)."""
        B, F = pixel_values_videos.shape[:2]
        features: Tensor = self.model.vision_tower(pixel_values_videos.flatten(0, 1))
        return features.reshape(B, F, *features.shape[1:])

    def encode_audio(self, input_features: Tensor) -> Tensor:
        """Whisper's last state, average-pooled by `audio_pool`: (B, M, T) -> (B, A, Da)."""
        features: Tensor = self.model.audio_tower(input_features)
        return features

    def gate_weights(self, gate_input_ids: Tensor, gate_attention_mask: Tensor) -> Tensor:
        """How much video, body and face count for each instruction: (B, I), (B, I) -> (B, 3).

        Instructions repeat within a batch: each different one is read once.
        """
        rows, inverse = torch.unique(
            torch.stack([gate_input_ids, gate_attention_mask.to(gate_input_ids.dtype)], dim=1),
            dim=0,
            return_inverse=True,
        )
        states = self.model.bert_model(rows[:, 0], attention_mask=rows[:, 1]).last_hidden_state
        weights = torch.softmax(self.model.bert_gate(states[:, 0]), dim=-1)  # (unique, 3)
        return weights[inverse]

    def project_vision(self, vision_features: Tensor, gate: Tensor) -> Tensor:
        """The three branches mixed by the gate: (B, F, N, Dv), (B, 3) -> (B, Tv, D)."""
        dtype = self.model.embed_tokens.weight.dtype
        tokens: Tensor = self.model.mm_projector(vision_features.to(dtype), gate.to(dtype))
        return tokens

    def project_audio(self, audio_features: Tensor) -> Tensor:
        """Audio tokens: (B, A, Da) -> (B, A, D)."""
        dtype = self.model.embed_tokens.weight.dtype
        tokens: Tensor = self.model.audio_projector(audio_features.to(dtype))
        return tokens

    def embed_prompt(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        pixel_values_videos: Tensor | None = None,
        vision_features: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_features: Tensor | None = None,
        gate_input_ids: Tensor | None = None,
        gate_attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The prompt with each sentinel replaced by its tokens: (B, L) -> (B, L', D), (B, L') bool.

        Media come raw (`pixel_values_videos` (B, F, 3, H, W), `input_features` (B, M, T)) or as
        cached tower outputs (`vision_features`, `audio_features`).
        Rows may hold a sentinel or not; the result is left-padded with zeros. A branch that no row
        uses still runs, on zeros and with weight 0, so that ranks of a distributed run agree on
        which parameters take part.

        Raises ValueError for a sentinel without its features and for features without a gate.
        """
        if pixel_values_videos is not None:
            vision_features = self.encode_vision(pixel_values_videos)
        if input_features is not None:
            audio_features = self.encode_audio(input_features)
        text = self.model.embed_tokens(input_ids.clamp(min=0))  # (B, L, D); no sentinel is taken
        visual = self._visual_tokens(vision_features, gate_input_ids, gate_attention_mask)
        audio = self._audio_tokens(audio_features)
        media, idle = {}, []
        for sentinel, features, tokens in (
            (self.config.video_token_id, vision_features, visual),
            (self.config.audio_token_id, audio_features, audio),
        ):
            if features is None:
                idle.append(tokens)
            else:
                media[sentinel] = tokens
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds, mask = splice(input_ids, mask.bool(), text, media)
        for tokens in idle:
            embeds = embeds + 0.0 * tokens.sum()
        return embeds, mask

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        pixel_values_videos: Tensor | None = None,
        vision_features: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_features: Tensor | None = None,
        gate_input_ids: Tensor | None = None,
        gate_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits over the expanded prompt, (B, L', V); with a cache, over the new tokens.

        The prompt and its media are named as in `embed_prompt`. Losses are in training/losses.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("forward needs input_ids or inputs_embeds")
            if _is_filled(past_key_values):
                inputs_embeds = self.model.embed_tokens(input_ids)
            else:
                inputs_embeds, attention_mask = self.embed_prompt(
                    input_ids,
                    attention_mask,
                    pixel_values_videos=pixel_values_videos,
                    input_features=input_features,
                    vision_features=vision_features,
                    audio_features=audio_features,
                    gate_input_ids=gate_input_ids,
                    gate_attention_mask=gate_attention_mask,
                )
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            position_ids = positions[:, -inputs_embeds.shape[1] :]
        outputs = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        last = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=self.lm_head(outputs.last_hidden_state[:, last]),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    def generate(
        self, inputs: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> GenerateOutput | Tensor:
        """The new tokens alone, (B, T), of the processor's inputs or of `inputs_embeds`.

        Everything else is as in transformers. The prompt is not given back: its sentinels are
        outside of the vocabulary, and no tokenizer decodes them. It is embedded once, before the
        first step, since every later one counts the positions of the expanded prompt.
        """
        ids = kwargs.pop("input_ids", inputs)
        given = kwargs.get("inputs_embeds") is not None
        if ids is not None and not given and not _is_filled(kwargs.get("past_key_values")):
            prompt = {name: kwargs.pop(name) for name in _PROMPT if name in kwargs}
            with torch.no_grad():
                embeds, mask = self.embed_prompt(ids, **prompt)
            ids, kwargs = None, {**kwargs, "inputs_embeds": embeds, "attention_mask": mask.long()}
        return super().generate(ids, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None,
        *args: Any,
        config: HumanOmniConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model in a folder or hub repository, ours or an original HumanOmni's, in eval mode.

        Unlike transformers, which initialises at random what is missing, every tensor must be there
        with its shape and no other: ValueError names the tensor or the file.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, config=config, **kwargs)
        read = read_checkpoint(pretrained_model_name_or_path, config, kwargs)
        loaded = cls.from_checkpoint(read, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        return loaded

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, *args: Any, **kwargs: Any) -> Any:
        """The model of a checkpoint that was read, in eval mode; its report is completed.

        The towers are float32 in a model of half precision, or float16 where they were saved so.
        Raises ValueError, naming every tensor that is missing, unexpected or of another shape.
        """
        with torch.device("meta"), initialization.no_init_weights():
            expected = {k: tuple(v.shape) for k, v in cls(checkpoint.config).state_dict().items()}
        check_tensors(checkpoint, expected)
        loaded = super().from_pretrained(
            None, *args, config=checkpoint.config, state_dict=dict(checkpoint.tensors), **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if kwargs.get("dtype", kwargs.get("torch_dtype")) in (None, "auto"):
            for tower in TOWERS:
                if are_half(checkpoint.tensors, tower):
                    getattr(model.model, tower).half()
        checkpoint.report.note_casts(checkpoint.tensors, model.state_dict())
        if (checkpoint.directory / GENERATION_FILE).is_file():
            ends = [*read_end_tokens(checkpoint.directory), *checkpoint.config.end_token_ids]
            model.generation_config = GenerationConfig.from_pretrained(checkpoint.directory)
            model.generation_config.eos_token_id = list(dict.fromkeys(ends)) or None
        return loaded

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """Writes config.json and model.safetensors, with exactly the names of `state_dict`.

        transformers' `save_original_format` would put a second `vision_model.` into SigLIP's names.
        """
        kwargs["save_original_format"] = False
        super().save_pretrained(save_directory, **kwargs)

    def _visual_tokens(
        self, features: Tensor | None, gate_ids: Tensor | None, gate_mask: Tensor | None
    ) -> Tensor:
        """(B, F, N, Dv) -> (B, Tv, D), or the tokens of one blank 2 x 2 frame, (1, 1, D)."""
        device = self.lm_head.weight.device
        if features is None:
            features = torch.zeros(1, 1, 4, self.config.vision_config.hidden_size, device=device)
            gate_ids = gate_mask = torch.ones(1, 1, dtype=torch.long, device=device)
        elif gate_ids is None:
            raise ValueError("vision_features need gate_input_ids: the gate mixes their branches")
        gate_mask = torch.ones_like(gate_ids) if gate_mask is None else gate_mask
        return self.project_vision(features, self.gate_weights(gate_ids, gate_mask))

    def _audio_tokens(self, features: Tensor | None) -> Tensor:
        """(B, A, Da) -> (B, A, D), or the token of one blank position, (1, 1, D)."""
        if features is None:
            width = self.config.audio_config.d_model
            features = torch.zeros(1, 1, width, device=self.lm_head.weight.device)
        return self.project_audio(features)


def _is_filled(past_key_values: Any) -> bool:
    return past_key_values is not None and bool(past_key_values.get_seq_length())


AutoConfig.register(HumanOmniConfig.model_type, HumanOmniConfig, exist_ok=True)
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM):
    auto.register(HumanOmniConfig, HumanOmniForConditionalGeneration, exist_ok=True)
