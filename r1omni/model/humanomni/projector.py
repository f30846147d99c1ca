"""The connector: tower features in, language-model tokens out, in HumanOmni's three branches.

Shapes: `B` clips, `F` frames, `N = S*S` patches a frame, `H`/`W` rows and columns of patches, `C`
channels, `Dv` width of the vision tower, `D` width of the language model, `Tv = F*N/4` tokens.

Feature maps are kept channels-last, (B*F, H, W, C), so that 1 x 1 convolutions and the channel
LayerNorm are plain matrix products and `nn.LayerNorm`; parameters keep the convolutions' names and
shapes, those of timm's RegNet stage (arXiv 2003.13678) as HumanOmni uses it (arXiv 2501.15111).
Every parameter is used inside the `forward` of the module that owns it, as ZeRO-3 wants.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-5
SQUEEZE_RATIO = 0.25


class PointwiseConv(nn.Conv2d):
    """A 1 x 1 convolution over channels-last maps: (..., C) -> (..., C')."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.linear(maps, self.weight.flatten(1), self.bias)


class DepthwiseConv(nn.Conv2d):
    """A 3 x 3 convolution per channel over channels-last maps: (M, H, W, C) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        convolved: Tensor = super().forward(maps.permute(0, 3, 1, 2))
        return convolved.permute(0, 2, 3, 1)


class ConvNorm(nn.Module):
    """A convolution and its channel LayerNorm; SiLU where `activate`."""

    def __init__(self, conv: nn.Conv2d, activate: bool) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.LayerNorm(conv.out_channels, eps=NORM_EPS)
        self.activate = activate

    def forward(self, maps: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.conv(maps))
        return functional.silu(normed) if self.activate else normed


class SqueezeExcite(nn.Module):
    """Channels weighted by what the map shows (arXiv 1709.01507): (M, H, W, C) -> the same."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv(channels, squeezed, bias=True)
        self.fc2 = PointwiseConv(squeezed, channels, bias=True)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = maps.mean(dim=(1, 2), keepdim=True)  # (M, 1, 1, C)
        return maps * torch.sigmoid(self.fc2(functional.silu(self.fc1(pooled))))


class RegNetBlock(nn.Module):
    """A RegNet-Y bottleneck of group size 1: (M, H, W, C) -> (M, H, W, C').

    The shortcut is projected only where the widths differ.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(PointwiseConv(in_channels, out_channels, bias=False), activate=True)
        self.conv2 = ConvNorm(DepthwiseConv(out_channels), activate=True)
        self.se = SqueezeExcite(out_channels, round(SQUEEZE_RATIO * in_channels))
        self.conv3 = ConvNorm(PointwiseConv(out_channels, out_channels, bias=False), activate=False)
        self.downsample = (
            ConvNorm(PointwiseConv(in_channels, out_channels, bias=False), activate=False)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.conv3(self.se(self.conv2(self.conv1(maps))))
        return functional.silu(residual + self.downsample(maps))


class RegNetStage(nn.Module):
    """Two RegNet blocks at full resolution: (M, H, W, C) -> (M, H, W, C')."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.b1 = RegNetBlock(in_channels, out_channels)
        self.b2 = RegNetBlock(out_channels, out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.b2(self.b1(maps))
        return result


class CausalMerge(nn.Conv3d):
    """2 x 2 patches of this frame and the one before as one: (B, F, H, W, C) -> (B, F, h, w, C).

    Equal to Conv3d with kernel 2, stride (1, 2, 2), padding (1, 0, 0) and the last time step cut.
    Since the patches do not overlap, it is one matrix product per frame for both time taps, and the
    tap for the frame before is shifted by one frame.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=2, stride=(1, 2, 2), padding=(1, 0, 0))

    def forward(self, maps: Tensor) -> Tensor:
        B, F, H, W, C = maps.shape
        patches = maps.reshape(B, F, H // 2, 2, W // 2, 2, C).transpose(3, 4).flatten(4)
        # (C', C, 2 times, 2, 2) -> (2 times * C', 2 * 2 * C)
        taps = self.weight.permute(2, 0, 3, 4, 1).flatten(2).flatten(0, 1)
        before, now = functional.linear(patches, taps).chunk(2, dim=-1)  # (B, F, H/2, W/2, C')
        assert self.bias is not None
        return now + self.bias + functional.pad(before[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))


def mlp(in_width: int, width: int) -> nn.Sequential:
    """Linear, GELU, Linear: (..., in_width) -> (..., width)."""
    return nn.Sequential(nn.Linear(in_width, width), nn.GELU(), nn.Linear(width, width))


class HumanOmniProjector(nn.Module):
    """Vision features to tokens, three ways, mixed by the gate.

    `video` and `body` see motion (RegNet stage, causal merge, RegNet stage, MLP), `face` keeps each
    patch's detail (MLP, mean of 2 x 2). All three read the same features.
    """

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.s1_video = RegNetStage(in_width, width)
        self.sampler_video = nn.Sequential(CausalMerge(width), nn.SiLU())
        self.s2_video = RegNetStage(width, width)
        self.readout_video = mlp(width, width)
        self.s1_body = RegNetStage(in_width, width)
        self.sampler_body = nn.Sequential(CausalMerge(width), nn.SiLU())
        self.s2_body = RegNetStage(width, width)
        self.readout_body = mlp(width, width)
        self.mlp_2xgelu_face = mlp(in_width, width)

    def forward(self, features: Tensor, gate: Tensor) -> Tensor:
        """(B, F, N, Dv) and the weights of video, body, face (B, 3) -> (B, Tv, D)."""
        branches = (self.video(features), self.body(features), self.face(features))
        weights = gate[:, :, None, None].unbind(dim=1)  # three of (B, 1, 1)
        mixed: Tensor = sum(w * b for w, b in zip(weights, branches, strict=True))  # type: ignore[assignment]
        return mixed

    def video(self, features: Tensor) -> Tensor:
        """(B, F, N, Dv) -> (B, Tv, D)"""
        return _motion(
            features, self.s1_video, self.sampler_video, self.s2_video, self.readout_video
        )

    def body(self, features: Tensor) -> Tensor:
        """(B, F, N, Dv) -> (B, Tv, D)"""
        return _motion(features, self.s1_body, self.sampler_body, self.s2_body, self.readout_body)

    def face(self, features: Tensor) -> Tensor:
        """(B, F, N, Dv) -> (B, Tv, D)

        The mean over 2 x 2 patches comes before the last layer, which is linear: the same numbers
        for a quarter of its work.
        """
        first, activation, last = self.mlp_2xgelu_face
        hidden = activation(first(_as_maps(features)))  # (B*F, S, S, D)
        M, S, _, D = hidden.shape
        pooled = hidden.reshape(M, S // 2, 2, S // 2, 2, D).mean(dim=(2, 4))
        return _as_tokens(last(pooled), features.shape[0])


def _motion(
    features: Tensor, s1: nn.Module, sampler: nn.Module, s2: nn.Module, readout: nn.Module
) -> Tensor:
    B, F = features.shape[:2]
    maps = s1(_as_maps(features))  # (B*F, S, S, D)
    merged = sampler(maps.unflatten(0, (B, F)))  # (B, F, S/2, S/2, D)
    return _as_tokens(readout(s2(merged.flatten(0, 1))), B)


def _as_maps(features: Tensor) -> Tensor:
    """(B, F, N, C) -> (B*F, S, S, C)"""
    side = round(features.shape[2] ** 0.5)
    return features.reshape(-1, side, side, features.shape[3])


def _as_tokens(maps: Tensor, batch_size: int) -> Tensor:
    """(B*F, H, W, C) -> (B, F*H*W, C)"""
    return maps.reshape(batch_size, -1, maps.shape[-1])
