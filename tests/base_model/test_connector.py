"""The connector's warm-up moves the projectors alone, towards what the clips show."""

from copy import deepcopy

import torch
from noise import as_features

from r1omni.base_model.connector import TokenHeads, train_connector
from r1omni.base_model.humanomni import humanomni_connectors
from r1omni.base_model.towers import GenericClip
from r1omni.corpora.synthetic.attributes import ATTRIBUTES, VOICE
from r1omni.model.feature_store import Features
from r1omni.model.humanomni.backbone import HumanOmniBackbone


def clip_showing(level: int) -> GenericClip:
    targets = dict.fromkeys(ATTRIBUTES, level) | {"scene": 0, "speaker": 0}
    return GenericClip(f"generic/{level}", f"{level}.mp4", "A caption.", "sad", targets)


def features_of(config, names: list[str]) -> list[Features]:
    """Features that show a clip's level, 0 to 2, as their value."""
    levels = torch.tensor([float(name[-1]) - 1 for name in names])[:, None, None]
    audio = levels.expand(-1, config.audio_tokens, config.audio_config.d_model)
    shape = (-1, config.num_frames, config.patch_grid**2, config.vision_config.hidden_size)
    vision = levels[..., None].expand(*shape)
    return as_features(vision.clone(), audio.clone())


def test_it_learns_what_the_features_show_and_touches_nothing_else(tiny, params):
    model = deepcopy(tiny.model)
    backbone = HumanOmniBackbone(model, tiny.processor)
    backbone.freeze()
    base = params.base.model_copy(update={"connector_steps": 30})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    train_connector(
        humanomni_connectors(backbone),
        [clip_showing(level) for level in (0, 1, 2)],
        lambda names: features_of(model.config, list(names)),
        base=base,
        log=lambda _step, metrics: losses.append(metrics["connector/loss"]),
    )
    chance = len(ATTRIBUTES) * torch.tensor(3.0).log()  # where heads of zeros begin
    assert losses[-1] < 0.5 * chance
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all("mm_projector" in n or "audio_projector" in n for n in moved)
    assert all(p.grad is None for p in model.parameters())


def test_heads_that_know_nothing_cost_the_log_of_three_each():
    heads = TokenHeads(8, list(VOICE))
    targets = {name: torch.tensor([0, 2]) for name in VOICE}
    loss = heads(torch.randn(2, 5, 8), targets)
    torch.testing.assert_close(loss, len(VOICE) * torch.tensor(3.0).log())
