"""The frozen start that GRPO's KL term is measured from."""

from typing import Protocol

from r1omni.model.backbone import Backbone, device_of


class Reference(Protocol):
    """`with reference as frozen:` gives a backbone whose numbers never change."""

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
