"""What one gang needs and how long it takes for a video: bytes a rank, bytes it sends, seconds.

An estimate, for choosing between splits: it counts the arithmetic of blocks and convolutions, what is sent
and what of that no arithmetic hides, and what each operator and each exchange costs however small it is. It
leaves out the loading of the model and the writing of files, and that exchanges which are under way at the
same time share the links.

Letters: N tokens of a sample that attend to each other, D width of the transformer, P ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vidgen_dist.families.common.costs import ITEM_SIZES, Component, Convolution, ModelSize, Stack, Workload
from vidgen_dist.parallel.mesh import Degrees
from vidgen_dist.planner.devices import Device, Link

GATHERED_BLOCKS = 2
"""Whole blocks that a rank of a gang holds at once: the one that runs and the next one."""

# Tensors of a convolution's input that are in memory at once: the shortcut, the normed one, what scales it,
# and the one with the frames and edges around it. On CPU, 17 frames of 240x360 through a decoder of 32 to 128
# channels took 1,397 MiB; this gives 1,375.
_CONVOLUTION_ALIVE = 4
# Operators that go with each convolution: norm, activation, padding.
_CONVOLUTION_OPERATORS = 8
# A rank that has rows above and below exchanges edges with two others, and the norm's moments with all.
_EXCHANGES_OF_CONVOLUTION = 2


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Args:
        weights: By component, what the rank keeps.
        stages: By stage (encode, denoise, decode), what comes on top while it runs: gathered blocks and
            activations.
    """

    weights: Mapping[str, int]
    stages: Mapping[str, int]

    @property
    def peak(self) -> int:
        """At the fullest stage."""
        return sum(self.weights.values()) + max(self.stages.values())

    @property
    def fullest(self) -> str:
        """The stage with the peak."""
        return max(self.stages, key=lambda stage: self.stages[stage])


@dataclass(frozen=True)
class Seconds:
    """How long a video takes.

    Args:
        encode: Prompts, and an image or clip.
        compute: Arithmetic of one denoising step, operators' own costs with it.
        waiting: Of one step, exchanges that no arithmetic hides.
        decode: Latents to frames.
        steps: Denoising steps.
    """

    encode: float
    compute: float
    waiting: float
    decode: float
    steps: int

    @property
    def step(self) -> float:
        """One denoising step."""
        return self.compute + self.waiting

    @property
    def video(self) -> float:
        """All of it."""
        return self.encode + self.steps * self.step + self.decode


@dataclass(frozen=True)
class Estimate:
    """One gang and one video.

    Args:
        degrees: How the gang divides the work.
        memory: Bytes of its fullest rank.
        sent: Bytes that a rank sends in a denoising step, by purpose.
        seconds: How long it takes.
        usable: Bytes that a rank may take.
    """

    degrees: Degrees
    memory: Memory
    sent: Mapping[str, int]
    seconds: Seconds
    usable: int

    @property
    def fits(self) -> bool:
        """Whether the fullest rank has room."""
        return self.memory.peak <= self.usable


def estimate(
    size: ModelSize,
    work: Workload,
    device: Device,
    degrees: Degrees,
    *,
    dtype: str = "bfloat16",
    memory: int | None = None,
) -> Estimate:
    """What a gang needs and how long it takes.

    Args:
        size: The checkpoint.
        work: The video.
        device: What the ranks are.
        degrees: The gang.
        dtype: Of weights and activations.
        memory: Bytes of one NPU; by default the device's.
    """
    model = _Gang(size, work, device, degrees, dtype)
    return Estimate(
        degrees=degrees,
        memory=model.memory(),
        sent=model.sent(),
        seconds=model.seconds(),
        usable=int((device.memory if memory is None else memory) * device.usable),
    )


def ulysses_bytes(tokens: int, width: int, degrees: Degrees, item: int) -> int:
    """Sent by a rank for one attention of one sample: 4 N D (P - 1) / P² numbers at ring 1."""
    p = degrees.ulysses
    return 4 * tokens * width * (p - 1) * item // (degrees.ring * p * p)


def ring_bytes(tokens: int, width: int, degrees: Degrees, item: int) -> int:
    """Sent by a rank for one attention of one sample: 2 N D (P - 1) / P numbers at ulysses 1."""
    return 2 * tokens * width * (degrees.ring - 1) * item // (degrees.ring * degrees.ulysses)


def gathered_bytes(weights: int, ranks: int) -> int:
    """Received by a rank that gathers weights of which it has its share, and sent by it to all others."""
    return weights * (ranks - 1) // ranks


@dataclass(frozen=True)
class _Gang:
    """The figures of one gang, from which everything else follows."""

    size: ModelSize
    work: Workload
    device: Device
    degrees: Degrees
    dtype: str

    @property
    def _item(self) -> int:
        return ITEM_SIZES[self.dtype]

    @property
    def _stack(self) -> Stack:
        return self.size.denoiser.stack

    @property
    def _blocks(self) -> int:
        """Blocks of a step that see all tokens."""
        return self._stack.blocks or len(self.size.denoiser.blocks)

    @property
    def _sequence(self) -> int:
        """Ranks that share a sample's tokens."""
        return self.degrees.ulysses * self.degrees.ring

    @property
    def _samples(self) -> int:
        """Samples of a step that one rank works on."""
        return -(-self.work.samples // self.degrees.cfg)

    # Memory

    def memory(self) -> Memory:
        tokens = -(-self.work.attending // self._sequence)
        # The positions' table of cosines and sines, in float32.
        denoise = int(tokens * self._stack.width * self._held()) * self._item + 8 * tokens * (
            self._stack.width // self._stack.heads
        )
        frames = 4 * 3 * self.work.height * self.work.width
        clip = self._convolution_memory(self.size.vae.encoder, self.work.encoded_frames)
        return Memory(
            weights={part.name: self._kept(part) for part in self.size.components},
            stages={
                "encode": max(self._text_memory(), clip + frames * self.work.encoded_frames),
                "denoise": self._gathered(self.size.denoiser) + denoise,
                "decode": self._convolution_memory(self.size.vae.decoder, self.work.frames_at_once)
                + frames * self.work.frames,
            },
        )

    def _text_memory(self) -> int:
        """Gathered blocks and activations of what encodes a prompt."""
        if self.size.text_encoder is None:
            return 0
        stack, length = self.size.text_encoder.stack, self.work.text_tokens
        activations = int(length * stack.width * stack.alive) * self._item + 4 * stack.heads * length**2
        return self._gathered(self.size.text_encoder) + activations

    def _held(self) -> float:
        """Tensors of (tokens, D) at the fullest moment of a step, of all samples."""
        one = self._stack.alive + self._exchanged()
        further = one if self._stack.waiting is None else self._stack.waiting
        return one + (self._samples - 1) * further

    def _kept(self, part: Component) -> int:
        shared = sum(part.blocks) + part.tables
        return (-(-shared // self.degrees.size) + part.rest) * self._item

    def _gathered(self, part: Component) -> int:
        blocks = min(GATHERED_BLOCKS, len(part.blocks)) if self.degrees.size > 1 else 0
        return blocks * part.largest_block * self._item

    def _exchanged(self) -> int:
        """Tensors of (tokens, D) that travel: queries, keys, values; keys and values here and on the way."""
        return (3 if self.degrees.ulysses > 1 else 0) + (4 if self.degrees.ring > 1 else 0)

    def _convolution_memory(self, convolutions: tuple[Convolution, ...], frames: int) -> int:
        """Activations of the fullest convolution, and the frames that each keeps for the next batch."""
        if not frames:
            return 0
        frames = min(frames, self.work.frames_at_once)
        rows, columns = self._parts()
        largest = kept = 0
        for conv in convolutions:
            pixels = max(rows) * max(columns) * conv.pixels**2
            history = conv.kernel[0] - 1
            inputs = _CONVOLUTION_ALIVE * conv.inputs * (frames * conv.frames + history)
            largest = max(largest, int((inputs + conv.outputs * frames * conv.frames) * pixels))
            kept += int(history * conv.inputs * pixels)
        return (largest + kept) * self._item

    def _parts(self) -> tuple[list[int], list[int]]:
        """What the fullest rank puts through the autoencoder of a frame: rows and columns of each part."""
        if self.work.vae_tiles is not None:
            return self.work.vae_tiles.sizes(self.work.height, self.work.width)
        rows = self.work.latent_rows
        return [-(-rows // self.degrees.size) * self.work.height // rows], [self.work.width]

    # What is sent

    def sent(self) -> dict[str, int]:
        """Bytes that a rank sends in one step, by purpose."""
        stack = self._stack
        of_step = self._samples * self._blocks
        latents = self.work.latents * self._item
        return {
            "ulysses": of_step * ulysses_bytes(self.work.attending, stack.width, self.degrees, self._item),
            "ring": of_step * ring_bytes(self.work.attending, stack.width, self.degrees, self._item),
            # What was predicted is put together, then the halves of guidance change it.
            "tokens": gathered_bytes(self._samples * latents, self._sequence),
            "cfg": latents * (self.degrees.cfg - 1),
            "weights": gathered_bytes(sum(self.size.denoiser.blocks) * self._item, self.degrees.size),
        }

    # Seconds

    def seconds(self) -> Seconds:
        compute, waiting = self._step()
        return Seconds(
            encode=self._encode(),
            compute=compute,
            waiting=waiting,
            decode=self._decode(),
            steps=self.work.steps,
        )

    def _step(self) -> tuple[float, float]:
        """Arithmetic of a step, and what is waited for."""
        stack, part = self._stack, self.size.denoiser
        queries = -(-self.work.attending // self.degrees.ring)
        # Heads of all samples together are divided; the fullest rank is waited for.
        pairs = self._samples * stack.heads
        heads = -(-pairs // self.degrees.ulysses) / pairs
        local = -(-self.work.attending // self._sequence)
        attention = 4 * self._samples * queries * self.work.attending * stack.width * heads / self._matmul
        linear = 2 * self._samples * local * stack.linear / self._matmul
        if not self.work.text_joins:
            linear += 4 * self._samples * local * self.work.text_tokens * stack.width / self._matmul
        compute = max(attention + linear, self._reading(part)) + self._overhead(stack.operators)
        blocks, sent = self._blocks, self.sent()
        gather = self._exchange(sent["weights"] / blocks, self.degrees.size, stride=1)
        waiting = (
            # Queries, keys and values in one, and what comes of them.
            self._exchange(sent["ulysses"] / blocks, self.degrees.ulysses, stride=1, times=2)
            + self._ring(sent["ring"] / blocks, attention)
            + self._beyond(gather, compute)
        )
        once = (
            # The first block's weights do not travel ahead.
            min(gather, compute)
            + self._exchange(sent["tokens"], self._sequence, stride=1)
            + self._exchange(sent["cfg"], self.degrees.cfg, stride=self._sequence)
        )
        return blocks * compute, blocks * waiting + once

    def _ring(self, sent: float, attention: float) -> float:
        """The next keys and values travel while these are worked on."""
        hops = self.degrees.ring - 1
        if not hops:
            return 0.0
        link = self._link(self.degrees.ring, stride=self.degrees.ulysses)
        hop = sent / hops / (link.to_one * self.device.link_share) + link.latency
        return hops * self._beyond(hop, attention / self.degrees.ring) + hops * self._overhead(3)

    def _encode(self) -> float:
        """Prompt, then image or clip."""
        batches = -(-self.work.encoded_frames // self.work.frames_at_once)
        pixels = self._convolve(self.size.vae.encoder, self.work.encoded_frames, batches)
        return self._encode_text() + pixels

    def _encode_text(self) -> float:
        """Every rank encodes the row's prompt, the next block's weights under way.

        The negative prompt is that of many rows, and is kept from the first of them.
        """
        part = self.size.text_encoder
        if part is None:
            return 0.0
        stack, length = part.stack, self.work.text_tokens
        linear = 2 * length * stack.linear / self._matmul
        attention = 4 * length**2 * stack.width / self._matmul
        compute = max(linear + attention, self._reading(part)) + self._overhead(stack.operators)
        weights = gathered_bytes(part.largest_block * self._item, self.degrees.size)
        gather = self._exchange(weights, self.degrees.size, stride=1)
        return len(part.blocks) * (compute + self._beyond(gather, compute)) + min(gather, compute)

    def _decode(self) -> float:
        frames = self.work.frames + self.work.repeated_frames
        return self._convolve(self.size.vae.decoder, frames, self.work.batches)

    def _convolve(self, convolutions: tuple[Convolution, ...], frames: int, batches: int) -> float:
        """Frames through one half of the autoencoder; edges and moments are waited for, but for tiles'."""
        rate = self._peak * self.device.convolution_share
        link = self._link(self.degrees.size, stride=1)
        rows, columns = self._parts()
        exchanges = self.degrees.size > 1 and self.work.vae_tiles is None
        batches *= len(rows) * len(columns)
        seconds = 0.0
        for conv in convolutions if frames else ():
            pixels = sum(rows) * sum(columns) * conv.pixels**2
            seconds += 2 * conv.weights * frames * conv.frames * pixels / rate
            seconds += batches * self._overhead(_CONVOLUTION_OPERATORS)
            if exchanges and conv.kernel[1] > 1:
                edge = conv.inputs * frames * conv.frames * self.work.width * conv.pixels * self._item
                seconds += edge * (conv.kernel[1] // 2) / (link.to_one * self.device.link_share)
                seconds += batches * _EXCHANGES_OF_CONVOLUTION * link.latency
        return seconds

    @property
    def _peak(self) -> float:
        """Operations a second."""
        return self.device.tflops[self.dtype] * 1e12

    @property
    def _matmul(self) -> float:
        return self._peak * self.device.matmul_share

    def _reading(self, part: Component) -> float:
        """Seconds in which a block's weights come from memory: with few tokens, more than the arithmetic."""
        bandwidth = self.device.memory_bandwidth * self.device.memory_share
        return part.largest_block * self._item / bandwidth

    def _overhead(self, operators: int) -> float:
        return operators * self.device.operator_seconds

    @staticmethod
    def _beyond(exchange: float, compute: float) -> float:
        """Seconds of an exchange that the arithmetic beside it does not hide."""
        return max(0.0, exchange - compute)

    # Links

    def _on_host(self, ranks: int, stride: int) -> int:
        """How many of a group's ranks share a host, the gang's ranks lying one after another on its hosts."""
        return min(ranks, max(1, self.device.npus_per_host // stride))

    def _link(self, ranks: int, stride: int) -> Link:
        """The slowest link within a group."""
        return self.device.inside if self._on_host(ranks, stride) == ranks else self.device.between

    def _exchange(self, sent: float, ranks: int, *, stride: int, times: int = 1) -> float:
        """Seconds of an exchange in which a rank sends as much to each other one.

        Args:
            sent: Bytes to all others together.
            ranks: Of the group.
            stride: How far apart its ranks are in the gang.
            times: In how many parts it is done.
        """
        if ranks == 1:
            return 0.0
        near = self._on_host(ranks, stride) - 1
        far = ranks - 1 - near
        to_each = sent / (ranks - 1)
        inside, between = self.device.inside, self.device.between
        seconds = to_each * far / between.bandwidth
        if near:
            seconds = max(seconds, to_each * near / min(inside.bandwidth, near * inside.to_one))
        return seconds / self.device.link_share + times * self._link(ranks, stride).latency
