"""DDIM as CogVideoX-2b uses it (Song et al. 2020, "Denoising Diffusion Implicit Models")."""

from __future__ import annotations

import numpy as np

from vidgen_dist.schedulers.base import CogVideoXScheduler, scalars


class CogVideoXDDIMScheduler(CogVideoXScheduler):
    """DDIM over a noise schedule whose SNR is shifted; the steps draw no noise."""

    def step(
        self,
        model_output: np.ndarray,
        timestep: int,
        sample: np.ndarray,
        eta: float = 0.0,  # noqa: ARG002
        rng: np.random.Generator | None = None,  # noqa: ARG002
    ) -> np.ndarray:
        """Latents one step on, in the shape and type of `sample`.

        Args:
            model_output: The model's prediction at `timestep`, of `sample`'s shape.
            timestep: One of `timesteps`.
            sample: Latents at `timestep`.
            eta: Taken as every DDIM sampler takes it, without effect: CogVideoX's adds no variance.
            rng: Likewise; nothing is drawn from it.
        """
        alpha, alpha_next, _ = self._alphas(timestep)
        original = self._pred_original_sample(model_output, sample, alpha)
        # Formula (12) of the paper with σ = 0, ε written out as what is left of x_t without x₀.
        keep = ((1 - alpha_next) / (1 - alpha)) ** 0.5
        keep, add = scalars(sample.dtype, keep, alpha_next**0.5 - alpha**0.5 * keep)
        return keep * sample + add * original
