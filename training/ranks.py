"""The processes that train one model together, as `torchrun` starts them; one process is the usual case.

Every process holds the whole model and an equal share of each batch. Gradients are summed over all of them by
`DistributedDataParallel`, and so are the statistics of batch norm, so that a step is the step of the whole batch.
"""

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of the run's processes is this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what a run leaves behind."""
        return self.rank == 0

    def share(self, num_rows: int, block: int = 1, rank: int | None = None) -> slice:
        """Return which of `num_rows` rows are this process's, or another's: as equal as whole blocks allow."""
        rank, num_blocks = self.rank if rank is None else rank, -(-num_rows // block)
        first, end = (num_blocks * number // self.size * block for number in (rank, rank + 1))
        return slice(min(first, num_rows), min(end, num_rows))

    def gathered(self, values: NDArray[np.float32], num_rows: int, block: int = 1) -> NDArray[np.float32]:
        """Return (num_rows,) the values of all processes' shares, in every process alike."""
        if self.size == 1:
            return values
        shares = [self.share(num_rows, block, rank) for rank in range(self.size)]
        longest = max(share.stop - share.start for share in shares)
        mine = torch.zeros(longest)
        mine[: len(values)] = torch.from_numpy(values)
        everybodys = [torch.zeros(longest) for _ in shares]
        dist.all_gather(everybodys, mine)
        parts = [part[: share.stop - share.start] for part, share in zip(everybodys, shares, strict=True)]
        return torch.cat(parts).numpy()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a value over all processes."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def agreed(self, answer: bool) -> bool:
        """Return the first process's answer, in every process."""
        if self.size == 1:
            return answer
        said = torch.tensor([answer], dtype=torch.int32)
        dist.broadcast(said, src=0)
        return bool(said)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def shared(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are those of all processes' batches: the mean of theirs."""
        if self.size == 1:
            return module
        # Batch norm's statistics are shared as they are computed, so they are equal already.
        return DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)


ALONE = Ranks()


@contextmanager
def joined(with_gpu: bool) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone where it started none, or one."""
    size = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
    if size == 1:
        yield ALONE
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if with_gpu:
        torch.cuda.set_device(local_rank)
    store, rank, _ = next(rendezvous("env://"))
    if os.environ["LOCAL_WORLD_SIZE"] == str(size):
        # On one machine torchrun hands the same store to the processes that it starts again, which would look there
        # for addresses of those that died (torch 2.13).
        store = PrefixStore(f"start-{num_restarts()}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpu else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield Ranks(rank, size, local_rank)
    finally:
        # What shares gradients refers to itself. Freed as late as Python ends, it took the process down with it.
        gc.collect()
        dist.destroy_process_group()


def is_first_process() -> bool:
    """Return whether this is the process, of those that torchrun started, that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def launch_name() -> str:
    """Return what names this start of torchrun, and stays the same when it starts its processes again."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} {socket.gethostname()} {os.getppid()}"


def num_restarts() -> int:
    """Return how often torchrun has started its processes again because one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
