"""A model whose weights stay in the host's memory, and come to the card layer by layer (PyTorch's FSDP2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from .team import connect


def shard(model: PreTrainedModel, device: torch.device, computed: torch.dtype) -> None:
    """Keep the float32 weights and their gradients on the host; compute on `device`, in `computed`."""
    connect(device)
    mesh = init_device_mesh(device.type, (1,))
    host = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    format = MixedPrecisionPolicy(param_dtype=computed)
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    for part in (*layers, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=format, offload_policy=host)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def plain(tensor: Tensor) -> Tensor:
    """The numbers of a tensor, shared with it: with one process a shard is the whole."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
