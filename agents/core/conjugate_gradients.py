"""Conjugate gradients: solves A x = b where A is known only by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """x with A x ≈ b, `(n,)`, for a symmetric positive definite A and `product(v)` = A v.

    At most `steps` products; none more once ‖b - A x‖² falls below `tolerance` · ‖b‖². With exact
    arithmetic n steps solve it, and each brings x nearer in the norm of A (Hestenes & Stiefel 1952;
    Nocedal & Wright 2006, algorithm 5.2). From a direction of no positive curvature on, where A is
    not what it has to be, x stays as it is.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    squared = residual.dot(residual)
    enough = tolerance * squared
    for _ in range(steps):
        if squared <= enough:
            break
        image = product(direction)
        curvature = direction.dot(image)
        if curvature <= 0:
            break
        length = squared / curvature
        x = x + length * direction
        residual = residual - length * image
        before, squared = squared, residual.dot(residual)
        direction = residual + squared / before * direction
    return x
