"""Which library multiplies matrices: oneDNN, where it is as exact as MKL and faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

WORTH = 2**22
"""Multiplications in the largest product of an update beyond which oneDNN was measured faster: it
begins each product later, the small ones too. They are 64 rows through 256 x 256 weights."""


@contextmanager
def fast_products(largest: int) -> Iterator[None]:
    """Lets oneDNN multiply float32 matrices on the CPU, where that is worth while and exact.

    `largest` is the number of multiplications in the largest product to come. PyTorch gives float32
    products to MKL, which holds back on other processors than Intel's: on AMD's with AVX-512 oneDNN
    takes half the time.
    """
    if largest <= WORTH or not exact():
        yield
        return
    with _onednn():
        yield


@cache
def exact() -> bool:
    """Whether this machine's oneDNN multiplies float32 matrices by AVX-512, without rounding them.

    PyTorch calls it only where it is allowed to round to bfloat16, which it does on processors with
    instructions for that (AMX) and not on others.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.backends.mkldnn, "matmul")):
        return False  # the latter came with PyTorch 2.9
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    with _onednn():
        product = a @ b
    error = (product.double() - a.double() @ b.double()).abs().max()
    return error.item() < 1e-3  # of entries near 16; rounded to bfloat16 they are off by 0.1


@contextmanager
def _onednn() -> Iterator[None]:
    backend: Any = torch.backends.mkldnn
    setting = backend.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before
