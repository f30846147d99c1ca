"""transformers' own forward and generate on raw media: the oracle of every backbone.

Nothing of ours but the patches' order and the rounding of cached features, which a hook on the
towers repeats. Prompts are written as text and tokenized whole; positions are the model's.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from r1omni.media import TowerInputs
from r1omni.model import HumanOmniForConditionalGeneration
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.qwen_omni.backbone import QwenOmniBackbone
from r1omni.model.qwen_omni.towers import as_patches


class Oracle(Protocol):
    """A plain model of transformers' with a backbone's weights."""

    model: Any

    def logits(
        self, clips: Sequence[TowerInputs], texts: Sequence[str], ids: Tensor, mask: Tensor
    ) -> Tensor:
        """Those that predict each token of P x G completions, prompts repeated: (P, G, T, V)."""
        ...  # fmt: skip

    def generate(self, clips: Sequence[TowerInputs], texts: Sequence[str], n: int) -> Tensor:
        """The greedy tokens, n each: (P, n)."""
        ...


def round_towers(towers: Sequence[nn.Module]) -> None:
    """Let towers give what half precision keeps of their outputs, as cached features have it."""
    for tower in towers:
        tower.register_forward_hook(_round)


def _round(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.half().to(output.dtype)
    for name in ("last_hidden_state", "pooler_output"):
        value = output[name]
        setattr(output, name, value.half().to(value.dtype))
    return output


class ThinkerOracle:
    """transformers' thinker as it is published, on sdpa attention and a plain head."""

    def __init__(self, backbone: QwenOmniBackbone) -> None:
        config = type(backbone.model.config).from_dict(backbone.model.config.to_dict())
        self.model = Qwen2_5OmniThinkerForConditionalGeneration(config)
        self.model.load_state_dict(backbone.model.state_dict())
        self.model.to(backbone.model.dtype).eval()
        self.tokenizer, self.in_video = backbone.tokenizer, backbone.media.audio_in_video
        inner = self.model.model
        round_towers([inner.visual, inner.audio_tower])
        self._hear, inner.get_audio_features = inner.get_audio_features, self._hear_one_by_one

    def _hear_one_by_one(self, mels: Tensor, masks: Tensor, *_: Any, **how: Any) -> Any:
        """In a batch sums are added in another order, and half precision may round otherwise."""
        pairs = zip(mels, masks, strict=True)
        heard = [self._hear(mel[None], mask[None], **how) for mel, mask in pairs]
        heard[0].last_hidden_state = torch.cat([one.last_hidden_state for one in heard])
        return heard[0]

    def logits(self, clips, texts, ids, mask):
        P, G, T = ids.shape
        inputs = self.inputs(
            [c for c in clips for _ in range(G)], [t for t in texts for _ in range(G)]
        )
        length = inputs["input_ids"].shape[1]
        for name, more in (("input_ids", ids), ("attention_mask", mask)):
            inputs[name] = torch.cat([inputs[name], more.flatten(0, 1)], dim=1)
        logits = self.model(**inputs).logits[:, length - 1 : -1]
        return logits.view(P, G, T, -1)

    def generate(self, clips, texts, n):
        inputs = self.inputs(clips, texts)
        self.model.generation_config.eos_token_id = None
        found = self.model.generate(**inputs, max_new_tokens=n, min_new_tokens=n, do_sample=False)
        return found[:, inputs["input_ids"].shape[1] :]

    def inputs(self, clips: Sequence[TowerInputs], texts: Sequence[str]) -> dict[str, Any]:
        config, dtype = self.model.config.vision_config, self.model.dtype
        patches, grids, seconds, mels = [], [], [], []
        for clip in clips:
            if len(clip.pixels):
                patch, grid = as_patches(torch.from_numpy(clip.pixels).to(dtype), config)
                patches.append(patch)
                grids.append(grid)
                seconds.append(2 * clip.frame_seconds)
            if clip.has_audio:
                mels.append(torch.from_numpy(clip.mel).to(dtype).T)
        rows = [
            torch.tensor(self.tokenizer(self.text(clip, text))["input_ids"])
            for clip, text in zip(clips, texts, strict=True)
        ]
        inputs = {
            "input_ids": pad_sequence(rows, True, 0, "left"),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left"),
            "use_audio_in_video": self.in_video,
        }
        if patches:
            inputs |= {
                "pixel_values_videos": torch.cat(patches),
                "video_grid_thw": torch.stack(grids),
                "video_second_per_grid": torch.tensor(seconds),
            }
        if mels:
            lengths = torch.tensor([len(mel) for mel in mels])
            inputs["input_features"] = pad_sequence(mels, True).transpose(1, 2)
            inputs["feature_attention_mask"] = (
                torch.arange(int(lengths.max())) < lengths[:, None]
            ).long()
        return inputs

    def text(self, clip: TowerInputs, instruction: str) -> str:
        n_video = 2 * (clip.pixels.shape[2] // 28) * (clip.pixels.shape[3] // 28)  # of 3 frames
        n_audio = int(self.model.model.audio_tower._get_feat_extract_output_lengths(
            torch.tensor(clip.mel.shape[1]))[1]) if clip.has_audio else 0  # fmt: skip
        media = ""
        if self.in_video:
            inner = _in_turns(n_video, 2 * clip.frame_seconds, n_audio)
            media = f"<|vision_bos|><|audio_bos|>{inner}<|audio_eos|><|vision_eos|>"
        else:
            if n_video:
                media += "<|vision_bos|>" + "<|VIDEO|>" * n_video + "<|vision_eos|>"
            if n_audio:
                media += "<|audio_bos|>" + "<|AUDIO|>" * n_audio + "<|audio_eos|>"
        return f"<|im_start|>user\n{media}{instruction}<|im_end|>\n<|im_start|>assistant\n"


def _in_turns(n_video: int, seconds: float, n_audio: int) -> str:
    """Qwen2_5OmniProcessor.replace_video_with_audio_token, for two steps of the grid."""
    seen = [int(25 * seconds * (i // (n_video // 2))) for i in range(n_video)]
    text = ""
    for first in range(0, max(*seen, n_audio) + 1, 50):
        text += "<|VIDEO|>" * sum(first <= at < first + 50 for at in seen)
        text += "<|AUDIO|>" * sum(first <= at < first + 50 for at in range(n_audio))
    return text


class HumanOmniOracle:
    """HumanOmni's own forward and generate, on sdpa attention."""

    def __init__(self, backbone: HumanOmniBackbone) -> None:
        config = type(backbone.model.config).from_dict(backbone.model.config.to_dict())
        self.model = HumanOmniForConditionalGeneration(config)
        self.model.load_state_dict(backbone.model.state_dict())
        self.model.to(backbone.model.dtype).eval()
        self.processor = backbone.processor
        round_towers([self.model.model.vision_tower, self.model.model.audio_tower])

    def logits(self, clips, texts, ids, mask):
        P, G, T = ids.shape
        inputs = self.inputs(
            [c for c in clips for _ in range(G)], [t for t in texts for _ in range(G)]
        )
        # padding behind a completion is seen by nothing; masked, the splicing would take it out
        for name, more in (("input_ids", ids), ("attention_mask", torch.ones_like(mask))):
            inputs[name] = torch.cat([inputs[name], more.flatten(0, 1)], dim=1)
        logits = self.model(**inputs).logits[:, -T - 1 : -1]
        return logits.view(P, G, T, -1)

    def generate(self, clips, texts, n):
        self.model.generation_config.eos_token_id = None
        return self.model.generate(
            **self.inputs(clips, texts), max_new_tokens=n, min_new_tokens=n, do_sample=False
        )

    def inputs(self, clips: Sequence[TowerInputs], texts: Sequence[str]) -> dict[str, Any]:
        dtype = self.model.dtype
        pixels, mel = (
            torch.stack([torch.from_numpy(getattr(clip, name)) for clip in clips]).to(dtype)
            for name in ("pixels", "mel")
        )
        media = {"pixel_values_videos": pixels, "input_features": mel}
        return {**self.processor.encode_instructions(texts), **media}
