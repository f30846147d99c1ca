"""Qwen2.5-Omni at its edges: nothing seen or heard, bfloat16, positions of long and short clips."""

from typing import Any

import pytest
import torch
from own_forward import ThinkerOracle
from tiny_thinker import RAGGED, noise_clips, tiny_thinker

from r1omni.evaluation.audit.answerer import Media
from r1omni.evaluation.audit.backbone_answerer import BackboneAnswerer
from r1omni.model.absence import blank_features, blanked
from r1omni.model.backbone import prefill_asked
from r1omni.model.qwen_omni.towers import count_audio_tokens
from r1omni.model.sampling import score_completions

QUESTION = "Which emotion?"


def test_nothing_stands_for_what_is_missing() -> None:
    """Darkness and silence are left out of the prompt, as of a clip that never had them."""
    backbone = tiny_thinker()
    blank = blank_features(backbone)
    assert blank == {}
    clip = backbone.encode(noise_clips(backbone.preparation))[0]
    assert blanked(clip, None, blank) is clip
    assert set(blanked(clip, "voice", blank)) == {"video", "grid", "seconds"}
    assert set(blanked(clip, "face", blank)) == {"audio"}
    asked = backbone.ask([blanked(blanked(clip, "face", blank), "voice", blank)], [QUESTION])
    ids = asked.tensors["input_ids"][0]
    text = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert backbone.tokenizer.decode(ids) == text
    assert asked.tensors["positions"][0].tolist() == [[i] * 3 for i in range(len(ids))]
    assert int(asked.tensors["start"][0]) == len(ids)


class Stored:
    """The features of clips by the index that is their id."""

    def __init__(self, features: Any) -> None:
        self._features = features

    def load(self, clip_ids: Any) -> Any:
        return [self._features[int(clip_id)] for clip_id in clip_ids]


def test_the_audit_pairs_one_clips_face_with_anothers_voice() -> None:
    backbone = tiny_thinker()
    stored = Stored(backbone.encode(noise_clips(backbone.preparation)))
    answerer = BackboneAnswerer(backbone, stored, max_new_tokens=4, temperature=1.0, seed=0)
    media = [
        Media(video="0", audio="3"),
        Media(video=None, audio="3"),
        Media(video="1", audio=None),
    ]
    found = answerer._features(media)
    first, last = stored.load(["0", "3"])
    assert found[0]["video"] is first["video"]
    assert found[0]["grid"] is first["grid"]
    assert found[0]["audio"] is last["audio"]
    assert [set(clip) for clip in found[1:]] == [{"audio"}, {"video", "grid", "seconds"}]
    assert len(answerer.complete(media)) == 3


def test_positions_are_worked_by_hand() -> None:
    """Two steps of 2 x 3 tokens, 0.74 s apart: 18 positions; then 32 tokens of sound."""
    backbone = tiny_thinker()
    clips = noise_clips(backbone.preparation, [(56, 84, 1.3, 0.37)])
    asked = backbone.ask(backbone.encode(clips), [QUESTION])
    before = len(backbone.tokenizer("<|im_start|>user\n<|vision_bos|>")["input_ids"])
    time, high, wide = asked.tensors["positions"][0].T.tolist()
    at = slice(before, before + 12)
    assert time[at] == [before] * 6 + [before + 18] * 6
    assert high[at] == [before + y for y in (0, 0, 0, 1, 1, 1)] * 2
    assert wide[at] == [before + x for x in (0, 1, 2, 0, 1, 2)] * 2
    ends = before + 18 + 1  # <|vision_eos|> stands behind the largest of the three
    n = count_audio_tokens(130)
    assert n == 32
    after = [ends, ends + 1, *range(ends + 2, ends + 2 + n), ends + 2 + n]  # eos, bos, sound, eos
    for axis in (time, high, wide):
        assert axis[before + 12 : before + 12 + 3 + n] == after
    tokens = len(time)
    assert int(asked.tensors["start"][0]) == tokens + 19 - 12  # the delta


@pytest.mark.parametrize("bias", [0.0, 100.0])
def test_bfloat16_is_as_exact_as_transformers_own(bias: float) -> None:
    """Key biases of a hundred, as Qwen2 has them: at most twice sdpa's error to float64."""
    backbone = tiny_thinker()
    with torch.no_grad():
        for layer in backbone.language_model.model.layers:
            layer.self_attn.k_proj.bias.add_(bias * torch.randn(32).sign())
        for parameter in backbone.model.parameters():  # rotary frequencies stay float32
            parameter.data = parameter.data.bfloat16()
    clips = noise_clips(backbone.preparation, RAGGED)
    texts, generator = [QUESTION] * 4, torch.Generator().manual_seed(0)
    ids = torch.randint(20, 300, (4, 3, 9), generator=generator)
    mask = torch.ones_like(ids)
    oracle = ThinkerOracle(backbone)  # with the frequencies in bfloat16: set right below
    oracle.model.model.language_model.rotary_emb = backbone.model.model.language_model.rotary_emb

    def theirs(clips: Any) -> torch.Tensor:
        logits = oracle.logits(clips, texts, ids, mask).float()
        return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]

    with torch.no_grad():
        prefix = prefill_asked(backbone, backbone.ask(backbone.encode(clips), texts))
        ours, _ = score_completions(backbone.language_model, prefix, ids, mask)
        own = theirs(clips)
        for parameter in oracle.model.parameters():
            parameter.data = parameter.data.double()
        true = theirs(clips)
    assert ours.dtype == torch.float32
    assert 0 < float((ours - true).norm()) <= 2 * float((own - true).norm())
