"""A checkpoint's backbone under audit."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from r1omni import prompts
from r1omni.evaluation.audit.answerer import Media, Token
from r1omni.inference.branches import label_logprobs
from r1omni.inference.loading import load_checkpoint
from r1omni.machine.device import Device
from r1omni.model.absence import blank_features, of_side
from r1omni.model.backbone import Backbone, device_of, prefill_prompts
from r1omni.model.feature_store import Features, FeatureStore
from r1omni.model.sampling import Decoded, decode, score_completions, uniform_draws
from r1omni.model.shared_prefix import Prefix
from r1omni.prompts import AnswerMode


class Stored(Protocol):
    """Where clips' features are: a FeatureStore, or what was read just now."""

    def load(self, clip_ids: Sequence[str]) -> list[Features]:
        """The features of each clip."""
        ...


class BackboneAnswerer:
    """A checkpoint's backbone as Answerer, with the features of its clips.

    The prefix of the last media is kept, so completing and weighing the same costs one prefill.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: Stored,
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> None:
        self._backbone, self._store = backbone, store
        self._max_new_tokens = max_new_tokens
        self._temperature, self._seed = temperature, seed
        self._blank = blank_features(backbone)
        self._last: tuple[tuple[Media, ...], Prefix] | None = None

    @property
    def mode(self) -> AnswerMode:
        """How the checkpoint is asked."""
        return self._backbone.answer_mode

    def complete(self, media: Sequence[Media]) -> list[str]:
        """See `Answerer`."""
        decoded = decode(
            self._backbone.language_model,
            self._prefix(media),
            group_size=1,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=self._backbone.eos_token_ids,
        )
        return [texts[0] for texts in self._texts(decoded)]

    def sample(self, media: Sequence[Media], n: int) -> list[list[str]]:
        """See `Answerer`. A clip's completions depend neither on its batch nor on its place."""
        generators = [torch.Generator().manual_seed(_seed(self._seed, *pair)) for pair in media]
        decoded = decode(
            self._backbone.language_model,
            self._prefix(media),
            group_size=n,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=self._backbone.eos_token_ids,
            temperature=self._temperature,
            draws=uniform_draws(generators, n, self._max_new_tokens),
        )
        return self._texts(decoded)

    def _texts(self, decoded: Decoded) -> list[list[str]]:
        return [
            [
                self._backbone.decode(ids[mask].tolist())
                for ids, mask in zip(rows, masks.bool(), strict=True)
            ]
            for rows, masks in zip(decoded.token_ids, decoded.mask, strict=True)
        ]

    def label_logprobs(
        self,
        media: Sequence[Media],
        rationales: Sequence[Sequence[str | None]],
        labels: Sequence[str],
    ) -> NDArray[np.float64]:
        """See `Answerer`."""
        return label_logprobs(self._backbone, self._prefix(media), rationales, labels)

    @torch.no_grad()
    def token_logprobs(
        self, media: Sequence[Media], completions: Sequence[str]
    ) -> list[list[Token]]:
        """See `Answerer`."""
        rows = [self._backbone.encode_completion(text) for text in completions]
        longest = max(len(ids) for ids in rows)
        pad = self._backbone.eos_token_ids[0]
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        device = device_of(self._backbone)
        logprobs, _ = score_completions(
            self._backbone.language_model,
            self._prefix(media),
            ids[:, None].to(device),
            mask[:, None].to(device),
        )
        return [
            [
                Token(len(self._backbone.decode(row[:k])), len(self._backbone.decode(row[: k + 1])),
                      float(logprobs[i, 0, k]))
                for k in range(len(row) - 1)  # the last ends the turn
            ]
            for i, row in enumerate(rows)
        ]  # fmt: skip

    @torch.no_grad()
    def _prefix(self, media: Sequence[Media]) -> Prefix:
        key = tuple(media)
        if self._last is None or self._last[0] != key:
            questions = [prompts.instruction(self.mode)] * len(media)
            features = self._features(media)
            self._last = key, prefill_prompts(self._backbone, features, questions)
        return self._last[1]

    def _features(self, media: Sequence[Media]) -> list[Features]:
        wanted = sorted({clip for pair in media for clip in pair if clip is not None})
        known: dict[str | None, Features] = {None: self._blank}
        known.update(zip(wanted, self._store.load(wanted), strict=True))
        return [
            {**of_side(known[pair.video], "face"), **of_side(known[pair.audio], "voice")}
            for pair in media
        ]


def load_answerer(
    checkpoint: Path,
    features: Sequence[Path],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    device: Device,
) -> BackboneAnswerer:
    """The checkpoint as it records that it answers, for the clips in these folders of features."""
    backbone = load_checkpoint(checkpoint, device=device)
    return BackboneAnswerer(
        backbone,
        FeatureStore(features),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )


def _seed(*parts: object) -> int:
    """A seed of 63 bits that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1
