"""Weights that are shared out: over the processes of a team, or between a card and the host's memory (PyTorch's FSDP2).

Each layer is brought together when it is computed, and let go again. Every pass then is an exchange in which all take
part, so all make the same number of them, and what fails in one process fails in all.
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
from bp_core.process_group import Team, launched

from .process_group import answered, broadcast, connect


def shard(
    model: PreTrainedModel,
    device: torch.device,
    *,
    computed: torch.dtype | None = None,
    on_host: bool = False,
    whole: Collection[Parameter] = (),
) -> None:
    """Share the weights out, all but the `whole` ones. Gradients are added up, in float32.

    `computed`: bring trained weights together in this format. `on_host`: shares and gradients are kept on the host.
    """
    connect(device)
    mesh = init_device_mesh(device.type, (launched().size,))
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if on_host else OffloadPolicy()
    format = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=computed and torch.float32)
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    for part in (*layers, model):
        fully_shard(
            part,
            mesh=mesh,
            reshard_after_forward=True,
            mp_policy=format,
            offload_policy=policy,
            ignored_params={*whole},
        )
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # or it would be an operation that Gloo does not have
    for tensor in (*model.buffers(), *whole):
        tensor.data = tensor.data.to(device)


def plain(tensor: Tensor) -> Tensor:
    """The numbers of a tensor that this process has, shared with it: alone it has all."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def together(tensor: Tensor) -> Tensor:
    """All numbers of a tensor. Of one that is shared out, all processes must ask, and get a copy."""
    if isinstance(tensor, DTensor) and tensor.device_mesh.size() > 1:
        whole: Tensor = tensor.full_tensor()
        return whole.detach()
    return plain(tensor)


def share_out(target: Tensor, values: Tensor | None) -> None:
    """Give every process its share of what rank 0 has; the others have None."""
    assert isinstance(target, DTensor)
    told = torch.empty(target.shape, dtype=target.dtype) if values is None else values.to(target.dtype).contiguous()
    broadcast(told)
    mine = distribute_tensor(told, target.device_mesh, target.placements, src_data_rank=None)
    plain(target).copy_(plain(mine))


@contextmanager
def passing(team: Team) -> Iterator[None]:
    """A pass in which all take part. Raises PeerLost where one cannot go on."""
    try:
        with answered():
            yield
    except OutOfMemory as error:
        fix = "Set a smaller --micro-batch, or --activation-checkpointing, and go on with --resume."
        raise PeerLost(
            f"memory ran out in process {team.rank}, and the others wait for it: {error}", fix=fix
        ) from error
