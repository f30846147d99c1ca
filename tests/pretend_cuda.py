"""A CUDA device for machines without one: numbers are the CPU's, refusals are CUDA's.

Within `pretend_cuda()`, `device="cuda"` gives tensors whose bytes lie on the CPU but which say
cuda:0 of themselves. Every operation runs on the CPU, so nothing is learned of kernels, streams or
speed; but what a GPU refuses is refused: tensors of two devices in one operation, a CPU generator,
an operation that has no CUDA kernel, `numpy()`. Data-dependent code runs as it is, unlike under
torch's FakeTensorMode.

To torch's C++ the pretended device is `meta:0`: meta is the one that needs no driver and yet is
not the CPU, so that transfers, and their gradients, come by here. Real meta tensors have no index.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

DEVICE = torch.device("cuda:0")
_STAND_IN = torch.device("meta:0")

_aten: Any = torch.ops.aten
_WIDENED = {_aten.mm.dtype, _aten.bmm.dtype}  # half precision in, float32 out: CUDA's alone
_TRANSFERS = {_aten.copy_, _aten.copy, _aten._to_copy}
_INDEXING = {_aten.index, _aten._unsafe_index, _aten.index_put, _aten.index_put_,
             _aten._index_put_impl_, _aten._unsafe_index_put}  # fmt: skip
_TAKE_CPU_SCALARS = {_aten.masked_fill, _aten.masked_fill_, _aten.fill, _aten.fill_}


class Pretended(Tensor):
    """A tensor on the pretended device; `inner` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        assert not isinstance(inner, Pretended) and inner.device.type == "cpu"
        with torch.inference_mode(False):  # else no view could be taken of an older tensor
            tensor: Pretended = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=_STAND_IN,
            )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.inner})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else repr(self), spec)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        raise NotImplementedError("a pretended CUDA tensor has no address")


@contextmanager
def pretend_cuda() -> Iterator[torch.device]:
    """Within, there is a device cuda:0, which is given; `torch.cuda` itself knows nothing of it."""
    swaps, start = torch.__future__.get_swap_module_params_on_conversion(), torch.cuda._lazy_init
    backward = BackwardCFunction.apply
    torch.__future__.set_swap_module_params_on_conversion(True)  # a moved parameter stays itself
    torch.cuda._lazy_init = lambda: None  # it would look for a driver
    BackwardCFunction.apply = _refusing_strangers(backward)  # type: ignore[method-assign]
    try:
        with _Names(), _Operations():
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        torch.cuda._lazy_init = start
        BackwardCFunction.apply = backward  # type: ignore[method-assign]


def on_cpu(values: Any) -> Any:
    """The same nest of tensors with the numbers of the pretended ones."""
    return tree_map(lambda x: x.detach().inner if isinstance(x, Pretended) else x, values)


class _Names(TorchFunctionMode):
    """Calls that name a CUDA device get the stand-in: C++ asks a driver which one `cuda` is.

    Not those within a backward pass, where torch turns such a mode off.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if func is torch.Tensor.cuda:
            return args[0].to(_STAND_IN)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            made = func(*args, **{**kwargs, "device": None})  # C++ would make an empty meta tensor
            return made.to(_stand_in(kwargs["device"]))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _listed(args[1]), *args[2:])
        return func(*map(_stand_in, args), **{k: _stand_in(v) for k, v in kwargs.items()})


class _Operations(TorchDispatchMode):
    """What takes no pretended tensor comes by here: factories, and transfers to the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _stand_in(value: Any) -> Any:
    named = isinstance(value, str) and value.split(":")[0] == "cuda"
    if not named and not _is_cuda(value):
        return value
    if torch.device(value).index not in (None, DEVICE.index):
        raise RuntimeError(f"CUDA error: invalid device ordinal ({value}; there is {DEVICE} alone)")
    return _STAND_IN


def _is_cuda(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


def _listed(index: Any) -> Any:
    """An index whose lists are CPU tensors, as CUDA tensors take them too."""
    if isinstance(index, list):
        return torch.tensor(index)
    return tuple(map(_listed, index)) if isinstance(index, tuple) else index


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operation's results, made on the CPU, on the device where CUDA would have them."""
    if torch.is_inference_mode_enabled() and func._can_decompose():
        with _Operations():  # torch has not taken it apart, as it does for autograd
            return func.decompose(*args, **kwargs)
    given, spec = tree_flatten((args, dict(kwargs)))
    tensors = [x for x in given if isinstance(x, Tensor)]
    device = kwargs.get("device")
    there = any(isinstance(x, Pretended) for x in tensors)
    if any(x.is_meta for x in tensors) or device == torch.device("meta"):
        assert not there, f"{func}: a real meta tensor beside pretended ones"
        return func(*args, **kwargs)
    _refuse_mixture(func, args, tensors)
    makes_there = there if device is None else device.type != "cpu"
    if there or makes_there:
        _refuse_what_cuda_lacks(func, given)
    whole = {id(x.inner if isinstance(x, Pretended) else x): x for x in tensors}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in whole:  # changed in place
            assert whole[id(x)].shape == x.shape, f"{func} changes a shape in place"
            return whole[id(x)]
        return Pretended(x) if makes_there else x

    inner = [x.inner if isinstance(x, Pretended) else x for x in given]
    inner_args, inner_kwargs = tree_unflatten(inner, spec)
    if device is not None:
        inner_kwargs["device"] = torch.device("cpu")
    run = _widened if there and func in _WIDENED else func
    return tree_map(wrapped, run(*inner_args, **inner_kwargs))


def _widened(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """The product as CUDA gives it; what its kernel refuses is refused."""
    if a.dtype != b.dtype or a.dtype not in (torch.bfloat16, torch.float16):
        raise RuntimeError(f"out_dtype is for half precision alone, got {a.dtype} and {b.dtype}")
    return a.to(out_dtype) @ b.to(out_dtype)


def _refuse_mixture(func: Any, args: Sequence[Any], tensors: Iterable[Tensor]) -> None:
    """Raise where the tensors are on two devices, and CUDA would not let them be."""
    tensors = list(tensors)
    strangers = [x for x in tensors if not isinstance(x, Pretended)]
    if not strangers or len(strangers) == len(tensors) or func.overloadpacket in _TRANSFERS:
        return
    home = isinstance(args[0], Pretended)
    if func.overloadpacket in _INDEXING:
        if not home:
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        indices = {id(x) for x in args[1]}
        strangers = [x for x in strangers if id(x) not in indices and x.ndim]
    elif torch.Tag.pointwise in func.tags or func.overloadpacket in _TAKE_CPU_SCALARS:
        changed = func._schema.is_mutable and not home
        strangers = [x for x in strangers if x.ndim or changed]
    if strangers:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and cpu! ({func})"
        )


def _refusing_strangers(backward: Callable[..., Any]) -> Callable[..., Any]:
    """What runs the `backward` of our own Functions, raising where a gradient is left on the CPU.

    Torch does not compare the devices of gradients that are a subclass of Tensor. Those without
    dimensions it moves by itself.
    """

    def run(ctx: Any, *grads: Any) -> Any:
        found = backward(ctx, *grads)
        if any(isinstance(grad, Pretended) for grad in grads):
            for i, one in enumerate(found if isinstance(found, tuple) else (found,)):
                if isinstance(one, Tensor) and not isinstance(one, Pretended) and one.ndim:
                    raise RuntimeError(
                        f"Function {ctx.name()} returned an invalid gradient at index {i} - "
                        f"expected device {DEVICE} but got {one.device}"
                    )
        return found

    return run


def _refuse_what_cuda_lacks(func: Any, given: Iterable[Any]) -> None:
    """Raise for a CPU generator, and for an operation without any CUDA kernel."""
    if any(isinstance(x, torch.Generator) for x in given):  # only CPU ones can have been made
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    known = torch.version.cuda is None or torch._C._dispatch_has_computed_kernel_for_dispatch_key(
        func.name(), "CUDA"
    )
    if not known or func.namespace == "mkldnn":
        raise NotImplementedError(
            f"Could not run '{func.name()}' with arguments from the 'CUDA' backend."
        )
