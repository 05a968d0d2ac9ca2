"""Layers that multiply by their non-zero weights alone, on a CPU: by torch's CSR kernels, which are of Intel's MKL."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from prunetune.errors import ConfigError

TYPES = (torch.float32, torch.float64)  # what MKL's sparse kernels multiply
LEAST_ZEROS = 0.5  # fewer are not worth the time to measure: `prunetune bench-kernels` shows what they bring
_FEW_ROWS = 4  # from so many on, MKL is faster with a transposed copy of the activations than with them as they are


class SparseLayer(nn.Module):
    """A layer for use and not for training; its state dict is that of the dense layer, zeros included.

    The matrices are buffers that no state dict lists: their 32-bit indices are what MKL takes without a conversion.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        for name in layer.__constants__:  # in_features, kernel_size and so on, which other code may look at
            setattr(self, name, getattr(layer, name))
        self._shape = layer.weight.shape
        bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), False)
        self.register_parameter("bias", bias)
        self._keep(layer.weight.detach())

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew at each look: of use to what reads weights, and no parameter."""
        raise NotImplementedError

    def _keep(self, weight: Tensor) -> None:
        raise NotImplementedError

    def _bias(self, like: Tensor) -> Tensor:
        """What the products are added to; torch has no sparse product that is written into a tensor without."""
        return like.new_zeros(self._shape[0]) if self.bias is None else self.bias

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}weight"
        found = state_dict.get(name)
        if found is None:
            missing_keys += [name] * strict
        elif found.shape != self._shape:
            error_msgs.append(f"size mismatch for {name}: {tuple(found.shape)}, not {tuple(self._shape)}")
        else:
            self._keep(found.detach().to(self._matrix(0)))
        others = {key: tensor for key, tensor in state_dict.items() if key != name}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _matrix(self, number: int) -> Tensor:
        return self.get_buffer(f"matrix_{number}")

    def __deepcopy__(self, memo: dict[int, Any]) -> "SparseLayer":
        """As of any module; torch knows how to clone a CSR tensor, and not how to copy it deeply."""
        memo |= {id(tensor): tensor.clone() for tensor in self.buffers()}
        memo[id(self)] = twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(deepcopy(self.__dict__, memo))
        return twin


class SparseLinear(SparseLayer):
    """An `nn.Linear` as one CSR matrix of its shape (outputs, inputs). Inputs (..., in) give outputs (..., out)."""

    matrix_0: Tensor
    transposed: Tensor

    def _keep(self, weight: Tensor) -> None:
        matrix = to_csr(weight)
        self.register_buffer("matrix_0", matrix, persistent=False)
        with _quiet():  # made here, as torch cannot transpose it in inference mode; it shares the memory
            self.register_buffer("transposed", matrix.t(), persistent=False)

    @property
    def weight(self) -> Tensor:
        """See `SparseLayer`."""
        return self._matrix(0).to_dense()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name by which torch calls it
        """The dense layer's outputs, contiguous."""
        rows = input.reshape(-1, self._shape[1])
        bias = self._bias(rows)
        if len(rows) < _FEW_ROWS:
            found = torch.addmm(bias, rows, self.transposed)
        else:
            found = torch.addmm(bias[:, None], self.matrix_0, rows.t()).t().contiguous()
        return found.view(*input.shape[:-1], self._shape[0])

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"{self._shape[1]}, {self._shape[0]}, {_non_zeros(self)}"


class SparseConv2d(SparseLayer):
    """An `nn.Conv2d` without groups as one CSR matrix for each row of its kernel, of shape (out, width · in).

    Inputs (N, C, H, W) or (C, H, W), images one after the other. An image is laid out once for every column of the
    kernel; the rows of the kernel are then views of that, so that a 3x3 kernel copies its input three times and not
    nine times as `unfold` does. A 1x1 kernel copies nothing.
    """

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]

    def _keep(self, weight: Tensor) -> None:
        for row in range(self._shape[2]):
            matrix = weight[:, :, row].transpose(1, 2).flatten(1)  # columns in the order (column of the kernel, input)
            self.register_buffer(f"matrix_{row}", to_csr(matrix), persistent=False)

    @property
    def weight(self) -> Tensor:
        """See `SparseLayer`."""
        outputs, inputs, height, width = self._shape
        rows = [self._matrix(row).to_dense().view(outputs, width, inputs) for row in range(height)]
        return torch.stack(rows).permute(1, 3, 0, 2).contiguous()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name by which torch calls it
        """The dense layer's outputs, contiguous; torch refuses inputs that require a gradient."""
        images = input if input.dim() == 4 else input[None]
        top, side = self.padding
        padded = F.pad(images, (side, side, top, top)) if top or side else images.contiguous()
        height, width = (
            (size - step * (kernel - 1) - 1) // stride + 1
            for size, step, kernel, stride in zip(
                padded.shape[2:], self.dilation, self._shape[2:], self.stride, strict=True
            )
        )
        outputs = images.new_empty(len(images), self._shape[0], height, width)
        for image, output in zip(padded, outputs, strict=True):
            self._convolve(image, output.flatten(1), height, width)
        return outputs if input.dim() == 4 else outputs[0]

    def _convolve(self, image: Tensor, output: Tensor, height: int, width: int) -> None:
        """Write what one padded image gives into `output`, of shape (out, height · width)."""
        start = self._bias(image)[:, None]
        laid = self._laid_out(image, width)
        for row, matrix in enumerate(self.buffers(recurse=False)):
            first, phase = divmod(row * self.dilation[0], self.stride[0])
            seen = laid[phase][:, first * width : (first + height) * width]
            torch.addmm(start, matrix, seen, out=output)
            start = output

    def _laid_out(self, image: Tensor, width: int) -> list[Tensor]:
        """For every phase of the vertical stride a matrix (columns of the kernel · in, rows · width)."""
        if self._shape[2:] == (1, 1) and self.stride == (1, 1):
            return [image.flatten(1)]
        stride, step, columns = self.stride[1], self.dilation[1], self._shape[3]
        last = stride * (width - 1) + 1
        shifted = [image[:, :, at * step : at * step + last : stride] for at in range(columns)]
        return [
            torch.cat([part[:, phase :: self.stride[0]] for part in shifted]).flatten(1)
            for phase in range(self.stride[0])
        ]

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"{self._shape[1]}, {self._shape[0]}, kernel_size={tuple(self._shape[2:])}, {_non_zeros(self)}"


def to_csr(matrix: Tensor) -> Tensor:
    """A dense matrix in CSR form with 32-bit indices."""
    with _quiet():
        found = matrix.contiguous().to_sparse_csr()
        return torch.sparse_csr_tensor(
            found.crow_indices().int(),
            found.col_indices().int(),
            found.values(),
            matrix.shape,
            check_invariants=True,
        )


def sparse_layer(layer: nn.Module) -> nn.Module:
    """The sparse form of a layer of which `survey_sparse` gives no reason."""
    return SparseConv2d(layer) if isinstance(layer, nn.Conv2d) else SparseLinear(cast(nn.Linear, layer))


def survey_sparse(model: nn.Module) -> dict[str, str | None]:
    """Every module that owns a parameter of two or more dimensions: why it cannot run sparse, or None where it can.

    That takes an `nn.Linear`, or an `nn.Conv2d` without groups and with zero padding, of float32 or float64 on the
    CPU, half of whose weights at least are zero, and that shares its weight with no other and has no hooks.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return {
        name: _kind_reason(module) or _weight_reason(name, module, owners)
        for name, module in model.named_modules()
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    }


def sparse_names(model: nn.Module) -> list[str]:
    """The names of the layers that run sparse."""
    return [name for name, module in model.named_modules() if isinstance(module, SparseLayer)]


def require_kernels() -> None:
    """ConfigError where torch has no MKL, whose kernels these are."""
    if not torch.backends.mkl.is_available():
        raise ConfigError("torch: built without Intel's MKL, whose sparse kernels these are; use one that has it (x86)")


def _kind_reason(module: nn.Module) -> str | None:
    kind = "convolution" if isinstance(module, _ConvNd) else type(module).__name__
    if type(module) not in (nn.Linear, nn.Conv2d):  # what is derived from one may read the weight in another way
        return f"{kind}: only nn.Linear and nn.Conv2d have a sparse form"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"convolution of {module.groups} groups: each is small by itself"
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return f"convolution with padding {module.padding!r} of '{module.padding_mode}': only zeros by number"
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return "has hooks or a forward of its own, which the sparse form would not call"
    return None


def _weight_reason(name: str, module: nn.Module, owners: Mapping[int, list[str]]) -> str | None:
    weight = module.get_parameter("weight")
    if tied := [owner for owner in owners[id(weight)] if owner.rpartition(".")[0] != name]:
        return f"tied to '{tied[0]}'"
    if weight.device.type != "cpu":
        return f"on {weight.device}: the kernels are the CPU's"
    if weight.dtype not in TYPES:
        return f"{str(weight.dtype).removeprefix('torch.')}: the kernels take float32 and float64"
    zeros = 1 - int(weight.count_nonzero()) / max(weight.numel(), 1)
    if zeros < LEAST_ZEROS:
        return f"{zeros:.0%} zeros: fewer than half"
    return None


def _non_zeros(layer: SparseLayer) -> str:
    kept = sum(matrix.values().numel() for name, matrix in layer.named_buffers() if name.startswith("matrix"))
    return f"bias={layer.bias is not None}, nonzeros={kept} of {layer._shape.numel()}"


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # That its interface may change: said once a process, and ours to follow.
        warnings.filterwarnings("ignore", "Sparse CS[RC] tensor support is in beta state")
        yield
