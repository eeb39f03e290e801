"""What configs of UNets have in common: values that are one for all blocks, or one for each. No MindSpore."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from vidgen_dist.config import STRICT, Config, Items, Positive

PerBlock = Positive | Items[Positive]
"""A number for all blocks of a UNet, or one for each."""


def per_block(value: int | tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """The value of each block."""
    return (value,) * blocks if isinstance(value, int) else value


@dataclass(frozen=True, config=STRICT, kw_only=True)
class BlocksConfig(Config):
    """A config whose lists have an entry for each block of a UNet, in the order of the way down."""

    block_out_channels: Items[Positive] = (320, 640, 1280, 1280)

    @property
    def blocks(self) -> int:
        """Blocks on the way down, and as many on the way up."""
        return len(self.block_out_channels)

    @property
    def time_dim(self) -> int:
        """Width of the time's embedding."""
        return 4 * self.block_out_channels[0]

    def check_groups(self, groups: int) -> None:
        """See that the groups of norms divide the channels of each block."""
        if any(channels % groups for channels in self.block_out_channels):
            self.refuse("block_out_channels", f"multiples of {groups}, the groups of norms")

    def check_per_block(self, *keys: str) -> None:
        """See that lists have an entry for each block."""
        for key in keys:
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != self.blocks:
                self.refuse(key, f"{self.blocks} entries, one for each of block_out_channels")

    def check_heads(self, key: str) -> None:
        """See that the heads of each block divide its channels."""
        self.check_per_block(key)
        heads = per_block(getattr(self, key), self.blocks)
        if any(channels % n for channels, n in zip(self.block_out_channels, heads, strict=True)):
            self.refuse(key, f"divisors of block_out_channels, {self.block_out_channels}")
