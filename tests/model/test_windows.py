"""Decoding as on a GPU, run on the CPU, against decoding as on the CPU."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from launches import Launches
from noise import noise_features
from pretend_cuda import on_cpu, pretend_cuda
from tiny_thinker import RAGGED, noise_clips, tiny_thinker
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from r1omni.model import sampling, windows
from r1omni.model.adapters import put_on
from r1omni.model.backbone import prefill_asked
from r1omni.model.fused_decoder import FusedDecoder
from r1omni.model.fused_weights import can_fuse, count_fused, fuse_layers
from r1omni.model.sampling import Decoded, decode, score_completions, uniform_draws
from r1omni.model.shared_prefix import Prefix
from r1omni.training_config import AdapterParams

TEXTS = ["short", "a rather longer question about the face?", "the voice", "which one is it?"]
P, G, T = len(TEXTS), 5, 50  # three looks, and two tokens


@pytest.fixture(params=["humanomni", "thinker"])
def prompted(request, tiny):
    """A backbone and the prefix of prompts with padding."""
    if request.param == "humanomni":
        backbone = tiny
        features = noise_features(tiny.model.config, P, torch.Generator().manual_seed(0))
    else:
        backbone = tiny_thinker()
        features = backbone.encode(noise_clips(backbone.preparation, RAGGED))
    return backbone, prefix_of(backbone, features)


@torch.no_grad()
def prefix_of(backbone, features):
    prefix = prefill_asked(backbone, backbone.ask(features, TEXTS))
    assert not bool(prefix.mask.all())
    return prefix


def draws():
    return uniform_draws([torch.Generator().manual_seed(i) for i in range(P)], G, T)


def both_ways(language_model, prefix, **how):
    """The CPU's way, and a GPU's."""
    with pytest.MonkeyPatch.context() as patch:
        slow = decode(language_model, prefix, **how)
        patch.setattr(sampling, "_decode_step_by_step", windows.decode_in_windows)
        return slow, decode(language_model, prefix, **how)


@pytest.fixture
def kept(monkeypatch):
    """What the decoder is told to keep: prompts and rows, one pair a time."""
    kept, keep = [], FusedDecoder.keep

    def noting(self, *places):
        kept.append([x.tolist() for x in places])
        keep(self, *places)

    monkeypatch.setattr(FusedDecoder, "keep", noting)
    return kept


def assert_same(found: Decoded, expected: Decoded):
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert found.mask.tolist() == expected.mask.tolist()
    assert found.finished.tolist() == expected.finished.tolist()
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0.0, atol=1e-5)


SAMPLED = {"group_size": G, "max_new_tokens": T, "temperature": 1.5}


@pytest.mark.parametrize("n_ends", [1, 3])
def test_completions_that_end_at_different_times_are_the_same(prompted, n_ends):
    backbone, prefix = prompted
    how = {**SAMPLED, "draws": draws()}
    free, fast = both_ways(backbone.language_model, prefix, eos_token_id=-1, **how)
    assert_same(fast, free)
    assert free.mask.sum() == P * G * T
    ends = free.token_ids[:, 0, 12].unique().tolist()[:n_ends]
    expected, found = both_ways(backbone.language_model, prefix, eos_token_id=ends, **how)
    assert_same(found, expected)
    assert len(expected.mask.sum(dim=2).unique()) > 2


def test_rows_leave_their_group_and_prompts_the_batch(prompted, kept):
    """Draws that make lengths: at a huge temperature each token is as likely as any other."""
    backbone, prefix = prompted
    language_model, end = backbone.language_model, 7
    lengths = torch.tensor([[1, 2, 1, 2, 16], [17, 30, 5, 33, 3], [50, 4, 51, 10, 16], [16] * 5])
    words = language_model.lm_head.out_features
    torch.manual_seed(0)
    tokens = torch.randint(end + 1, words, (P, G, T))
    tokens = tokens.masked_fill(torch.arange(T) == lengths[..., None] - 1, end)
    how = {**SAMPLED, "temperature": 1e9, "draws": (tokens.double() + 0.5) / words}
    expected, found = both_ways(language_model, prefix, eos_token_id=end, **how)
    assert_same(found, expected)
    assert found.mask.sum(dim=2).tolist() == lengths.clamp(max=T).tolist()
    # after 16, 32 and 48 tokens, by their places among those that were left
    assert kept == [
        [[1, 2], [[0, 1, 3], [0, 2, 1]]],
        [[0, 1], [[2, 0], [0, 1]]],
        [[1], [[0, 1]]],
    ]


def test_what_is_left_goes_on_as_it_would_have(prompted, kept):
    """Rows that stay are the same with others and without: sampled, so that states matter."""
    backbone, prefix = prompted
    how = {**SAMPLED, "draws": draws()}
    free, _ = both_ways(backbone.language_model, prefix, eos_token_id=-1, **how)
    early = set(free.token_ids[0, :, :16].flatten().tolist()) - set(
        free.token_ids[1, 0].tolist() + free.token_ids[2, 1].tolist()
    )
    expected, found = both_ways(backbone.language_model, prefix, eos_token_id=sorted(early), **how)
    assert_same(found, expected)
    assert kept
    for p, row in ((1, 0), (2, 1)):
        assert found.token_ids[p, row].tolist() == free.token_ids[p, row].tolist()


def test_an_ended_batch_is_as_short_as_its_longest_completion(prompted):
    backbone, prefix = prompted
    greedy = {"group_size": 1, "max_new_tokens": T}
    free, fast = both_ways(backbone.language_model, prefix, eos_token_id=-1, **greedy)
    assert_same(fast, free)
    ends = sorted(set(free.token_ids[:, 0, 4].tolist()))
    expected, found = both_ways(backbone.language_model, prefix, eos_token_id=ends, **greedy)
    assert_same(found, expected)
    assert found.mask.shape[2] <= 5


def test_weights_are_read_anew_by_each_call(monkeypatch):
    backbone = tiny_thinker()
    features = backbone.encode(noise_clips(backbone.preparation, RAGGED))
    prefix = prefix_of(backbone, features)
    how = {"group_size": 1, "max_new_tokens": 6, "eos_token_id": -1}
    before, _ = both_ways(backbone.language_model, prefix, **how)
    with torch.no_grad():
        backbone.language_model.model.layers[0].self_attn.q_proj.weight.mul_(-3.0)
    expected, found = both_ways(backbone.language_model, prefix, **how)
    assert_same(found, expected)
    assert not torch.equal(before.logprobs, expected.logprobs)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_exact_as_step_by_step(kind):
    """Each way's log probabilities against float64's of its own completions."""
    backbone = tiny_thinker()
    features = backbone.encode(noise_clips(backbone.preparation, RAGGED))
    backbone.model.to(kind)
    how = {**SAMPLED, "draws": draws(), "eos_token_id": -1}
    ways = both_ways(backbone.language_model, prefix_of(backbone, features), **how)
    backbone.model.double()
    true_prefix = prefix_of(backbone, features)
    errors = []
    for way in ways:
        with torch.no_grad():
            scored, _ = score_completions(
                backbone.language_model, true_prefix, way.token_ids, way.mask, temperature=1.5
            )
        errors.append(float((way.logprobs - scored).abs().mean()))
    slow, fast = errors
    assert 0.0 < fast <= 1.1 * slow


K, R, L, D = 2, 2, 40, 16  # key/value heads, queries of each, prompt positions, head width


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [0.0, 100.0])
def test_scores_are_as_exact_as_in_torchs_own_attention(bias, kind):
    """With key biases of a hundred, as Qwen2 has them; padding and the group are never seen."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mean = bias * noise(K, 1, D).sign()
    n, steps = 2, 6
    prefix_key, prefix_value = noise(n, K, L, D) + mean, noise(n, K, L, D)
    prefix_key, prefix_value = prefix_key.to(kind), prefix_value.to(kind)
    query = (0.3 * noise(steps, n, G, K, R, D)).to(kind)
    key, value = (noise(steps, n, G, K, 1, D) + mean).to(kind), noise(steps, n, G, K, 1, D).to(kind)
    mask = torch.ones(n, L, dtype=torch.bool)
    mask[1, :7] = False
    decoder = decoder_of(prefix_key, prefix_value, mask, steps)
    given = torch.cat([query, key, value, torch.zeros_like(query), torch.zeros_like(key)], dim=4)
    identity = torch.eye(given[0, 0, 0].numel(), dtype=kind)
    layer = SimpleNamespace(heads=identity, heads_bias=None)
    found = []
    for t in range(steps):
        found.append(decoder._attend(layer, decoder._caches[0], given[t].view(n * G, -1)))
        decoder.length += 1

    def own_attention(dtype):
        rows = []
        for t in range(steps):
            past = [
                torch.cat(
                    [
                        prompt[:, None].expand(-1, G, -1, -1, -1),
                        x[: t + 1, :, :, :, 0].permute(1, 2, 3, 0, 4),
                    ],
                    dim=3,
                )
                for prompt, x in ((prefix_key, key), (prefix_value, value))
            ]
            seen = torch.cat([mask, torch.ones(n, t + 1, dtype=torch.bool)], dim=1)
            rows.append(
                scaled_dot_product_attention(
                    query[t].to(dtype),
                    *(x.to(dtype) for x in past),
                    attn_mask=seen[:, None, None, None],
                ).reshape(n * G, -1)
            )
        return torch.stack(rows).double()

    true = own_attention(torch.float64)
    theirs = float((own_attention(kind) - true).norm())
    assert 0.0 < float((torch.stack(found).double() - true).norm()) <= 1.5 * theirs


def decoder_of(prefix_key, prefix_value, mask, steps):
    """A decoder of one layer whose positions turn nothing."""
    n, width = len(mask), K * R * D
    kind = prefix_key.dtype
    backbone = tiny_thinker().language_model.model.to(kind)
    unturned = torch.ones(n, steps, D, dtype=kind), torch.zeros(n, steps, D, dtype=kind)
    model = SimpleNamespace(
        embed_tokens=None,
        norm=backbone.norm,
        layers=backbone.layers[:1],
        rotary_emb=lambda _hidden, _positions: unturned,
    )
    last = torch.zeros(n, width, dtype=kind)
    prefix = Prefix([prefix_key], [prefix_value], mask, mask.sum(dim=1), last)
    return FusedDecoder(model, prefix, G, steps)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_gpu_is_waited_for_once_in_a_window(tiny, kind):
    """On the pretended device, with numbers; half precision multiplies as CUDA does."""
    backbone = tiny
    features = noise_features(tiny.model.config, P, torch.Generator().manual_seed(0))
    with torch.no_grad():
        prefix = prefix_of(backbone, features)
    given = draws()
    language_model = SimpleNamespace(
        model=deepcopy(backbone.language_model.model).to(kind),
        lm_head=deepcopy(backbone.language_model.lm_head).to(kind),
    )
    prefix = Prefix(
        [x.to(kind) for x in prefix.keys],
        [x.to(kind) for x in prefix.values],
        prefix.mask,
        prefix.start,
        prefix.last_hidden.to(kind),
    )
    how = {**SAMPLED, "eos_token_id": -1, "draws": given}
    _, expected = both_ways(language_model, prefix, **how)
    with pretend_cuda() as device:
        there = Prefix(
            [x.to(device) for x in prefix.keys],
            [x.to(device) for x in prefix.values],
            prefix.mask.to(device),
            prefix.start.to(device),
            prefix.last_hidden.to(device),
        )
        language_model.model.to(device)
        language_model.lm_head.to(device)
        with Launches() as seen:
            found = decode(language_model, there, **how)
    assert_same(Decoded(*(on_cpu(x) for x in vars(found).values())), expected)
    # a look after 16, 32 and 48 tokens, then the length; before, the end's id and the draws
    reads = seen.waits["aten._local_scalar_dense.default"]
    assert (reads, seen.waits["between devices"]) == (1, 3 + 2)
    assert seen.waits.total() == 6


def test_an_adapter_and_partitioned_weights_are_not_fused():
    backbone = tiny_thinker()
    decoder = backbone.language_model.model
    assert can_fuse(decoder)
    down = decoder.layers[1].mlp.down_proj
    whole, down.weight = down.weight, nn.Parameter(torch.empty(0))
    assert not can_fuse(decoder)
    down.weight = whole
    assert can_fuse(decoder)
    put_on(backbone, AdapterParams(rank=2, alpha=4.0, targets=("attention",)), 0)
    assert not can_fuse(decoder)


def test_what_is_copied_is_counted_by_hand():
    """Width 64, heads 4 and 2 of 16, feed-forward 96; q and k twice, v, gate and up; two layers."""
    decoder = tiny_thinker().language_model.model
    assert count_fused(decoder) == 2 * ((2 * (4 + 2) + 2) * 16 * 64 + 2 * 96 * 64)
    copied = [x for layer in fuse_layers(decoder) for x in (layer.heads, layer.gate_up)]
    assert sum(x.numel() for x in copied) == count_fused(decoder)
