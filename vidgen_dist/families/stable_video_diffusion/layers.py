"""Layers over images followed by layers over clips, for the UNet and the decoder. Names are diffusers'.

Source: Blattmann et al. 2023, "Align your Latents" (arXiv:2304.08818): after each layer over images comes a
layer over frames, whose output is mixed with its input.

Letters: B samples, f frames of this rank, N = B * f images, samples first; C channels, H rows, W columns; E
width of the time embedding.
"""

from __future__ import annotations

from vidgen_dist import nn
from vidgen_dist.families.common.unet_layers import ResnetBlock2D, to_clips, to_images
from vidgen_dist.families.stable_video_diffusion.config import GROUPS
from vidgen_dist.parallel.frame_split import FrameSplit, FrameSplitGroupNorm, TemporalConv


class AlphaBlender(nn.Module):
    """Mixes the results of layers over images and over frames, in a learned ratio.

    Args:
        switched: Whether the ratio is the share of the layers over frames.
    """

    def __init__(self, switched: bool = False) -> None:
        super().__init__()
        self._switched = switched
        self.mix_factor = nn.empty_parameter((1,), "mix_factor")

    def share_of_clips(self) -> nn.Tensor:
        """How much of the result comes from layers over frames: (1,). The rest is from those over images."""
        return nn.sigmoid(self.mix_factor if self._switched else nn.multiply(self.mix_factor, -1.0))

    def construct(self, images: nn.Tensor, clips: nn.Tensor) -> nn.Tensor:
        """Both have the same shape."""
        if self._switched:
            images, clips = clips, images
        share, rest = nn.sigmoid(self.mix_factor), nn.sigmoid(nn.multiply(self.mix_factor, -1.0))
        return nn.multiply_add(images, share, nn.multiply(clips, rest))


class TemporalResnetBlock(nn.Module):
    """Two convolutions over frames, whose result is to be added to what goes in.

    The time embedding is added between them.

    Args:
        channels: C.
        temb_channels: E; None without time.
        eps: Epsilon of the norms, which cover the whole clip.
    """

    def __init__(self, channels: int, temb_channels: int | None, eps: float) -> None:
        super().__init__()
        self.norm1 = FrameSplitGroupNorm(GROUPS, channels, eps)
        self.conv1 = TemporalConv(channels, channels)
        self.time_emb_proj = None if temb_channels is None else nn.Linear(temb_channels, channels)
        self.norm2 = FrameSplitGroupNorm(GROUPS, channels, eps)
        self.conv2 = TemporalConv(channels, channels)

    def construct(self, x: nn.Tensor, split: FrameSplit, time: nn.Tensor | None = None) -> nn.Tensor:
        """What is added to x (B, C, f, H, W); with the time embedding (B, E), before its activation."""
        hidden = self.conv1(self.norm1(x, split, silu=True), split)
        if self.time_emb_proj is not None and time is not None:
            hidden = nn.add(hidden, self.time_emb_proj(nn.silu(time))[:, :, None, None, None])
        return self.conv2(self.norm2(hidden, split, silu=True), split)


class SpatioTemporalResBlock(nn.Module):
    """A residual block over images, and one over frames.

    Args:
        in_channels, out_channels: C of input and output.
        temb_channels: E; None without time.
        eps: Epsilon of the norms over images.
        temporal_eps: Epsilon of the norms over frames; by default the same.
        switched: As in `AlphaBlender`.
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
            split: How the clip's frames are divided.
            batch: B.
            time: (B, E), before its activation.

        Returns:
            (N, out_channels, H, W).
        """
        clips = to_clips(self.spatial_res_block(x, time), batch)
        added = self.temporal_res_block(clips, split, time)
        # The mixture of x and x + added, in one pass.
        return to_images(nn.multiply_add(added, self.time_mixer.share_of_clips(), clips))
