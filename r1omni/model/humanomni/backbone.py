"""HumanOmni as the recipe's Backbone."""

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from r1omni.media import MediaSettings, TowerInputs
from r1omni.model.backbone import PromptBatch
from r1omni.model.feature_store import Features
from r1omni.model.humanomni import modelling, towers
from r1omni.model.humanomni.conversion import read_checkpoint
from r1omni.model.humanomni.modelling import HumanOmniForConditionalGeneration
from r1omni.model.humanomni.original_layout import ORIGINAL_MODEL_TYPE
from r1omni.model.humanomni.processor import HumanOmniProcessor
from r1omni.model.humanomni.tower_inputs import stack_inputs
from r1omni.model.shared_prefix import Embedded, count_positions
from r1omni.model.weights import read_json, read_weights
from r1omni.prompts import AnswerMode
from r1omni.training_config import AdapterParams


class HumanOmniBackbone:
    """The model and its processor.

    A clip's features: `vision` (F, N, Dv), `audio` (A, Da); of a clip without sound the towers'
    output for silence. Implements r1omni.model.backbone.Backbone.
    """

    def __init__(
        self, model: HumanOmniForConditionalGeneration, processor: HumanOmniProcessor
    ) -> None:
        self.model = model
        self.processor = processor
        self.conversion: str | None = None  # what became of the tensors of an original checkpoint
        self.adapter: AdapterParams | None = None

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def language_model(self) -> Any:
        return self.model

    @property
    def preparation(self) -> MediaSettings:
        return self.processor.media

    @property
    def answer_mode(self) -> AnswerMode:
        mode: AnswerMode = self.model.config.answer_mode
        return mode

    @answer_mode.setter
    def answer_mode(self, mode: AnswerMode) -> None:
        self.model.config.answer_mode = mode

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.processor.eos_token_ids

    def freeze(self) -> None:
        """The towers (arXiv 2503.05379 trains the rest), and BERT's pooler, which is not read."""
        for part in (*self.towers(), self.model.model.bert_model.pooler):
            part.requires_grad_(False)

    def towers(self) -> list[nn.Module]:
        return [self.model.model.vision_tower, self.model.model.audio_tower]

    def frozen_copy(self) -> "HumanOmniBackbone":
        without: dict[int, Any] = {id(tower): nn.Identity() for tower in self.towers()}
        copied = deepcopy(self.model, without).requires_grad_(False)
        return HumanOmniBackbone(copied, self.processor)

    def tower_fingerprint(self) -> str:
        config, digest = self.model.config, hashlib.sha256(_tower_code().encode())
        digest.update(f"{config.vision_select_layer} {config.audio_pool}".encode())
        for tower in self.towers():
            for name, tensor in sorted(tower.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(raw.numpy())
        return digest.hexdigest()[:32]

    def clip_bytes(self) -> int:
        config = self.model.config
        vision = config.num_frames * config.patch_grid**2 * config.vision_config.hidden_size
        audio = config.audio_tokens * config.audio_config.d_model
        return int(2 * (vision + audio))

    @torch.no_grad()
    def encode(self, clips: Sequence[TowerInputs]) -> list[Features]:
        pixels, mel = (tensor.to(self.model.device) for tensor in stack_inputs(clips))
        vision = self.model.encode_vision(pixels).half().cpu()
        audio = self.model.encode_audio(mel).half().cpu()
        if not (vision.isfinite().all() and audio.isfinite().all()):
            raise ValueError(
                "the towers' outputs do not fit half precision: are the weights sound?"
            )
        return [{"vision": seen, "audio": heard} for seen, heard in zip(vision, audio, strict=True)]

    def ask(
        self,
        features: Sequence[Features],
        instructions: Sequence[str],
        begun: Sequence[Sequence[int]] | None = None,
    ) -> PromptBatch:
        inputs = self.processor.encode_instructions(instructions)
        if begun is not None:
            inputs |= self._continued(instructions, begun)
        device = self.model.lm_head.weight.device
        return PromptBatch(
            {name: tensor.to(device) for name, tensor in inputs.items()},
            tuple({name: x.to(device) for name, x in clip.items()} for clip in features),
        )

    def _continued(
        self, instructions: Sequence[str], begun: Sequence[Sequence[int]]
    ) -> dict[str, Tensor]:
        rows = [
            torch.tensor([*self.processor.encode_prompt(text), *ids])
            for text, ids in zip(instructions, begun, strict=True)
        ]
        pad = self.processor.pad_token_id
        return {
            "input_ids": pad_sequence(rows, True, pad, "left"),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left"),
        }

    def embed(self, asked: PromptBatch) -> Embedded:
        vision, audio = (
            torch.stack([clip[name] for clip in asked.media]) for name in ("vision", "audio")
        )
        embeds, mask = self.model.embed_prompt(
            **asked.tensors, vision_features=vision, audio_features=audio
        )
        return count_positions(embeds, mask)

    def encode_completion(self, text: str) -> list[int]:
        return self.processor.encode_completion(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.processor.decode(ids)

    def sizes(self) -> dict[str, int]:
        sizes = {name: p.numel() for name, p in self.model.named_parameters()}
        own = sum(size for name, size in sizes.items() if name.startswith(_LANGUAGE_MODEL))
        return {"total": sum(sizes.values()), "language_model": own}

    def save(self, folder: Path, parent: Path | None) -> None:
        self.model.save_pretrained(folder, **self._towers_as_in(parent))
        self.processor.save_pretrained(folder)

    def save_settings(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _towers_as_in(self, parent: Path | None) -> dict[str, Any]:
        """What `save_pretrained` needs where DeepSpeed cast the towers with what is trained."""
        if parent is None:
            return {}
        state = self.model.state_dict()
        own = towers.tower_tensors(read_weights(parent)[0])
        if all(state[name].dtype == tensor.dtype for name, tensor in own.items()):
            return {}
        return {"state_dict": state | own}


_LANGUAGE_MODEL = ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.")


def load_humanomni(checkpoint: Path, allow: Sequence[str] = ()) -> HumanOmniBackbone:
    """The backbone in a folder, in our layout or an original HumanOmni's (see `load_backbone`)."""
    read = read_checkpoint(checkpoint, allow=allow)
    model = HumanOmniForConditionalGeneration.from_checkpoint(read).eval()
    backbone = HumanOmniBackbone(model, HumanOmniProcessor.from_pretrained(checkpoint))
    if read_json(read.directory / "config.json").get("model_type") == ORIGINAL_MODEL_TYPE:
        backbone.conversion = read.report.render()
    return backbone


@cache
def _tower_code() -> str:
    """A hash of the code that runs the towers."""
    digest = hashlib.sha256()
    for module in (modelling, towers):
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()
