"""What configs of UNets share: values for all blocks, or one per block. Without MindSpore."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, Config, Items, Positive

PerBlock = Positive | Items[Positive]
"""A number for all blocks of a UNet, or one per block."""


def per_block(value: int | tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """The value for each block."""
    return (value,) * blocks if isinstance(value, int) else value


@dataclass(frozen=True, config=STRICT, kw_only=True)
class BlocksConfig(Config):
    """A config whose lists have one entry per block of a UNet, in the order in which the image is halved."""

    block_out_channels: Items[Positive] = (320, 640, 1280, 1280)

    @property
    def blocks(self) -> int:
        """Number of blocks that halve the image; as many double it."""
        return len(self.block_out_channels)

    @property
    def time_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    def check_groups(self, groups: int) -> None:
        """Check that the groups of norms divide the channels of each block."""
        if any(channels % groups for channels in self.block_out_channels):
            self.refuse("block_out_channels", f"multiples of {groups}, the groups of norms")

    def check_per_block(self, *keys: str) -> None:
        """Check that lists have one entry per block."""
        for key in keys:
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != self.blocks:
                self.refuse(key, f"{self.blocks} entries, one for each of block_out_channels")

    def check_heads(self, key: str) -> None:
        """Check that the heads of each block divide its channels."""
        self.check_per_block(key)
        heads = per_block(getattr(self, key), self.blocks)
        if any(channels % n for channels, n in zip(self.block_out_channels, heads, strict=True)):
            self.refuse(key, f"divisors of block_out_channels, {self.block_out_channels}")
