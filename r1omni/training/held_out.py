"""A slice of the training clips that no training sees: what settings are chosen by."""

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from r1omni import prompts
from r1omni.corpora.clip import Clip
from r1omni.corpora.content import group_by_content
from r1omni.judging import judge
from r1omni.machine.ranks import gather, shares
from r1omni.model.backbone import Backbone, prefill_prompts
from r1omni.model.feature_store import FeatureStore
from r1omni.model.sampling import decode
from r1omni.training_config import HeldOutParams

_BATCH = 64

logger = logging.getLogger(__name__)


def set_aside(
    clips: Sequence[Clip], held_out: HeldOutParams | None
) -> tuple[list[Clip], list[Clip]]:
    """The clips to learn from, and those held out: `held_out.clips` labelled ones a corpus.

    Which ones depends on the seed and their ids alone, but clips of one subject, or of the same
    content (content.py), are held out together, so that a corpus may give some more. A clip of
    another corpus with the content of a held-out one is in neither list, which is logged. Raises
    ValueError naming the corpus of which less than half would be left to learn from.
    """
    if held_out is None or held_out.clips == 0:
        return list(clips), []
    by_corpus: dict[str, list[Clip]] = defaultdict(list)
    training = [clip for clip in clips if clip.split == "train"]
    ids = [clip.clip_id for clip in training]
    content = dict(zip(ids, group_by_content(training), strict=True))
    for clip in clips:
        if clip.split == "train" and clip.label is not None:
            by_corpus[clip.corpus].append(clip)
    held: set[str] = set()
    for corpus, own in by_corpus.items():
        if 2 * held_out.clips > len(own):
            raise ValueError(
                f"params.yaml: held_out.clips: {held_out.clips} is more than half of {corpus}'s "
                f"{len(own)} labelled training clips"
            )
        own.sort(key=lambda clip: _rank(clip, held_out.seed))
        chosen = _whole_groups(own, content, held_out.clips)
        if 2 * len(chosen) > len(own):
            raise ValueError(
                f"{corpus}: {len(chosen)} of {len(own)} labelled training clips would be held out, "
                "as clips of one subject or of the same content stay together: lower held_out.clips"
            )
        held.update(clip.clip_id for clip in chosen)
    watched = [clip for clip in clips if clip.clip_id in held]
    content_held = {content[clip.clip_id] for clip in watched}
    others = [clip for clip in clips if clip.clip_id not in held]
    learned = [c for c in others if c.split != "train" or content[c.clip_id] not in content_held]
    if len(learned) < len(others):
        logger.warning(
            "%d training clips are left out: they have the content of held-out clips of another "
            "corpus",
            len(others) - len(learned),
        )
    return learned, watched


def _whole_groups(ranked: Sequence[Clip], content: Mapping[str, int], n: int) -> list[Clip]:
    """The first `n` clips, and every other that shares a subject or its content with one of them.

    `content`: the number of each clip's content by the clip's id.
    """
    members: dict[tuple[str, str | int], list[Clip]] = defaultdict(list)
    for clip in ranked:
        for key in _group_keys(clip, content):
            members[key].append(clip)
    chosen: dict[str, Clip] = {}
    for clip in ranked:
        if len(chosen) >= n:
            break
        waiting = [clip]
        while waiting:
            found = waiting.pop()
            if found.clip_id not in chosen:
                chosen[found.clip_id] = found
                waiting += [c for key in _group_keys(found, content) for c in members[key]]
    return list(chosen.values())


def _group_keys(clip: Clip, content: Mapping[str, int]) -> list[tuple[str, str | int]]:
    subject: list[tuple[str, str | int]] = []
    if clip.subject is not None:
        subject.append(("subject", clip.subject))
    return [("content", content[clip.clip_id]), *subject]


def held_out_metrics(
    labels: Sequence[str], completions: Sequence[str], mode: prompts.AnswerMode
) -> dict[str, float]:
    """WAR, UAR and format rate of completions, as fractions, under the names of the curves."""
    judged = [judge(text, mode) for text in completions]
    right: dict[str, list[bool]] = defaultdict(list)
    for label, judgement in zip(labels, judged, strict=True):
        right[label].append(judgement.prediction == label)
    return {
        "held_out/war": sum(map(sum, right.values())) / len(labels),
        "held_out/uar": sum(sum(r) / len(r) for r in right.values()) / len(right),
        "held_out/format": sum(judgement.well_formed for judgement in judged) / len(labels),
    }


@dataclass(frozen=True)
class HeldOutSet:
    """Clips that a training never learns from, and that it is evaluated on."""

    clips: Sequence[Clip]
    store: FeatureStore
    mode: prompts.AnswerMode
    max_new_tokens: int
    every: int  # steps

    def due(self, step: int, steps: int) -> bool:
        """Whether to evaluate after `step` of `steps`: every `every` steps, and at the end."""
        return bool(self.clips) and (step % self.every == 0 or step == steps)

    def evaluate_if_due(
        self,
        step: int,
        steps: int,
        backbone: Backbone,
    ) -> dict[str, float]:
        """The metrics and the seconds that they took; empty if none are due after `step`."""
        if not self.due(step, steps):
            return {}
        began = time.perf_counter()
        metrics = self.evaluate(backbone)
        return {**metrics, "time/held_out": time.perf_counter() - began}

    def evaluate(self, backbone: Backbone) -> dict[str, float]:
        """Greedy accuracy (WAR), mean recall (UAR) and format rate on the held-out clips.

        Every rank answers its share; all ranks return the same metrics.
        """
        own = [self.clips[place] for part in shares(len(self.clips)) for place in part]
        answers: list[str] = []
        for start in range(0, len(own), _BATCH):
            answers += self._answers(backbone, own[start : start + _BATCH])
        texts = [text for part in gather(answers) for text in part]
        return held_out_metrics([str(clip.label) for clip in self.clips], texts, self.mode)

    @torch.no_grad()
    def _answers(self, backbone: Backbone, clips: Sequence[Clip]) -> list[str]:
        features = self.store.load([clip.clip_id for clip in clips])
        questions = [prompts.instruction(self.mode)] * len(clips)
        greedy = decode(
            backbone.language_model,
            prefill_prompts(backbone, features, questions),
            group_size=1,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=backbone.eos_token_ids,
        )
        rows = zip(greedy.token_ids[:, 0], greedy.mask[:, 0], strict=True)
        return [backbone.decode(ids[mask.bool()].tolist()) for ids, mask in rows]


def _rank(clip: Clip, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{clip.clip_id}".encode()).hexdigest()
