"""The prompt of Qwen2.5-Omni: one user turn with the clip's tokens, and where each token stands.

By the checkpoint's own tokenizer, as its chat template renders a turn with a video, an audio and a
text. There is no system turn: HumanOmniV2's authors found that the default one lowers results.
Shapes: `L` prompt ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from r1omni import prompts
from r1omni.model.feature_store import Features

VIDEO: Final = "<|VIDEO|>"
AUDIO: Final = "<|AUDIO|>"
IMAGE: Final = "<|IMAGE|>"
VIDEO_BEGINS, VIDEO_ENDS = "<|vision_bos|>", "<|vision_eos|>"
AUDIO_BEGINS, AUDIO_ENDS = "<|audio_bos|>", "<|audio_eos|>"
TURN_BEGINS: Final = "<|im_start|>"
# config.json's name of each token, as get_rope_index reads them
CONFIG_NAMES: Final = {
    "audio_token_index": AUDIO,
    "image_token_index": IMAGE,
    "video_token_index": VIDEO,
    "audio_start_token_id": AUDIO_BEGINS,
    "audio_end_token_id": AUDIO_ENDS,
    "vision_start_token_id": VIDEO_BEGINS,
}
CONTROL: Final = (
    *(*CONFIG_NAMES.values(), VIDEO_ENDS),
    *(TURN_BEGINS, prompts.END_OF_TURN, prompts.PAD),
)


def token_ids(tokenizer: PreTrainedTokenizerFast, config: Any) -> dict[str, int]:
    """The id of each control token.

    Raises ValueError for one that the tokenizer lacks, or that config.json gives another id, and
    for a tokenizer with more tokens than the model embeds.
    """
    known = tokenizer.get_vocab()
    if max(known.values()) >= config.text_config.vocab_size:
        raise ValueError(
            f"the tokenizer has {max(known.values()) + 1} tokens, the model embeds "
            f"{config.text_config.vocab_size}: it is another model's"
        )
    if missing := [token for token in CONTROL if token not in known]:
        raise ValueError(f"the tokenizer has no {missing[0]!r}, which Qwen2.5-Omni's prompts need")
    for name, token in CONFIG_NAMES.items():
        given = getattr(config, name, None)
        if given != known[token]:
            raise ValueError(
                f"config.json: {name} is {given}, but the tokenizer's {token!r} is {known[token]}"
            )
    return {token: int(known[token]) for token in CONTROL}


@dataclass(frozen=True)
class Prompt:
    """One prompt: its ids (L,), their positions (3, L) in time, height and width, and the next."""

    ids: Tensor
    positions: Tensor
    start: int


class PromptWriter:
    """Prompts of a thinker `model`, whose get_rope_index knows the positions."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.ids = token_ids(tokenizer, model.config)

    def write(
        self,
        clip: Features,
        instruction: str,
        begun: Sequence[int] = (),
        *,
        audio_in_video: bool = False,
    ) -> Prompt:
        """The prompt about a clip, with the ids of a completion that has begun. On the CPU.

        With `audio_in_video` sound and picture take turns, if the clip has both. A control token in
        the instruction is split into letters: no text can begin or end a turn.
        """
        one = self.ids
        together = audio_in_video and "video" in clip and "audio" in clip
        ids = [
            *(one[TURN_BEGINS], *self.spell("user\n")),
            *self._media(clip, together),
            *self.spell(instruction),
            *(one[prompts.END_OF_TURN], *self.spell("\n")),
            *(one[TURN_BEGINS], *self.spell("assistant\n")),
            *begun,
        ]
        return self._placed(torch.tensor(ids), clip, together)

    def spell(self, text: str) -> list[int]:
        """The ids of `text`, with every control token in it encoded as its letters."""
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])

    def _media(self, clip: Features, together: bool) -> list[int]:
        """A placeholder for each of the clip's tokens, between marks."""
        one = self.ids
        if together:
            inner = [one[AUDIO_BEGINS], *self._in_turns(clip), one[AUDIO_ENDS]]
            return [one[VIDEO_BEGINS], *inner, one[VIDEO_ENDS]]
        ids: list[int] = []
        if "video" in clip:
            ids += [one[VIDEO_BEGINS], *[one[VIDEO]] * len(clip["video"]), one[VIDEO_ENDS]]
        if "audio" in clip:
            ids += [one[AUDIO_BEGINS], *[one[AUDIO]] * len(clip["audio"]), one[AUDIO_ENDS]]
        return ids

    def _in_turns(self, clip: Features) -> list[int]:
        """Picture and sound in chunks of `seconds_per_chunk`, by each token's time."""
        config = self._model.config
        chunk = int(config.position_id_per_seconds * config.seconds_per_chunk)
        steps = int(clip["grid"][0])
        # float32, as get_rope_index computes them: ids and positions must agree on every chunk
        times = torch.arange(steps) * clip["seconds"].cpu().float() * config.position_id_per_seconds
        seen = times.long().repeat_interleave(len(clip["video"]) // steps)
        heard = torch.arange(len(clip["audio"]))
        picture, sound = self._chunks(seen, chunk), self._chunks(heard, chunk)
        ids: list[int] = []
        for i in range(max(len(picture), len(sound))):
            ids += [self.ids[VIDEO]] * (picture[i] if i < len(picture) else 0)
            ids += [self.ids[AUDIO]] * (sound[i] if i < len(sound) else 0)
        return ids

    def _chunks(self, times: Tensor, chunk: int) -> list[int]:
        pairs = self._model.get_chunked_index(times, chunk, 0)
        return [end - first for first, end in pairs]

    def _placed(self, ids: Tensor, clip: Features, together: bool) -> Prompt:
        """The ids with the model's own positions.

        Each prompt by itself: in a batch, get_rope_index takes clips without sound for text where
        audio is in the video.
        """
        given: dict[str, Any] = {}
        if "video" in clip:
            given["video_grid_thw"] = clip["grid"].cpu()[None]
            given["second_per_grids"] = clip["seconds"].cpu()
        if "audio" in clip:  # the fewest mel frames that become so many tokens
            given["audio_seqlens"] = torch.tensor([4 * len(clip["audio"]) - 1])
        row = ids[None]
        positions, delta = self._model.get_rope_index(
            row,
            attention_mask=torch.ones_like(row),
            use_audio_in_video=together,
            **given,
        )
        return Prompt(ids, positions[:, 0], len(ids) + int(delta))
