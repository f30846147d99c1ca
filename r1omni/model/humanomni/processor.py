"""What stands between a clip, an instruction and the model: media settings and two tokenizers.

A prompt is prompts.messages rendered through prompts.CHAT_TEMPLATE, in training, evaluation and
`predict` alike. Shapes: `F` frames, `H` x `W` pixels, `S` audio samples, `M` mel bins, `T` mel
frames, `L` prompt ids, `I` ids of the instruction.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoProcessor,
    BatchFeature,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

from r1omni import prompts
from r1omni.media import (
    Floats,
    Frames,
    MediaSettings,
    frames_to_pixels,
    waveform_to_mel,
)
from r1omni.model.humanomni.configuration import HumanOmniConfig
from r1omni.model.humanomni.original_layout import tower_directory
from r1omni.model.tokenizers import read_tokenizer, train_gate_tokenizer, train_tokenizer
from r1omni.model.weights import find_directory, read_end_tokens, read_json
from r1omni.model_config import HumanOmniMediaParams

__all__ = ["HumanOmniProcessor", "build_processor", "train_gate_tokenizer", "train_tokenizer"]

SENTINELS: Final = {prompts.VIDEO: -201, prompts.AUDIO: -202}  # HumanOmni's, outside the vocabulary
PROCESSOR_FILE: Final = "processor_config.json"
GATE_FOLDER: Final = "gate_tokenizer"
_GATE_MAX_LENGTH: Final = 512  # BERT's positions
_PLACEHOLDER = re.compile("(" + "|".join(map(re.escape, SENTINELS)) + ")")
_BICUBIC: Final = 3


class HumanOmniProcessor:
    """Clips and texts to what the model takes, and its tokens back to text.

    `tokenizer` is the language model's, `gate_tokenizer` the one of the BERT that reads the
    instruction. `eos_token_ids` end a completion: the end of turn, which the model is trained to
    write, the padding token, the tokenizer's own end token and those of `more_end_tokens`.
    Raises ValueError where `tokenizer` lacks the end-of-turn or the padding token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        gate_tokenizer: BertTokenizerFast,
        media: MediaSettings,
        more_end_tokens: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.gate_tokenizer = gate_tokenizer
        self.media = media
        self.eos_token_id = self._token_id(prompts.END_OF_TURN)
        self.pad_token_id = self._token_id(prompts.PAD)
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        ends = (self.eos_token_id, self.pad_token_id, *own, *more_end_tokens)
        self.eos_token_ids = tuple(dict.fromkeys(ends))

    def __call__(
        self,
        text: str | Sequence[str],
        videos: Frames | Sequence[Frames],
        audio: Floats | Sequence[Floats | None] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """The model's inputs for one clip or several, one instruction each.

        `videos` are frames uint8 (F, H, W, 3), `audio` waveforms (S,) at `media.sampling_rate`, or
        None for silence. Instructions are left-padded: `generate(**inputs)` gives the new tokens
        alone, and `batch_decode` their texts. Raises ValueError for another number of clips than
        instructions, for clips with different numbers of frames, and unless `return_tensors` is pt.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors {return_tensors!r} is not supported; known: pt")
        texts = [text] if isinstance(text, str) else list(text)
        clips = [videos] if isinstance(videos, np.ndarray) and videos.ndim == 4 else list(videos)
        waveforms: list[Floats | None]
        if audio is None or (isinstance(audio, np.ndarray) and audio.ndim == 1):
            waveforms = [audio] * len(texts) if audio is None else [audio]
        else:
            waveforms = list(audio)
        if not len(texts) == len(clips) == len(waveforms):
            raise ValueError(
                f"{len(texts)} instructions, {len(clips)} videos and {len(waveforms)} waveforms: "
                "expected one of each a clip"
            )
        if len({len(frames) for frames in clips}) > 1:
            found = [len(frames) for frames in clips]
            raise ValueError(f"the videos have {found} frames: a batch needs the same number")
        pixels = np.stack([self.frames_to_pixels(frames) for frames in clips])
        mel = np.stack([self.waveform_to_mel(waveform) for waveform in waveforms])
        media = {
            "pixel_values_videos": torch.from_numpy(pixels),
            "input_features": torch.from_numpy(mel),
        }
        return BatchFeature({**self.encode_instructions(texts), **media})

    def encode_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the model reads of P instructions, on the CPU.

        `input_ids` and `attention_mask` (P, L) are left-padded prompts, `gate_input_ids` and
        `gate_attention_mask` (P, I) right-padded instructions.
        """
        different = list(dict.fromkeys(instructions))  # they repeat within a batch
        prompt_of = {text: torch.tensor(self.encode_prompt(text)) for text in different}
        gate_of = {text: torch.tensor(self.encode_gate(text)[0]) for text in different}
        asked = [prompt_of[text] for text in instructions]
        gates = [gate_of[text] for text in instructions]
        masks = [[torch.ones_like(row) for row in rows] for rows in (asked, gates)]
        return {
            "input_ids": pad_sequence(asked, True, self.pad_token_id, "left"),
            "attention_mask": pad_sequence(masks[0], True, 0, "left"),
            "gate_input_ids": pad_sequence(gates, True, 0),
            "gate_attention_mask": pad_sequence(masks[1], True, 0),
        }

    def frames_to_pixels(self, frames: Frames) -> Floats:
        """uint8 (F, H, W, 3) -> float32 (F, 3, H', W'), as SigLIP takes them."""
        return frames_to_pixels(frames, self.media)

    def waveform_to_mel(self, waveform: Floats | None) -> Floats:
        """(S,), or None for silence -> float32 (M, T), as Whisper takes it."""
        return waveform_to_mel(waveform, self.media)

    def encode_prompt(self, instruction: str) -> list[int]:
        """The prompt's ids (L,), one sentinel per modality, up to where the model is to answer.

        A control token in the instruction is split into letters: no text can begin or end a turn.
        Raises ValueError for an instruction that names a placeholder itself.
        """
        if _PLACEHOLDER.search(instruction):
            raise ValueError(
                f"the instruction {instruction!r} contains {' or '.join(SENTINELS)}, which stand "
                "for the clip itself: leave them out"
            )
        letters = self._spell(instruction)
        if letters == self._encode(instruction):
            return self.splice_sentinels(self._render(instruction))
        before, after = self._render("\0").split("\0")
        return [*self.splice_sentinels(before), *letters, *self.splice_sentinels(after)]

    def splice_sentinels(self, text: str) -> list[int]:
        """The ids of `text`, every placeholder as its sentinel, without any added special token."""
        ids: list[int] = []
        for piece in _PLACEHOLDER.split(text):
            ids += [SENTINELS[piece]] if piece in SENTINELS else self._encode(piece)
        return ids

    def encode_gate(self, instruction: str) -> tuple[list[int], list[int]]:
        """The instruction alone for the gate's BERT: ids (I,), [CLS] to [SEP], and mask (I,).

        A control token in the instruction is split into letters: the only [CLS] is the first id.
        """
        encoded = self.gate_tokenizer(
            instruction, truncation=True, max_length=_GATE_MAX_LENGTH, split_special_tokens=True
        )
        return list(encoded["input_ids"]), list(encoded["attention_mask"])

    def encode_completion(self, text: str) -> list[int]:
        """The completion's ids and the end-of-turn id, which it is trained to finish with.

        A control token in the text is split into letters: no text can end a turn.
        """
        return [*self._spell(text), self.eos_token_id]

    def decode(
        self, ids: Sequence[int] | torch.Tensor, *, skip_special_tokens: bool = False
    ) -> str:
        """The text of a completion's ids, without the one end token that it ends with.

        Other special tokens are part of what the model wrote, and rewards and judges see them.
        """
        ids = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
        ended = bool(ids) and ids[-1] in self.eos_token_ids
        return str(
            self.tokenizer.decode(
                ids[:-1] if ended else ids,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def batch_decode(
        self,
        sequences: Iterable[Sequence[int] | torch.Tensor],
        *,
        skip_special_tokens: bool = False,
    ) -> list[str]:
        """The text of each of `generate`'s completions, up to its first end token."""
        texts = []
        for sequence in sequences:
            ids = sequence.tolist() if isinstance(sequence, torch.Tensor) else list(sequence)
            end = next((i for i, token in enumerate(ids) if token in self.eos_token_ids), len(ids))
            texts.append(self.decode(ids[:end], skip_special_tokens=skip_special_tokens))
        return texts

    def save_pretrained(self, save_directory: str | PathLike[str], **_: Any) -> None:
        """Write both tokenizers and processor_config.json, that one last, each by a rename."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        settings = {"processor_class": type(self).__name__, "media": asdict(self.media)}
        with tempfile.TemporaryDirectory(prefix=".processor-", dir=directory) as name:
            partial = Path(name)
            self.tokenizer.save_pretrained(partial)
            self.gate_tokenizer.save_pretrained(partial / GATE_FOLDER)
            written = sorted(path for path in partial.rglob("*") if path.is_file())
            (partial / PROCESSOR_FILE).write_text(json.dumps(settings, indent=2) + "\n")
            for path in (*written, partial / PROCESSOR_FILE):
                target = directory / path.relative_to(partial)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any
    ) -> "HumanOmniProcessor":
        """The processor in a directory or hub repository, ours or an original HumanOmni's.

        Raises ValueError naming the file that is missing or is not what was expected.
        """
        directory = find_directory(pretrained_model_name_or_path, kwargs, weights=False)
        file = directory / PROCESSOR_FILE
        if not file.is_file():
            return cls._from_original(directory)
        try:
            media = TypeAdapter(MediaSettings).validate_python(read_json(file).get("media"))
        except ValidationError as error:
            raise ValueError(f"{file}: not a HumanOmni processor's settings: {error}") from error
        gate_tokenizer = BertTokenizerFast.from_pretrained(directory / GATE_FOLDER)
        return cls(read_tokenizer(directory), gate_tokenizer, media, read_end_tokens(directory))

    @classmethod
    def _from_original(cls, directory: Path) -> "HumanOmniProcessor":
        config = read_json(directory / "config.json")
        gate_folder = tower_directory(directory, config, "gate", weights=False)
        gate_tokenizer = BertTokenizerFast.from_pretrained(gate_folder)
        media = read_original_media(directory)
        return cls(read_tokenizer(directory), gate_tokenizer, media, read_end_tokens(directory))

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _spell(self, text: str) -> list[int]:
        """The ids of `text`, with every control token in it encoded as its letters."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])

    def _render(self, instruction: str) -> str:
        rendered = self.tokenizer.apply_chat_template(
            prompts.messages(instruction),
            chat_template=prompts.CHAT_TEMPLATE,
            add_generation_prompt=True,
            tokenize=False,
        )
        return str(rendered)

    def _token_id(self, token: str) -> int:
        found = self.tokenizer.get_vocab().get(token)
        if found is None:
            raise ValueError(f"the tokenizer has no {token!r}, which HumanOmni's prompts need")
        return int(found)


def build_processor(
    media: HumanOmniMediaParams,
    tokenizer: PreTrainedTokenizerFast,
    gate_tokenizer: BertTokenizerFast,
) -> HumanOmniProcessor:
    """The processor of a model that is built from params."""
    settings = media.model_dump(exclude={"audio_seconds"})
    n_samples = round(media.audio_seconds * media.sampling_rate)
    return HumanOmniProcessor(
        tokenizer, gate_tokenizer, MediaSettings(**settings, n_samples=n_samples)
    )


def read_original_media(directory: Path) -> MediaSettings:
    """The media settings of an original HumanOmni: its own and its towers' preprocessor configs.

    Raises ValueError naming the file for pictures that are resized otherwise than bicubically.
    """
    config = read_json(directory / "config.json")
    vision_file, audio_file = (
        tower_directory(directory, config, tower, weights=False) / "preprocessor_config.json"
        for tower in ("vision", "audio")
    )
    vision, audio = read_json(vision_file), read_json(audio_file)
    for file, settings, keys in (
        (vision_file, vision, ("resample", "size", "image_mean", "image_std")),
        (audio_file, audio, ("sampling_rate", "chunk_length", "n_fft", "hop_length")),
    ):
        if absent := [key for key in keys if key not in settings]:
            raise ValueError(f"{file}: {absent[0]} is missing")
    side = vision["size"].get("height")
    if vision["resample"] != _BICUBIC or side is None or vision["size"].get("width") != side:
        raise ValueError(
            f"{vision_file}: expected a square size and resample {_BICUBIC} (bicubic), got "
            f"{vision['size']} and {vision['resample']}"
        )
    return MediaSettings(
        num_frames=config.get("num_frames", 8),
        image_size=side,
        aspect_ratio="pad" if config.get("image_aspect_ratio", "pad") == "pad" else "none",
        sampling_rate=audio["sampling_rate"],
        n_samples=audio["chunk_length"] * audio["sampling_rate"],
        n_fft=audio["n_fft"],
        hop_length=audio["hop_length"],
        num_mel_bins=audio.get("feature_size", 80),  # transformers' own default
        image_mean=tuple(vision["image_mean"]),
        image_std=tuple(vision["image_std"]),
    )


AutoProcessor.register(HumanOmniConfig, HumanOmniProcessor, exist_ok=True)
