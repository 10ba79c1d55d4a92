"""Several processes, one model: who they are, how the weights are split, and what they tell each other.

Every rank reads its own rows of a global batch and gives sums, never means; whatever is divided is divided by a
global count, so the number of ranks changes the rounding of an update and nothing else. Weights, gradients and
moments are sharded over all ranks with FSDP2 (`torch.distributed.fsdp.fully_shard`), one block at a time.

Small whole numbers (targets, tokens by modality, flags) go over a CPU group, so that no device is waited for.
"""

from __future__ import annotations

import atexit
import functools
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from mixloom.pipeline.errors import UserError
from mixloom.trainers.config import TrainConfig
from mixloom.trainers.launch import rank_and_world
from mixloom.trainers.model import Model


@dataclass(frozen=True)
class World:
    """The processes of one training; `World()` is a process by itself, for which everything here is free.

    Attributes:
        replicas: whole copies of the weights; `mesh` splits the ranks into so many groups (None when alone).
        numbers, files: CPU groups, one for small numbers and one for the thread that writes checkpoints.
    """

    rank: int = 0
    size: int = 1
    replicas: int = 1
    mesh: Any = None
    numbers: Any = None
    files: Any = None

    @property
    def first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def sum_numbers(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum over all ranks of a host array of any shape, the same on all of them."""
        if self.size == 1:
            return values
        total = torch.from_numpy(np.ascontiguousarray(values)).clone()
        dist.all_reduce(total, group=self.numbers)
        return total.numpy()

    def largest(self, value: int) -> int:
        """Largest value over all ranks."""
        if self.size == 1:
            return value
        most = torch.tensor([value])
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self.numbers)
        return int(most)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        return bool(self.largest(int(flag)))

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Host arrays of one shape [b, ...] from all ranks, in the order of ranks: [b * size, ...]."""
        if self.size == 1:
            return rows
        own = torch.from_numpy(np.ascontiguousarray(rows))
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=self.numbers)
        return torch.cat(parts).numpy()

    def told(self, value: int) -> int:
        """The value that rank 0 gives."""
        if self.size == 1:
            return value
        shared = torch.tensor([value])
        dist.broadcast(shared, 0, group=self.numbers)
        return int(shared)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self.numbers)

    def sum_on_device(self, values: Tensor) -> Tensor:
        """Sum over all ranks of a tensor on the device, in place and without waiting for it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


def join(config: TrainConfig) -> World:
    """The world that torchrun has started this process in. A process joins once and leaves when it ends, for a
    group that was left cannot be entered again; a process group that is there already is used.

    Raises:
        UserError: ranks that `replicas` or `batch_contexts` cannot be divided among; a cuda device too few.
    """
    size = dist.get_world_size() if dist.is_initialized() else rank_and_world()[1]
    if size == 1:
        return World()
    _check(config, size)
    cuda = config.device != "cpu" and torch.cuda.is_available()
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(
                f"rank {local} of this machine has no cuda device: there are {torch.cuda.device_count()}",
                fix="start as many processes as there are devices (torchrun --nproc-per-node)",
            )
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        atexit.register(_leave)
    return _world(config.replicas, "cuda" if cuda else "cpu")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@functools.cache
def _world(replicas: int, device: str) -> World:
    from torch.distributed.device_mesh import init_device_mesh

    rank, size = dist.get_rank(), dist.get_world_size()
    if replicas == 1:
        mesh = init_device_mesh(device, (size,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(device, (replicas, size // replicas), mesh_dim_names=("replicate", "shard"))
    groups = [dist.new_group(backend="gloo") for _ in range(2)]
    return World(rank, size, replicas, mesh, *groups)


def _check(config: TrainConfig, size: int) -> None:
    if size % config.replicas:
        raise UserError(
            f"train.replicas is {config.replicas}, and {size} ranks cannot be split into so many groups",
            fix=f"choose a divisor of {size}",
        )
    parts = size * config.grad_accumulation
    if config.batch_contexts % parts:
        raise UserError(
            f"train.batch_contexts is {config.batch_contexts}, which {size} ranks with grad_accumulation "
            f"{config.grad_accumulation} cannot share evenly",
            fix=f"choose a multiple of {parts}",
        )


def shard(model: Model, world: World, config: TrainConfig, dtype: torch.dtype) -> None:
    """Split the weights of a model on the CPU over the ranks, block by block, each moved to its device alone.

    Blocks compute with weights gathered in `dtype`; embedding, head and last norm stay float32, as the loss needs
    them. Gradients are summed in float32. The root keeps its weights after the forward pass, for the head is read
    after it.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    narrow = None if dtype == torch.float32 else dtype
    inner = MixedPrecisionPolicy(narrow, torch.float32, cast_forward_inputs=False)
    outer = MixedPrecisionPolicy(None, torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(
            block, mesh=world.mesh, mp_policy=inner, reshard_after_forward=config.reshard_after_forward
        )
    # What is not trained is read before the forward pass as well (vectors of image codes), and stays whole.
    fixed = {p for p in model.parameters() if not p.requires_grad}
    fully_shard(model, mesh=world.mesh, mp_policy=outer, reshard_after_forward=False, ignored_params=fixed)


def is_sharded(model: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def synchronise(model: nn.Module, last: bool) -> None:
    """Whether the next backward pass reduces gradients over ranks: only that of the last part of an update."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)


def forget_gathered(model: nn.Module) -> None:
    """Give back weights that a forward pass without a backward pass has left gathered."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; the tensor itself where it is whole."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
