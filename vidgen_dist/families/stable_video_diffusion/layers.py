"""Layers that look at images and then at clips, in the UNet and in the decoder. Names are diffusers'.

Source: Blattmann et al. 2023, "Align your Latents" (arXiv:2304.08818): layers of images, and behind each a
layer over frames whose output is mixed with what went in.

Letters: B samples, f frames of this rank, N = B * f images, samples first; C channels, H rows, W columns; E
width of the time's embedding.
"""

from __future__ import annotations

from vidgen_dist import nn
from vidgen_dist.families.common.unet_layers import ResnetBlock2D, to_clips, to_images
from vidgen_dist.families.stable_video_diffusion.config import GROUPS
from vidgen_dist.parallel.frame_split import FrameSplit, FrameSplitGroupNorm, TemporalConv


class AlphaBlender(nn.Module):
    """Mixes what layers of images and layers over frames give, in a share that was learnt.

    Args:
        switched: Whether the share is that of the layers over frames.
    """

    def __init__(self, switched: bool = False) -> None:
        super().__init__()
        self._switched = switched
        self.mix_factor = nn.empty_parameter((1,), "mix_factor")

    def construct(self, images: nn.Tensor, clips: nn.Tensor) -> nn.Tensor:
        """Both of one shape."""
        if self._switched:
            images, clips = clips, images
        share, rest = nn.sigmoid(self.mix_factor), nn.sigmoid(nn.multiply(self.mix_factor, -1.0))
        return nn.multiply_add(images, share, nn.multiply(clips, rest))


class TemporalResnetBlock(nn.Module):
    """Two convolutions over frames with a residual; the time's embedding is added between them.

    Args:
        channels: C.
        temb_channels: E; None where there is no time.
        eps: Epsilon of the norms, which are over the whole clip.
    """

    def __init__(self, channels: int, temb_channels: int | None, eps: float) -> None:
        super().__init__()
        self.norm1 = FrameSplitGroupNorm(GROUPS, channels, eps)
        self.conv1 = TemporalConv(channels, channels)
        self.time_emb_proj = None if temb_channels is None else nn.Linear(temb_channels, channels)
        self.norm2 = FrameSplitGroupNorm(GROUPS, channels, eps)
        self.conv2 = TemporalConv(channels, channels)

    def construct(self, x: nn.Tensor, split: FrameSplit, time: nn.Tensor | None = None) -> nn.Tensor:
        """x (B, C, f, H, W), and the time's embedding (B, E), not yet activated: (B, C, f, H, W)."""
        hidden = self.conv1(nn.silu(self.norm1(x, split)), split)
        if self.time_emb_proj is not None and time is not None:
            hidden = nn.add(hidden, self.time_emb_proj(nn.silu(time))[:, :, None, None, None])
        return nn.add(x, self.conv2(nn.silu(self.norm2(hidden, split)), split))


class SpatioTemporalResBlock(nn.Module):
    """A residual block of images, and one over frames.

    Args:
        in_channels, out_channels: C before and behind.
        temb_channels: E; None where there is no time.
        eps: Epsilon of the norms of images.
        temporal_eps: Of the norms over frames; by default the same.
        switched: As `AlphaBlender` has it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temb_channels: int | None,
        eps: float,
        temporal_eps: float | None = None,
        switched: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_res_block = ResnetBlock2D(in_channels, out_channels, temb_channels, GROUPS, eps)
        self.temporal_res_block = TemporalResnetBlock(
            out_channels, temb_channels, eps if temporal_eps is None else temporal_eps
        )
        self.time_mixer = AlphaBlender(switched)

    def construct(
        self, x: nn.Tensor, split: FrameSplit, batch: int, time: nn.Tensor | None = None
    ) -> nn.Tensor:
        """
        Args:
            x: (N, C, H, W).
            split: Where the clip's frames lie.
            batch: B.
            time: (B, E), not yet activated.

        Returns:
            (N, out_channels, H, W).
        """
        clips = to_clips(self.spatial_res_block(x, time), batch)
        return to_images(self.time_mixer(clips, self.temporal_res_block(clips, split, time)))
