"""What an operation asks of a GPU, counted without one: kernel launches, and waits of the host.

`Launches` is a dispatch mode: it sees each ATen operation below autograd, as the device would. The
tensors are fake ones (`torch._subclasses.FakeTensorMode`) that say cuda of themselves, so that
torch takes CUDA's way through its operations, at any size; or those of pretend_cuda.py, with
numbers.

An operation is one launch, but for
- none: views, uninitialised memory, and questions about shapes and types;
- one more where CUDA's kernel first makes a copy, as ATen's sources have it (`_hidden_copies`):
  `addmm` and `baddbmm` out of place of what is no bias, operands of a product whose rows and
  columns are both strided, a softmax or roll of what is not contiguous, a `cumsum` in another type.
Reductions that need two passes and sorts are taken for one; none is in the way of every token.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten: Any = torch.ops.aten
_NONE = {
    _aten._unsafe_view, _aten._reshape_alias, _aten.empty, _aten.empty_like, _aten.new_empty,
    _aten.empty_strided, _aten.new_empty_strided, _aten.promote_types, _aten.lift_fresh,
}  # fmt: skip
_WAITS = {_aten._local_scalar_dense, _aten.nonzero, _aten.is_nonzero, _aten.masked_select}
_PRODUCTS = {_aten.mm, _aten.bmm, _aten.addmm, _aten.addmm_, _aten.baddbmm, _aten.baddbmm_}
_SUMS = {_aten.addmm, _aten.baddbmm}
_CONTIGUOUS = {_aten._softmax, _aten._log_softmax, _aten.roll}


class Launches(TorchDispatchMode):
    """Within, `launched` counts kernels by operation and `waits` what the host waits for.

    `told`: what a fake tensor says when the host reads it as a number; False if it is a bool.
    """

    def __init__(self, told: int | None = None) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._told = told

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet, name = func.overloadpacket, str(func)
        tensors = [x for x in args if isinstance(x, Tensor)]
        if packet in _WAITS and all(x.device.type == "cuda" for x in tensors):
            self.waits[name] += 1
            if self._told is not None:
                return False if args[0].dtype == torch.bool else self._told
        result = func(*args, **kwargs)
        if func.namespace == "aten" and packet not in _NONE | _WAITS and not func.is_view:
            self.launched[name] += 1 + _hidden_copies(packet, args, kwargs)
        if packet in (_aten._to_copy, _aten.copy_):
            there = {x.device.type for x in (*tensors, result) if isinstance(x, Tensor)}
            self.waits["between devices"] += len(there) > 1
        return result


def _hidden_copies(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    if packet in _PRODUCTS:
        operands = [x for x in args if isinstance(x, Tensor)][-2:]
        strided = sum(not _is_blas_matrix(x) for x in operands)
        return strided + (packet in _SUMS and args[0].ndim > 1 and kwargs.get("beta", 1) != 0)
    if packet in _CONTIGUOUS:
        return int(not args[0].is_contiguous())
    if packet == _aten.cumsum:
        return int(kwargs.get("dtype") not in (None, args[0].dtype))
    return 0


def _is_blas_matrix(matrix: Tensor) -> bool:
    """Whether rows or columns lie together, and the others do not overlap."""
    (rows, columns), (by_row, by_column) = matrix.shape[-2:], matrix.stride()[-2:]
    return (by_column == 1 and by_row >= columns) or (by_row == 1 and by_column >= rows)
