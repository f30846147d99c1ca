"""The frozen start that GRPO's KL term is measured from."""

from typing import Protocol

from torch import Tensor, nn

from r1omni.model.adapters import adapter_parameters
from r1omni.model.backbone import Backbone, device_of


class Reference(Protocol):
    """`with reference as frozen:` gives a backbone whose numbers never change."""

    def follow(self, policy: Backbone) -> None: ...
    def __enter__(self) -> Backbone: ...
    def __exit__(self, *raised: object) -> None: ...


class CopiedReference:
    """A copy of the policy at its start, without gradients and towers."""

    def __init__(self, policy: Backbone) -> None:
        self._copy = policy.frozen_copy()

    def follow(self, policy: Backbone) -> None:
        """Put the copy where the policy is, in its precision: as DeepSpeed casts, weights alone.

        Rotary frequencies stay float32; in bfloat16 they would turn late positions by a radian.
        """
        dtype = policy.language_model.lm_head.weight.dtype
        for parameter in self._copy.module.parameters():
            parameter.data = parameter.data.to(dtype)
        self._copy.module.to(device_of(policy))

    def __enter__(self) -> Backbone:
        return self._copy

    def __exit__(self, *raised: object) -> None:
        pass


class AdapterAtStart:
    """The policy itself with its adapter as it was at the start: no copy of other weights.

    A fresh adapter adds 0, so this is the checkpoint below it: the adapter is off.
    """

    def __init__(self, policy: Backbone) -> None:
        self._policy = policy
        self._parameters: list[nn.Parameter] = []
        self._start: list[Tensor] = []
        self._now: list[Tensor] = []

    def follow(self, policy: Backbone) -> None:
        """Keep the adapter as it is in the policy, in its precision and on its device."""
        self._policy, self._parameters = policy, list(adapter_parameters(policy).values())
        self._start = [parameter.detach().clone() for parameter in self._parameters]

    def __enter__(self) -> Backbone:
        self._now = [parameter.data for parameter in self._parameters]
        self._put(self._start)
        return self._policy

    def __exit__(self, *raised: object) -> None:
        self._put(self._now)

    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.data = value
