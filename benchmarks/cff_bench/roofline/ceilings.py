"""The ceilings of a machine, from raw timings, and what they allow a node at best.

A node needs at least the time of its operations at the GEMM ceiling, and at least the time of its
bytes at the bandwidth of the level they fit in; the larger one bounds it. Where that is the bytes,
the node is memory-bound: a faster product would not help it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cff_bench.roofline.bandwidth import BEYOND, Transfer
from cff_bench.roofline.gemm import Gemm
from cff_bench.roofline.profiling import NodeTime
from cff_bench.timing import Samples


@dataclass(frozen=True)
class Ceilings:
    """Of one number of threads.

    Attributes
    ----------
    threads : int
    gflops : mapping of str to float
        Precision to the fastest product, 10^9 operations a second.
    fastest : mapping of str to str
        Precision to the name of that product.
    gbps : mapping of str to float
        Level to the fastest transfer, 10^9 bytes a second, nearest level first.
    level_bytes : mapping of str to int
        What the caches hold.
    """

    threads: int
    gflops: Mapping[str, float]
    fastest: Mapping[str, str]
    gbps: Mapping[str, float]
    level_bytes: Mapping[str, int]

    def bandwidth(self, n_bytes: int) -> float:
        """Return the bandwidth, 10^9 bytes a second, of the level that holds this much."""
        for level, size in self.level_bytes.items():
            if n_bytes <= size and level in self.gbps:
                return self.gbps[level]
        return self.gbps[BEYOND]

    def compute_us(self, node: NodeTime) -> float:
        """Return the least time of a node's operations."""
        return node.flops / self.gflops[node.precision] / 1e3

    def memory_us(self, node: NodeTime) -> float:
        """Return the least time of a node's bytes."""
        return node.moved_bytes / self.bandwidth(node.moved_bytes) / 1e3

    def bound_us(self, node: NodeTime) -> float:
        """Return the least time of a node."""
        return max(self.compute_us(node), self.memory_us(node))

    def is_memory_bound(self, node: NodeTime) -> bool:
        """Whether its bytes need longer than its operations."""
        return self.memory_us(node) > self.compute_us(node)


def find_ceilings(
    threads: int,
    gemms: Sequence[Gemm],
    transfers: Sequence[Transfer],
    samples: Mapping[str, Samples],
    caches: Mapping[str, tuple[int, int]],
) -> Ceilings:
    """Return the fastest product of each precision and the fastest transfer of each level.

    Medians are compared, so that a ceiling is what the machine keeps up, not its luckiest moment.
    """
    gflops: dict[str, float] = {}
    fastest: dict[str, str] = {}
    for gemm in gemms:
        rate = gemm.flops / samples[gemm.name].summary.p50_ms / 1e6
        if rate > gflops.get(gemm.precision, 0.0):
            gflops[gemm.precision], fastest[gemm.precision] = rate, gemm.name
    gbps: dict[str, float] = {}
    for transfer in transfers:
        rate = transfer.moved_bytes / samples[transfer.name].summary.p50_ms / 1e6
        gbps[transfer.level] = max(rate, gbps.get(transfer.level, 0.0))
    held = {level: size * max(1, threads // sharing) for level, (size, sharing) in caches.items()}
    return Ceilings(threads, gflops, fastest, gbps, held)
