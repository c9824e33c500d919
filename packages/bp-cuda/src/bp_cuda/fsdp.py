"""Sharded weights (PyTorch's FSDP2): over several processes, or between a card and the host's memory.

Each layer is gathered when it is computed, and freed afterwards. Every forward and backward pass is therefore a
collective operation: all processes make the same number of passes, and a failure in one is a failure in all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from bp_core.errors import OutOfMemory, PeerLost
from bp_core.process_group import ProcessGroup, launch_env

from .process_group import broadcast, connect, peer_errors


def shard(
    model: PreTrainedModel,
    device: torch.device,
    *,
    computed: torch.dtype | None = None,
    on_host: bool = False,
    whole: Collection[Parameter] = (),
) -> None:
    """Shard all weights but the `whole` ones. Gradients are summed over the processes in float32.

    `computed`: number format in which trained weights are gathered. `on_host`: keep shards and gradients on the host.
    """
    connect(device)
    mesh = init_device_mesh(device.type, (launch_env().size,))
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if on_host else OffloadPolicy()
    precision = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=computed and torch.float32)
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    for part in (*layers, model):
        fully_shard(part, mesh=mesh, mp_policy=precision, offload_policy=offload, ignored_params={*whole},
                    reshard_after_forward=True)  # fmt: skip
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # Gloo lacks the averaging operation
    for tensor in (*model.buffers(), *whole):
        tensor.data = tensor.data.to(device)


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, of any shape, as a view; the whole of one that is not sharded."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor; a copy if it is sharded, which all processes must call for."""
    if isinstance(tensor, DTensor) and tensor.device_mesh.size() > 1:
        whole: Tensor = tensor.full_tensor()
        return whole.detach()
    return local_tensor(tensor)


def scatter(target: Tensor, values: Tensor | None) -> None:
    """Copy rank 0's `values` into `target`, sharded or whole in each process; the other processes pass None."""
    if not isinstance(target, DTensor):
        if values is not None:
            target.detach().copy_(values)
        broadcast(target)
        return
    whole = torch.empty(target.shape, dtype=target.dtype) if values is None else values.to(target.dtype).contiguous()
    broadcast(whole)
    shards = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
    local_tensor(target).copy_(local_tensor(shards))


@contextmanager
def collective(group: ProcessGroup) -> Iterator[None]:
    """A pass of sharded weights, in which all processes take part. Raises PeerLost when one cannot continue."""
    try:
        with peer_errors():
            yield
    except OutOfMemory as error:
        fix = "Set a smaller --micro-batch, or --activation-checkpointing, and go on with --resume."
        raise PeerLost(
            f"memory ran out in process {group.rank}, and the others wait for it: {error}", fix=fix
        ) from error
