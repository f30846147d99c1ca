"""The connector's pieces against torch's own convolutions and numbers worked by hand."""

import torch
from torch import nn
from torch.nn import functional

from r1omni.model.humanomni.projector import (
    CausalMerge,
    DepthwiseConv,
    HumanOmniProjector,
    PointwiseConv,
    RegNetBlock,
    SqueezeExcite,
)


def channels_last(maps: torch.Tensor) -> torch.Tensor:
    return maps.movedim(1, -1)


def test_channels_last_convolutions_equal_torchs() -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 6, 4, 4)
    pointwise, depthwise = PointwiseConv(6, 5, bias=True), DepthwiseConv(6)

    torch.testing.assert_close(
        pointwise(channels_last(maps)),
        channels_last(functional.conv2d(maps, pointwise.weight, pointwise.bias)),
    )
    torch.testing.assert_close(
        depthwise(channels_last(maps)),
        channels_last(functional.conv2d(maps, depthwise.weight, padding=1, groups=6)),
    )


def test_causal_merge_is_conv3d_without_its_last_time_step_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    video = torch.randn(2, 3, 5, 4, 6, requires_grad=True)  # (B, C, F, H, W)
    merge = CausalMerge(3)
    plain = nn.Conv3d(3, 3, kernel_size=2, stride=(1, 2, 2), padding=(1, 0, 0))
    plain.load_state_dict(merge.state_dict())

    ours = merge(channels_last(video))
    theirs = channels_last(plain(video)[:, :, :-1])
    torch.testing.assert_close(ours, theirs)

    direction = torch.randn_like(theirs)
    of_ours = torch.autograd.grad((ours * direction).sum(), [video, merge.weight, merge.bias])
    of_theirs = torch.autograd.grad((theirs * direction).sum(), [video, plain.weight, plain.bias])
    for a, b in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_causal_merge_by_hand() -> None:
    merge = CausalMerge(1)
    nn.init.zeros_(merge.bias)
    with torch.no_grad():
        merge.weight[0, 0, 0] = 10.0  # the frame before
        merge.weight[0, 0, 1] = 1.0  # this frame
    video = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1, 1).expand(1, 3, 2, 2, 1)
    # each tap sums a frame's four patches: 4, then 40 + 8, then 80 + 12; nothing comes before
    assert merge(video).flatten().tolist() == [4.0, 48.0, 92.0]


def test_a_later_frame_changes_no_earlier_token() -> None:
    torch.manual_seed(0)
    projector = HumanOmniProjector(8, 12)
    features = torch.randn(1, 3, 16, 8)
    changed = features.clone()
    changed[:, 2] += 1.0
    gate = torch.tensor([[0.5, 0.25, 0.25]])
    before, after = projector(features, gate), projector(changed, gate)
    torch.testing.assert_close(before[:, :8], after[:, :8])  # two frames of 2 x 2 tokens
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_squeeze_excite_halves_where_its_layers_are_zero() -> None:
    gate = SqueezeExcite(4, 2)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    maps = torch.randn(1, 2, 2, 4)
    torch.testing.assert_close(gate(maps), maps / 2)  # sigmoid(0) = 1/2


def test_a_block_squeezes_to_a_quarter_of_its_input_and_projects_only_where_widths_differ() -> None:
    wider, same = RegNetBlock(10, 16), RegNetBlock(16, 16)
    assert wider.se.fc1.weight.shape == (2, 16, 1, 1)  # round(2.5) = 2: Python rounds to even
    assert same.se.fc1.weight.shape == (4, 16, 1, 1)
    assert isinstance(same.downsample, nn.Identity)
    assert wider.downsample.conv.weight.shape == (16, 10, 1, 1)
    assert wider.conv2.conv.weight.shape == (16, 1, 3, 3)
    assert wider.conv1.bn.eps == 1e-5


def test_face_tokens_are_the_mean_of_the_mlp_over_2_by_2_patches() -> None:
    torch.manual_seed(0)
    projector = HumanOmniProjector(8, 12)
    features = torch.randn(2, 3, 16, 8)
    tokens = projector.mlp_2xgelu_face(features).view(6, 4, 4, 12)  # the MLP on every patch
    pooled = functional.interpolate(tokens.movedim(-1, 1), scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(projector.face(features), channels_last(pooled).reshape(2, 12, 12))


def test_the_gate_mixes_video_body_and_face_in_this_order() -> None:
    torch.manual_seed(0)
    projector = HumanOmniProjector(8, 12)
    features = torch.randn(3, 2, 16, 8)
    mixed = projector(features, torch.eye(3))
    torch.testing.assert_close(mixed[0], projector.video(features)[0])
    torch.testing.assert_close(mixed[1], projector.body(features)[1])
    torch.testing.assert_close(mixed[2], projector.face(features)[2])
