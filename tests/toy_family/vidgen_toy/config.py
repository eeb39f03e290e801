"""The toy's configs."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

from pydantic.dataclasses import dataclass
from vidgen_toy.sampler import TwoStepScheduler

from vidgen_dist.component_config import STRICT, Config, Positive
from vidgen_dist.families.family import Configs


@dataclass(frozen=True, config=STRICT)
class DenoiserConfig(Config):
    """`denoiser/config.json`, and that of the second one."""

    NAME: ClassVar = "ToyDenoiser"

    channels: Positive = 4
    width: Positive = 16
    num_heads: Positive = 4
    num_layers: Positive = 2

    def check(self) -> None:
        if self.width % self.num_heads:
            self.refuse("width", f"a multiple of num_heads, {self.num_heads}")


@dataclass(frozen=True, config=STRICT)
class VaeConfig(Config):
    """`vae/config.json`."""

    NAME: ClassVar = "ToyAutoencoder"

    latent_channels: Positive = 4
    spatial_compression_ratio: Positive = 4


@plain_dataclass(frozen=True)
class ToyConfigs(Configs):
    """The configs of a checkpoint."""

    denoiser: DenoiserConfig
    denoiser_2: DenoiserConfig
    vae: VaeConfig
    scheduler: TwoStepScheduler

    def check(self) -> None:
        for name in ("denoiser", "denoiser_2"):
            denoiser = getattr(self, name)
            if denoiser.channels != self.vae.latent_channels:
                allowed = f"the VAE's latent_channels, {self.vae.latent_channels}"
                self.refuse(name, denoiser, "channels", allowed)
