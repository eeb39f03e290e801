"""Layers of UNets and of image autoencoders. Parameters are named as in diffusers.

Sources: Rombach et al. 2022 (arXiv:2112.10752) for the networks, He et al. 2015 (arXiv:1512.03385) for their
residual blocks, Vaswani et al. 2017 (arXiv:1706.03762) for attention.

Letters: N images, C channels, H rows, W columns; B samples, each with the same number of images, one sample
    after
another; L tokens, D their width; M tokens of a text, X their width; E width of the time embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

from vidgen_dist import nn
from vidgen_dist.families.common.layers import FeedForward
from vidgen_dist.nn.activations import activated, of_diffusers

NORM_EPS = 1e-5
"""Epsilon of a transformer block's layer norms."""

PROJECTION_EPS = 1e-6
"""Epsilon of the group norm in front of a transformer's blocks."""


class ResnetBlock2D(nn.Module):
    """Two convolutions with a residual; the time embedding is added between them.

    Args:
        in_channels, out_channels: C of input and output.
        temb_channels: E; None without time.
        groups: Groups of the norms.
        eps: Epsilon of the norms.
        activation: diffusers' name for the activation before each convolution.
        output_scale_factor: Divides the sum with the residual.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temb_channels: int | None = None,
        groups: int = 32,
        eps: float = 1e-6,
        activation: str = "silu",
        output_scale_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self._activation = of_diffusers(activation)
        self._scale = output_scale_factor
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = None if temb_channels is None else nn.Linear(temb_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def construct(self, x: nn.Tensor, time: nn.Tensor | None = None) -> nn.Tensor:
        """
        Args:
            x: (N, C, H, W).
            time: (B, E), before its activation.

        Returns:
            (N, out_channels, H, W).
        """
        hidden = self.conv1(activated(self.norm1, self._activation, x))
        if self.time_emb_proj is not None and time is not None:
            shift = repeat_frames(self.time_emb_proj(self._activation(time)), len(x) // len(time))
            hidden = nn.add(hidden, shift[:, :, None, None])
        hidden = self.conv2(activated(self.norm2, self._activation, hidden))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        total = nn.add(x, hidden)
        return total if self._scale == 1 else nn.multiply(total, 1 / self._scale)


def repeat_frames(x: nn.Tensor, frames: int) -> nn.Tensor:
    """Repeat what each sample has, (B, ...), for each of its frames: (B * frames, ...)."""
    if frames == 1:
        return x
    return nn.reshape(nn.stack([x] * frames, 1), (len(x) * frames, *x.shape[1:]))


class Downsample2D(nn.Module):
    """Halve the rows and columns of (N, C, H, W) by a convolution.

    Args:
        channels, out_channels: C of input and output.
        padding: 1: zeros on all sides; 0: only right and below, as in autoencoders.
    """

    def __init__(self, channels: int, out_channels: int, padding: int = 1) -> None:
        super().__init__()
        self._padding = padding
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=2, padding=padding)

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        return self.conv(x if self._padding else nn.pad(x, (0, 1, 0, 1)))


class Upsample2D(nn.Module):
    """Double the rows and columns of (N, C, H, W), or resize to a size, then a convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def construct(self, x: nn.Tensor, size: Sequence[int] | None = None) -> nn.Tensor:
        larger = nn.interpolate_nearest(x, scale=2) if size is None else nn.interpolate_nearest(x, size)
        return self.conv(larger)


class Attention(nn.Module):
    """Attention between tokens, or from tokens to a text's tokens.

    Args:
        query_dim: D.
        cross_attention_dim: X; None: tokens attend to each other.
        heads, head_dim: Number of heads, and their width.
        bias: Whether the maps to queries, keys and values have biases.
    """

    def __init__(
        self, query_dim: int, cross_attention_dim: int | None, heads: int, head_dim: int, bias: bool = False
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self._heads, self._head_dim = heads, head_dim
        self.to_q = nn.Linear(query_dim, inner, bias)
        self.to_k = nn.Linear(cross_attention_dim or query_dim, inner, bias)
        self.to_v = nn.Linear(cross_attention_dim or query_dim, inner, bias)
        # The checkpoint numbers a dropout as 1.
        self.to_out = nn.ModuleList([nn.Linear(inner, query_dim)])

    def construct(self, tokens: nn.Tensor, context: nn.Tensor | None = None) -> nn.Tensor:
        """
        Args:
            tokens: (N, L, D).
            context: (B, M, X): what all images of a sample attend to.

        Returns:
            (N, L, D).
        """
        seen = tokens if context is None else context
        # Images with the same keys are treated as one sequence of queries, so that nothing is repeated.
        q = self._split_heads(self.to_q(tokens), len(seen))
        k, v = (self._split_heads(linear(seen), len(seen)) for linear in (self.to_k, self.to_v))
        mixed = nn.attention(q, k, v).permute(0, 2, 1, 3)
        joined = nn.reshape(mixed, (*tokens.shape[:2], self._heads * self._head_dim))
        return self.to_out[0](joined)

    def of_one(self, context: nn.Tensor) -> nn.Tensor:
        """The result for all tokens if a sample's context is a single token (B, 1, X): (B, 1, D)."""
        return self.to_out[0](self.to_v(context))

    def _split_heads(self, x: nn.Tensor, batch: int) -> nn.Tensor:
        """(..., heads * head_dim) to (batch, heads, all other axes, head_dim)."""
        return nn.reshape(x, (batch, -1, self._heads, self._head_dim)).permute(0, 2, 1, 3)


class PositionTable(nn.Module):
    """Adds a position embedding to a sequence x (N, L, D), L at most `length`.

    Published checkpoints contain the table, `pe` (1, length, D).
    """

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.pe = nn.empty_parameter((1, length, dim), "pe")

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        return nn.add(x, self.pe[:, : x.shape[1]])


class BasicTransformerBlock(nn.Module):
    """Two attentions and a feed-forward, each with a layer norm in front and a residual.

    Args:
        dim: D.
        heads, head_dim: Number of attention heads, and their width.
        cross_attention_dim: X, for the second attention; None: there is no second attention.
        double_self_attention: The second attention is between the tokens, too.
        attention_bias: Whether the maps to queries, keys and values have biases.
        activation: diffusers' name for the feed-forward's activation.
        positions: Length of the position table that is added before each attention; None: there is none.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        cross_attention_dim: int | None = None,
        *,
        double_self_attention: bool = False,
        attention_bias: bool = False,
        activation: str = "geglu",
        positions: int | None = None,
    ) -> None:
        super().__init__()
        self._crosses = not double_self_attention
        self.pos_embed = None if positions is None else PositionTable(positions, dim)
        self.norm1 = nn.LayerNorm(dim, NORM_EPS)
        self.attn1 = Attention(dim, None, heads, head_dim, attention_bias)
        self.norm2 = self.attn2 = None
        if cross_attention_dim is not None or double_self_attention:
            self.norm2 = nn.LayerNorm(dim, NORM_EPS)
            crossed = None if double_self_attention else cross_attention_dim
            self.attn2 = Attention(dim, crossed, heads, head_dim, attention_bias)
        self.norm3 = nn.LayerNorm(dim, NORM_EPS)
        self.ff = FeedForward(dim, activation)

    def construct(self, tokens: nn.Tensor, context: nn.Tensor | None = None) -> nn.Tensor:
        """tokens (N, L, D), and the context of all images of a sample, (B, M, X): (N, L, D)."""
        tokens = nn.add(tokens, self.attn1(self._placed(self.norm1(tokens))))
        if self.norm2 is not None and self.attn2 is not None:
            seen = context if self._crosses else None
            if seen is not None and seen.shape[1] == 1:
                by_sample = nn.reshape(tokens, (len(seen), -1, tokens.shape[2]))
                tokens = nn.reshape(nn.add(by_sample, self.attn2.of_one(seen)), tokens.shape)
            else:
                tokens = nn.add(tokens, self.attn2(self._placed(self.norm2(tokens)), seen))
        return nn.add(tokens, self.ff(self.norm3(tokens)))

    def _placed(self, tokens: nn.Tensor) -> nn.Tensor:
        return tokens if self.pos_embed is None else self.pos_embed(tokens)


class Transformer2DModel(nn.Module):
    """Transformer blocks over the places of an image, with a residual.

    Args:
        heads, head_dim: Number of attention heads, and their width.
        in_channels: C.
        layers: Number of blocks.
        cross_attention_dim: X.
        groups: Groups of the norm in front.
        use_linear_projection: Whether the maps to D and back are linear maps; otherwise 1x1 convolutions,
            whose weights have other shapes.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        in_channels: int,
        layers: int,
        cross_attention_dim: int | None,
        groups: int,
        use_linear_projection: bool,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self._linear = use_linear_projection
        self.norm = nn.GroupNorm(groups, in_channels, PROJECTION_EPS)
        project = nn.Linear if use_linear_projection else lambda i, o: nn.Conv2d(i, o, 1)
        self.proj_in = project(in_channels, inner)
        self.transformer_blocks = nn.ModuleList(
            [BasicTransformerBlock(inner, heads, head_dim, cross_attention_dim) for _ in range(layers)]
        )
        self.proj_out = project(inner, in_channels)

    def construct(self, x: nn.Tensor, context: nn.Tensor) -> nn.Tensor:
        """x (N, C, H, W), and the context of all images of a sample, (B, M, X): (N, C, H, W)."""
        size = x.shape[2:]
        normed = self.norm(x)
        tokens = self.proj_in(to_tokens(normed)) if self._linear else to_tokens(self.proj_in(normed))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        if self._linear:
            return nn.add(x, to_image(self.proj_out(tokens), size))
        return nn.add(x, self.proj_out(to_image(tokens, size)))


def to_tokens(x: nn.Tensor) -> nn.Tensor:
    """(N, C, H, W) to (N, H * W, C)."""
    images, channels = x.shape[:2]
    return nn.copy(nn.reshape(x, (images, channels, -1)).permute(0, 2, 1))


def to_image(tokens: nn.Tensor, size: Sequence[int]) -> nn.Tensor:
    """(N, H * W, C) to (N, C, H, W)."""
    images, _, channels = tokens.shape
    return nn.reshape(tokens.permute(0, 2, 1), (images, channels, *size))


def to_clips(x: nn.Tensor, batch: int) -> nn.Tensor:
    """(B * f, C, H, W) to (B, C, f, H, W)."""
    images, *rest = x.shape
    return nn.copy(nn.reshape(x, (batch, images // batch, *rest)).permute(0, 2, 1, 3, 4))


def to_images(x: nn.Tensor) -> nn.Tensor:
    """(B, C, f, H, W) to (B * f, C, H, W)."""
    batch, channels, frames, *size = x.shape
    return nn.reshape(x.permute(0, 2, 1, 3, 4), (batch * frames, channels, *size))
