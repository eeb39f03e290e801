"""Muon: momentum whose update of a weight matrix is made orthogonal.

Keller Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); with the scale of updates of Liu et
al. 2025 (arXiv:2502.16982), so that Adam's rate serves both. `torch.optim.Muon` computes in bfloat16, which
takes many times as long as float32 on a CPU without AVX-512.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

MOMENTUM = 0.95
WEIGHT_DECAY = 0.01
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives all singular values towards 1."""


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices.

    Args:
        matrices: Each (M, N).
        lr: The rate.
    """

    def __init__(self, matrices: Sequence[torch.nn.Parameter], lr: float) -> None:
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        """Take a step along the gradients that the matrices have."""
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
                matrix.mul_(1 - group["lr"] * WEIGHT_DECAY)
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Roughly the matrix (M, N) of the same singular vectors whose singular values are 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class MuonAndAdam:
    """Muon for the matrices among parameters, AdamW for the rest; used as one optimizer.

    Args:
        parameters: Those of a model.
        lr: The rate of both.
        smallest: Matrices with a side shorter than this are left to AdamW.
        adam: Further arguments of AdamW.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], lr: float, smallest: int, **adam: Any
    ) -> None:
        matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) >= smallest]
        chosen = set(map(id, matrices))
        rest = [p for p in parameters if id(p) not in chosen]
        self._both = (Muon(matrices, lr), torch.optim.AdamW(rest, lr=lr, **adam))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for one in self._both for group in one.param_groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for one in self._both:
            one.zero_grad()

    def step(self) -> None:
        """Take a step."""
        for one in self._both:
            one.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The states of both."""
        return [one.state_dict() for one in self._both]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from saved states."""
        for one, state in zip(self._both, states, strict=True):
            one.load_state_dict(state)
