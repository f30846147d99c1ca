"""Qwen2.5-Omni's thinker as the recipe's Backbone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from r1omni import prompts
from r1omni.media import QwenMedia, TowerInputs
from r1omni.media.qwen_omni import MERGE
from r1omni.model.backbone import PromptBatch
from r1omni.model.decoder_layers import use_own_attention
from r1omni.model.feature_store import Features
from r1omni.model.feed_forward import use_lean_feed_forward
from r1omni.model.head import LanguageModelHead
from r1omni.model.onednn import use_onednn
from r1omni.model.qwen_omni import towers
from r1omni.model.qwen_omni.checkpoint import MEDIA_KEY, TOWERS, read_tensors
from r1omni.model.qwen_omni.prompt import AUDIO, VIDEO, PromptWriter
from r1omni.model.shared_prefix import Embedded
from r1omni.model.weights import read_json
from r1omni.prompts import AnswerMode
from r1omni.training_config import AdapterParams

_LANGUAGE_MODEL: Final = ("model.language_model.", "lm_head.")
_PLACES: Final = {"video": VIDEO, "audio": AUDIO}  # which token each feature takes the place of


@dataclass
class _Decoder:
    """The thinker's language model as the protocol LanguageModel names its parts."""

    model: Any
    lm_head: LanguageModelHead


class QwenOmniBackbone:
    """transformers' Qwen2_5OmniThinkerForConditionalGeneration and its tokenizer.

    A clip's features are described in `towers.encode_clip`; a clip without sound or picture has no
    such entry, and its prompt no such tokens. `files` are the tokenizer's and the processor's, by
    name, which a checkpoint hands on unchanged. Implements r1omni.model.backbone.Backbone.
    Raises ValueError for a tokenizer without Qwen2.5-Omni's tokens or with others than the model's.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        media: QwenMedia,
        files: Mapping[str, bytes],
        more_end_tokens: Sequence[int] = (),
    ) -> None:
        self.model, self.tokenizer, self.media, self.files = model, tokenizer, media, files
        self.conversion: str | None = None
        self.adapter: AdapterParams | None = None
        vision = model.config.vision_config
        needed = (
            vision.patch_size,
            vision.spatial_merge_size,
            model.config.audio_config.num_mel_bins,
        )
        if needed != (media.patch_size, MERGE, media.num_mel_bins):
            raise ValueError(
                f"the media settings are for other towers: the model's patch_size, "
                f"spatial_merge_size and num_mel_bins are {needed}, the settings' "
                f"{(media.patch_size, MERGE, media.num_mel_bins)}"
            )
        self._writer = PromptWriter(model, tokenizer)
        self._ids = self._writer.ids
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        ends = (self._ids[prompts.END_OF_TURN], self._ids[prompts.PAD], *own, *more_end_tokens)
        self._eos_token_ids = tuple(dict.fromkeys(ends))
        use_own_attention(model.model.language_model)
        use_lean_feed_forward(model.model.language_model)
        use_onednn([model.model.language_model.layers])
        if not isinstance(model.lm_head, LanguageModelHead):
            weight = model.lm_head.weight
            with torch.device("meta"):
                head = LanguageModelHead(weight.shape[1], weight.shape[0], bias=False)
            head.weight = weight
            model.lm_head = head

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.model
        return module

    @property
    def language_model(self) -> _Decoder:
        return _Decoder(self.model.model.language_model, self.model.lm_head)

    @property
    def preparation(self) -> QwenMedia:
        return self.media

    @property
    def answer_mode(self) -> AnswerMode:
        mode: AnswerMode = getattr(self.model.config, "answer_mode", "direct")
        return mode

    @answer_mode.setter
    def answer_mode(self, mode: AnswerMode) -> None:
        self.model.config.answer_mode = mode

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._eos_token_ids

    def freeze(self) -> None:
        """The towers with merger and projector, as HumanOmniV2's recipe freezes them."""
        for tower in self.towers():
            tower.requires_grad_(False)

    def frozen_copy(self) -> "QwenOmniBackbone":
        without: dict[int, Any] = {id(tower): nn.Identity() for tower in self.towers()}
        copied = deepcopy(self.model, without).requires_grad_(False)
        return QwenOmniBackbone(copied, self.tokenizer, self.media, self.files, self._eos_token_ids)

    def tower_fingerprint(self) -> str:
        digest = hashlib.sha256(_tower_code().encode())
        for tower in self.towers():
            config = {k: v for k, v in tower.config.to_dict().items() if k not in _OF_NO_EFFECT}
            digest.update(json.dumps(config, sort_keys=True).encode())
            for name, tensor in sorted(tower.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(raw.numpy())
        return digest.hexdigest()[:32]

    def clip_bytes(self) -> int:
        vision = self.model.config.vision_config
        side = vision.patch_size * vision.spatial_merge_size
        steps = -(-self.media.num_frames // vision.temporal_patch_size)
        mel_frames = self.media.n_samples // 160
        tokens = steps * (self.media.max_pixels // side**2) + towers.count_audio_tokens(mel_frames)
        return int(2 * tokens * self.model.config.text_config.hidden_size) + 3 * 8 + 4

    def encode(self, clips: Sequence[TowerInputs]) -> list[Features]:
        """One clip at a time: what becomes of it depends on no other."""
        return [towers.encode_clip(self.model.model, clip) for clip in clips]

    def ask(
        self,
        features: Sequence[Features],
        instructions: Sequence[str],
        begun: Sequence[Sequence[int]] | None = None,
    ) -> PromptBatch:
        heads = [()] * len(features) if begun is None else begun
        written = [
            self._writer.write(clip, text, head, audio_in_video=self.media.audio_in_video)
            for clip, text, head in zip(features, instructions, heads, strict=True)
        ]
        ids, pad = [prompt.ids for prompt in written], self._ids[prompts.PAD]
        places = [prompt.positions.T for prompt in written]  # (L, 3)
        tensors = {
            "input_ids": pad_sequence(ids, True, pad, "left"),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], True, 0, "left"),
            "positions": pad_sequence(places, True, 0, "left"),  # (P, L, 3)
            "start": torch.tensor([prompt.start for prompt in written]),
        }
        device = self.model.lm_head.weight.device
        return PromptBatch(
            {name: tensor.to(device) for name, tensor in tensors.items()},
            tuple({k: clip[k].to(device) for k in _PLACES if k in clip} for clip in features),
        )

    def embed(self, asked: PromptBatch) -> Embedded:
        ids = asked.tensors["input_ids"]
        embeds: Tensor = self.model.model.language_model.embed_tokens(ids)
        for name, token in _PLACES.items():
            rows = [clip[name] for clip in asked.media if name in clip]
            place = ids == self._ids[token]
            assert sum(map(len, rows)) == int(place.sum()), f"{name}: not one token per feature"
            if rows:
                embeds = embeds.masked_scatter(place[..., None], torch.cat(rows).to(embeds.dtype))
        positions = asked.tensors["positions"].permute(2, 0, 1)  # (3, P, L)
        mask = asked.tensors["attention_mask"].bool()
        return Embedded(embeds, mask, positions, asked.tensors["start"])

    def encode_completion(self, text: str) -> list[int]:
        return [*self._writer.spell(text), self._eos_token_ids[0]]

    def decode(self, ids: Sequence[int]) -> str:
        ended = bool(ids) and ids[-1] in self._eos_token_ids
        kept = list(ids[:-1] if ended else ids)
        text = self.tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def sizes(self) -> dict[str, int]:
        sizes = {name: p.numel() for name, p in self.model.named_parameters()}
        own = sum(size for name, size in sizes.items() if name.startswith(_LANGUAGE_MODEL))
        return {"total": sum(sizes.values()), "language_model": own}

    def save(self, folder: Path, parent: Path | None) -> None:
        """The thinker's own layout, whatever layout was read, and the parent's other files."""
        state = self.model.state_dict()
        if parent is not None:  # DeepSpeed casts the towers with what is trained
            prefixes = tuple(f"model.{name}." for name in TOWERS)
            state |= read_tensors(parent, wanted=lambda name: name.startswith(prefixes)).tensors
        # transformers loads all in one precision: the one that loses nothing
        widest = reduce(torch.promote_types, {tensor.dtype for tensor in state.values()})
        self._note_settings()
        # without save_original_format=False transformers writes the names that were read
        self.model.save_pretrained(folder, state_dict=state, save_original_format=False)
        config = read_json(folder / "config.json") | {"dtype": str(widest).removeprefix("torch.")}
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
        self._write_files(folder)

    def save_settings(self, folder: Path) -> None:
        self._note_settings()
        self.model.config.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)
        self._write_files(folder)

    def _note_settings(self) -> None:
        setattr(self.model.config, MEDIA_KEY, asdict(self.media))
        self.model.generation_config.eos_token_id = list(self._eos_token_ids)
        self.model.generation_config.pad_token_id = self._ids[prompts.PAD]

    def _write_files(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def towers(self) -> list[Any]:
        return [getattr(self.model.model, name) for name in TOWERS]


_OF_NO_EFFECT: Final = ("transformers_version", "dtype", "_name_or_path", "architectures")


@cache
def _tower_code() -> str:
    """A hash of our code that runs the towers."""
    assert towers.__file__ is not None
    return hashlib.sha256(Path(towers.__file__).read_bytes()).hexdigest()
