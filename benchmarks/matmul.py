"""The machine's ceiling for matrix products, the most that training could reach.

    python -m benchmarks.matmul [--json FILE]

For each dtype, the best of several square and tall shapes: products run back to back for a second, after a warm-up,
and the median of five such seconds counts. 2 m n k operations a product.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

SHAPES = {
    "cpu": [(2048, 2048, 2048), (4096, 2048, 2048), (4096, 4096, 4096)],
    "cuda": [(4096, 4096, 4096), (8192, 8192, 8192), (16384, 8192, 8192)],
}
DTYPES = ("bfloat16", "float32")


def ceiling(dtype: str, shapes: list[tuple[int, int, int]] | None = None, seconds: float = 1.0, rounds: int = 5):
    """(operations a second, the shape that reached them)."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return max((_rate(shape, dtype, device, seconds, rounds), shape) for shape in shapes or SHAPES[device])


def _rate(shape: tuple[int, int, int], dtype: str, device: str, seconds: float, rounds: int) -> float:
    import torch

    m, n, k = shape
    a, b = (torch.randn(size, dtype=getattr(torch, dtype), device=device) for size in ((m, k), (k, n)))
    out = torch.empty(m, n, dtype=a.dtype, device=device)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def run(count: int) -> float:
        wait()
        started = time.perf_counter()
        for _ in range(count):
            torch.mm(a, b, out=out)
        wait()
        return time.perf_counter() - started

    run(3)
    count = max(1, round(3 * seconds / run(3)))
    return 2 * m * n * k * count / statistics.median(run(count) for _ in range(rounds))


def measure() -> dict[str, dict[str, object]]:
    found = {dtype: ceiling(dtype) for dtype in DTYPES}
    return {dtype: {"flops": rate, "shape": shape} for dtype, (rate, shape) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    found = measure()
    for dtype, one in found.items():
        print(f"{dtype}: {one['flops'] / 1e9:,.0f} GFLOP/s, shape {one['shape']}")  # type: ignore[operator]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
