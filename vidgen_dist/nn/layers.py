"""Layers whose parameters are named as in diffusers: `weight` and `bias` under the attribute path.

For inference only: calling a module calls `construct`, without hooks and gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters

from vidgen_dist.nn import backend
from vidgen_dist.nn import functional as F


def empty_parameter(shape: Sequence[int], name: str, dtype: Any = backend.float32) -> Parameter:
    """A parameter of this shape that takes no memory until weights are loaded into it."""
    # On other devices MindSpore runs the initializer at once, into memory that may have to be touched.
    with no_init_parameters():
        return Parameter(initializer("zeros", tuple(shape), dtype), name=name, requires_grad=False)


class Module(ms.nn.Cell):
    """Base class of all layers and models: a MindSpore cell, called without a cell's training machinery."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.construct(*args, **kwargs)


class ModuleList(Module):
    """A list of modules; the index is part of the parameters' names."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a module at the end."""
        setattr(self, str(len(self._cells)), module)

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._cells.values())

    def __getitem__(self, index: int) -> Module:
        modules: list[Module] = list(self._cells.values())
        return modules[index]


def named_parameters(module: ms.nn.Cell) -> dict[str, Parameter]:
    """Every parameter by its attribute path, which is its key in diffusers' `state_dict`."""
    found: dict[str, Parameter] = dict(module._params)
    for name, child in module._cells.items():
        if child is not None:
            found.update({f"{name}.{key}": value for key, value in named_parameters(child).items()})
    return found


class Linear(Module):
    """x (..., in_features) to (..., out_features). `weight` (out, in), `bias` (out,)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = empty_parameter((out_features, in_features), "weight")
        self.bias = empty_parameter((out_features,), "bias") if bias else None

    def construct(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LayerNorm(Module):
    """Normalise x (..., dim) over its last axis; then scale and shift it, if given.

    `weight`, `bias` (dim,).
    """

    def __init__(
        self, dim: int, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = empty_parameter((dim,), "weight") if elementwise_affine else None
        self.bias = empty_parameter((dim,), "bias") if elementwise_affine and bias else None

    def construct(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, self.eps, scale, shift)


class RMSNorm(Module):
    """Divide x (..., dim) by its root mean square over the last axis; then scale and shift it, if given.

    `weight` (dim,).
    """

    def __init__(self, dim: int, eps: float = 1e-6, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = empty_parameter((dim,), "weight") if elementwise_affine else None

    def construct(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return F.rms_norm(x, self.weight, self.eps, scale, shift)


class GroupNorm(Module):
    """Normalise x (B, num_channels, ...) over each group of channels. `weight`, `bias` (C,)."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"num_channels: {num_channels} is not a multiple of num_groups, {num_groups}")
        self.num_groups = num_groups
        self.eps = eps
        self.weight = empty_parameter((num_channels,), "weight")
        self.bias = empty_parameter((num_channels,), "bias")

    def construct(self, x: Tensor, silu: bool = False) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, silu)


class Embedding(Module):
    """Look rows of a table up by integer ids: (...) to (..., dim). `weight` (num, dim)."""

    def __init__(self, num: int, dim: int) -> None:
        super().__init__()
        self.weight = empty_parameter((num, dim), "weight")

    def construct(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class _Conv(Module):
    """Convolution over `axes` axes of x (B, in, ...), padded by zeros.

    `weight` (out, in, *kernel), `bias` (out,). A size is one number, or one number per axis.
    """

    axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride = F.tuple_of(stride, self.axes)
        self.padding = F.tuple_of(padding, self.axes)
        kernel = F.tuple_of(kernel_size, self.axes)
        self.weight = empty_parameter((out_channels, in_channels, *kernel), "weight")
        self.bias = empty_parameter((out_channels,), "bias") if bias else None


class Conv2d(_Conv):
    """Convolution of x (B, in, H, W), padded by zeros. `weight` (out, in, kH, kW), `bias` (out,)."""

    axes = 2

    def construct(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class Conv3d(_Conv):
    """Convolution of x (B, in, T, H, W), padded by zeros. `weight` (out, in, kT, kH, kW), `bias` (out,)."""

    axes = 3

    def construct(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding)
