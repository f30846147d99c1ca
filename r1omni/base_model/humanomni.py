"""The base stage's HumanOmni: a tiny one of random weights, its parts to train, a public one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from r1omni import completions, prompts
from r1omni.base_model.connector import Connector
from r1omni.base_model.towers import Tower
from r1omni.emotions import EMOTIONS
from r1omni.media import Sampling, TowerInputs
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.conversion_report import ConversionReport
from r1omni.model.feature_store import Features
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.humanomni.configuration import build_config
from r1omni.model.humanomni.conversion import read_checkpoint
from r1omni.model.humanomni.processor import build_processor, train_gate_tokenizer, train_tokenizer
from r1omni.model.humanomni.tower_inputs import stack_inputs
from r1omni.model_config import HumanOmniMediaParams, HumanOmniParams


def build_untrained(
    captions: Sequence[str],
    rationales: Sequence[str],
    *,
    model: HumanOmniParams,
    media: HumanOmniMediaParams,
) -> HumanOmniBackbone:
    """A randomly initialised HumanOmni, and tokenizers trained on all the text that we use."""
    questions = [
        prompts.CAPTION_QUESTION,
        *(prompts.instruction(m) for m in ("reasoned", "direct")),
    ]
    answers = [completions.render("", label) for label in EMOTIONS]
    turns = [m["content"] for q in questions for m in prompts.messages(q)]
    tokenizer = train_tokenizer(
        [*turns, *captions, *rationales, *answers, *EMOTIONS], model.max_vocab_size
    )
    gate_tokenizer = train_gate_tokenizer(questions)
    processor = build_processor(media, tokenizer, gate_tokenizer)
    config = build_config(
        model,
        media,
        vocab_size=len(tokenizer),
        gate_vocab_size=len(gate_tokenizer),
        eos_token_id=processor.eos_token_id,
        pad_token_id=processor.pad_token_id,
    )
    return HumanOmniBackbone(HumanOmniForConditionalGeneration(config).eval(), processor)


def humanomni_towers(backbone: HumanOmniBackbone) -> dict[str, Tower]:
    """SigLIP and Whisper, read at the layer that the projectors read; frames are averaged."""
    model, config = backbone.model, backbone.model.config

    def see(clips: Sequence[TowerInputs]) -> Tensor:
        return model.encode_vision(stack_inputs(clips)[0]).mean(dim=1)

    def hear(clips: Sequence[TowerInputs]) -> Tensor:
        return model.encode_audio(stack_inputs(clips)[1])

    vision, audio = config.vision_config.hidden_size, config.audio_config.d_model
    return {
        "vision": Tower(model.model.vision_tower, see, config.patch_grid**2, vision),
        "audio": Tower(model.model.audio_tower, hear, config.audio_tokens, audio),
    }


def humanomni_connectors(backbone: HumanOmniBackbone) -> dict[str, Connector]:
    """Both projectors; the picture's tokens are gated as the caption's question gates them."""
    model, width = backbone.model, backbone.model.config.text_config.hidden_size
    gate_ids, gate_mask = backbone.processor.encode_gate(prompts.CAPTION_QUESTION)
    with torch.no_grad():
        gate = model.gate_weights(torch.tensor([gate_ids]), torch.tensor([gate_mask]))

    def see(features: Sequence[Features]) -> Tensor:
        stacked = torch.stack([clip["vision"] for clip in features])
        return model.project_vision(stacked, gate.expand(len(stacked), -1))

    def hear(features: Sequence[Features]) -> Tensor:
        return model.project_audio(torch.stack([clip["audio"] for clip in features]))

    return {
        "vision": Connector(model.model.mm_projector, see, width),
        "audio": Connector(model.model.audio_projector, hear, width),
    }


def read_humanomni(
    source: Path, *, allow: Sequence[str], sampling: Sampling
) -> tuple[HumanOmniBackbone, ConversionReport]:
    """A public HumanOmni, and the account of what became of its tensors.

    How frames are sampled is the one media setting that no original checkpoint records.
    """
    checkpoint = read_checkpoint(source, allow=allow)
    model = HumanOmniForConditionalGeneration.from_checkpoint(checkpoint)
    processor = HumanOmniProcessor.from_pretrained(source)
    processor.media = replace(processor.media, sampling=sampling)
    model.generation_config.eos_token_id = list(processor.eos_token_ids)
    return HumanOmniBackbone(model, processor), checkpoint.report
