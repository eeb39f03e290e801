"""What one gang needs for a video, and how long it takes: bytes that a rank holds and sends, and seconds.

This is an estimate for choosing between splits. It counts the arithmetic of blocks and convolutions,
exchanges that no arithmetic hides, and the fixed costs of each operator and each exchange. It leaves out
loading the model and writing files, and it ignores that concurrent exchanges share links. Each denoiser
describes what a denoising step computes, holds and sends (`common.costs.Denoiser`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vidgen_dist.families.common.costs import ITEM_SIZES, ComponentSize, Convolution, ModelSize, Workload
from vidgen_dist.families.common.step_costs import Exchange, Segment, Step, gathered_bytes
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner.devices import Device, Link

# Tensors of a convolution's input in memory at the same time: the shortcut, the normed input, its scale, and
# the input with the frames and edges around it. On CPU, 17 frames of 240x360 through a decoder of 32 to 128
# channels took 1,397 MiB; this gives 1,375.
_CONVOLUTION_ALIVE = 4
# Operators per convolution: itself, norm, activation, padding.
_CONVOLUTION_OPERATORS = 8
# Operators that send something to a neighbour and join what another one sends.
_OPERATORS_OF_NEXT = 3
# A rank with rows above and below exchanges edges with two others, and the norm's moments with all.
_EXCHANGES_OF_CONVOLUTION = 2


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one rank.

    Args:
        weights: Component -> bytes that the rank keeps.
        stages: Stage (encode, denoise, decode) -> further bytes while it runs: gathered blocks and
            activations.
    """

    weights: Mapping[str, int]
    stages: Mapping[str, int]

    @property
    def peak(self) -> int:
        """Bytes in the stage that needs most."""
        return sum(self.weights.values()) + max(self.stages.values())

    @property
    def fullest(self) -> str:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: self.stages[stage])


@dataclass(frozen=True)
class Seconds:
    """How long a video takes.

    Args:
        encode: Encoding prompts, and an image or clip.
        compute: Arithmetic of one denoising step, including the fixed costs of operators.
        waiting: Exchanges of one step that no arithmetic hides.
        decode: Decoding latents to frames.
        steps: Number of denoising steps.
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
        """The whole video."""
        return self.encode + self.steps * self.step + self.decode


@dataclass(frozen=True)
class Estimate:
    """The estimate for one gang and one video.

    Args:
        degrees: How the gang divides the work.
        memory: Bytes of the rank that needs most.
        sent: Bytes that a rank sends in a denoising step, by purpose.
        seconds: How long it takes.
        usable: Bytes that a rank may use.
    """

    degrees: Degrees
    memory: MemoryUse
    sent: Mapping[str, int]
    seconds: Seconds
    usable: int

    @property
    def fits(self) -> bool:
        """Whether the rank that needs most has enough memory."""
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
    """Estimate what a gang needs, and how long it takes.

    Args:
        size: The checkpoint's size.
        work: The video.
        device: The device of each rank.
        degrees: How the gang divides the work.
        dtype: Dtype of weights and activations.
        memory: Bytes of one NPU; by default the device's.
    """
    model = _GangCosts(size, work, device, degrees, dtype)
    return Estimate(
        degrees=degrees,
        memory=model.memory(),
        sent=model.sent(),
        seconds=model.seconds(),
        usable=int((device.memory if memory is None else memory) * device.usable),
    )


@dataclass(frozen=True)
class _GangCosts:
    """The inputs for one gang; everything is computed from these."""

    size: ModelSize
    work: Workload
    device: Device
    degrees: Degrees
    dtype: str

    @property
    def _item(self) -> int:
        return ITEM_SIZES[self.dtype]

    @property
    def _step(self) -> Step:
        return self.size.denoiser.step(self.work, self.degrees, self._item)

    # Memory

    def memory(self) -> MemoryUse:
        frames = 4 * 3 * self.work.height * self.work.width
        vae, denoiser = self.size.vae, self.size.denoiser
        clip = self._convolution_memory(vae.encoder, min(self.work.encoded_frames, self.work.frames_at_once))
        return MemoryUse(
            weights={part.name: self._kept(part) for part in self.size.components},
            stages={
                "encode": max(self._text_memory(), clip + frames * self.work.encoded_frames),
                "denoise": self._gathered(denoiser)
                + denoiser.activations(self.work, self.degrees, self._item),
                "decode": self._convolution_memory(vae.decoder, self._decoded()[0])
                + frames * self.work.frames,
            },
        )

    def _text_memory(self) -> int:
        """Gathered blocks and activations of the prompt's encoder."""
        if self.size.text_encoder is None:
            return 0
        stack, length = self.size.text_encoder.stack, self.work.text_tokens
        activations = int(length * stack.width * stack.alive) * self._item + 4 * stack.heads * length**2
        return self._gathered(self.size.text_encoder) + activations

    def _kept(self, part: ComponentSize) -> int:
        shared = sum(part.blocks) + part.tables
        return (-(-shared // self.degrees.size) + part.rest) * self._item

    def _gathered(self, part: ComponentSize) -> int:
        return part.gathered * self._item if self.degrees.size > 1 else 0

    def _convolution_memory(self, convolutions: tuple[Convolution, ...], frames: int) -> int:
        """Activations of the largest convolution, and the frames that each keeps for the next batch."""
        keeps = self.size.vae.divides == "rows"
        if not frames:
            return 0
        rows, columns = self._parts()
        largest = kept = 0
        for conv in convolutions:
            pixels = max(rows) * max(columns) * conv.pixels**2
            history = conv.kernel[0] - 1
            inputs = _CONVOLUTION_ALIVE * conv.inputs * (frames * conv.frames + history)
            largest = max(largest, int((inputs + conv.outputs * frames * conv.frames) * pixels))
            kept += int(history * conv.inputs * pixels) if keeps else 0
        return (largest + kept) * self._item

    def _parts(self) -> tuple[list[int], list[int]]:
        """Rows and columns of each part of a frame that the busiest rank puts through the autoencoder."""
        if self.work.vae_tiles is not None:
            return self.work.vae_tiles.sizes(self.work.height, self.work.width)
        if self.size.vae.divides != "rows":
            return [self.work.height], [self.work.width]
        rows = self.work.latent_rows
        return [-(-rows // self.degrees.size) * self.work.height // rows], [self.work.width]

    def _decoded(self) -> tuple[int, int, int]:
        """Of the busiest rank: frames of its largest batch, frames of all its batches, number of batches."""
        work, ranks = self.work, self.degrees.size
        frames = work.frames + work.repeated_frames
        if self.size.vae.divides == "rows":
            return work.frames_at_once, frames, work.batches
        if self.size.vae.divides == "frames":
            own = -(-frames // ranks)
            at_once = min(work.frames_at_once, own)
            return at_once, own, -(-own // at_once)
        last = frames - (work.batches - 1) * work.frames_at_once
        at_once = -(-work.frames_at_once // ranks)
        return at_once, (work.batches - 1) * at_once - (-last // ranks), work.batches

    # What is sent

    def sent(self) -> dict[str, int]:
        """Bytes that a rank sends in one step, by purpose."""
        return self._step.sent

    # Seconds

    def seconds(self) -> Seconds:
        compute, waiting = self._of_step()
        return Seconds(
            encode=self._encode(),
            compute=compute,
            waiting=waiting,
            decode=self._decode(),
            steps=self.work.steps,
        )

    def _of_step(self) -> tuple[float, float]:
        """Seconds of a step's arithmetic, and seconds of waiting."""
        step = self._step
        computes = [self._computing(segment) for segment in step.segments]
        waiting = ends = 0.0
        for segment, compute in zip(step.segments, computes, strict=True):
            waits = sum(map(self._exchanging, segment.exchanges))
            waits += self._beyond(self._gathering(segment.gathered), compute)
            waiting += segment.times * waits
            # The first weights cannot be gathered ahead.
            ends += min(self._gathering(segment.ahead), compute)
        for exchange in step.ends:
            ends += self._exchanging(exchange)
        total = sum(segment.times * each for segment, each in zip(step.segments, computes, strict=True))
        return total, waiting + ends

    def _computing(self, segment: Segment) -> float:
        """Seconds of arithmetic in one run of a segment."""
        arithmetic = sum(part / self._matmul for part in segment.products)
        arithmetic += segment.convolved / self._convolving
        return max(arithmetic, self._reading(segment.read)) + self._overhead(segment.operators)

    def _gathering(self, weights: float) -> float:
        """Seconds of gathering weights, of which this rank sends so many bytes."""
        return self._exchange(weights, self.degrees.size, stride=1)

    def _exchanging(self, exchange: Exchange) -> float:
        """Seconds of an exchange that no arithmetic hides."""
        if exchange.way == "all":
            return self._exchange(exchange.sent, exchange.ranks, stride=exchange.stride, times=exchange.times)
        if not exchange.times or exchange.ranks == 1:
            return 0.0
        link = self._link(exchange.ranks, exchange.stride)
        each = exchange.sent / exchange.times / (link.to_one * self.device.link_share) + link.latency
        beside = exchange.beside / self._matmul / (exchange.times + 1)
        return exchange.times * self._beyond(each, beside) + exchange.times * self._overhead(
            _OPERATORS_OF_NEXT
        )

    def _encode(self) -> float:
        """Seconds of encoding the prompt, then an image or clip."""
        batches = -(-self.work.encoded_frames // self.work.frames_at_once)
        pixels = self._convolve(self.size.vae.encoder, self.work.encoded_frames, batches)
        return self._encode_text() + pixels

    def _encode_text(self) -> float:
        """Every rank encodes the row's prompt, while the next block's weights are gathered.

        Many rows share the negative prompt, which is cached after the first of them.
        """
        part = self.size.text_encoder
        if part is None:
            return 0.0
        stack, length = part.stack, self.work.text_tokens
        linear = 2 * length * stack.linear / self._matmul
        attention = 4 * length**2 * stack.width / self._matmul
        compute = max(linear + attention, self._reading(part.largest_block * self._item)) + self._overhead(
            stack.operators
        )
        weights = gathered_bytes(part.largest_block * self._item, self.degrees.size)
        gather = self._exchange(weights, self.degrees.size, stride=1)
        return len(part.blocks) * (compute + self._beyond(gather, compute)) + min(gather, compute)

    def _decode(self) -> float:
        _, frames, batches = self._decoded()
        return self._convolve(self.size.vae.decoder, frames, batches)

    def _convolve(self, convolutions: tuple[Convolution, ...], frames: int, batches: int) -> float:
        """Seconds of this rank's frames in one half of the autoencoder, including waiting for other ranks."""
        link = self._link(self.degrees.size, stride=1)
        rows, columns = self._parts()
        batches *= len(rows) * len(columns)
        seconds = 0.0
        for conv in convolutions if frames else ():
            pixels = sum(rows) * sum(columns) * conv.pixels**2
            seconds += 2 * conv.weights * frames * conv.frames * pixels / self._convolving
            seconds += batches * self._overhead(_CONVOLUTION_OPERATORS)
            edge = self._edge(conv, frames, batches)
            if edge:
                seconds += edge / (link.to_one * self.device.link_share)
                seconds += batches * _EXCHANGES_OF_CONVOLUTION * link.latency
        return seconds

    def _edge(self, conv: Convolution, frames: int, batches: int) -> float:
        """Bytes that a rank sends to each neighbour for a convolution."""
        divides = self.size.vae.divides
        reach = {"rows": conv.kernel[1] // 2, "frames": 0, "batch": conv.kernel[0] // 2}[divides]
        if self.degrees.size == 1 or (divides == "rows" and self.work.vae_tiles is not None):
            return 0.0
        if divides == "rows":
            edge = conv.inputs * frames * conv.frames * self.work.width * conv.pixels * self._item
        else:
            edge = conv.inputs * batches * self.work.height * self.work.width * conv.pixels**2 * self._item
        return edge * reach

    @property
    def _peak(self) -> float:
        """Operations per second."""
        return self.device.tflops[self.dtype] * 1e12

    @property
    def _matmul(self) -> float:
        return self._peak * self.device.matmul_share

    @property
    def _convolving(self) -> float:
        return self._peak * self.device.convolution_share

    def _reading(self, weights: int) -> float:
        """Seconds of reading weights from memory: with few tokens, longer than the arithmetic."""
        return weights / (self.device.memory_bandwidth * self.device.memory_share)

    def _overhead(self, operators: int) -> float:
        return operators * self.device.operator_seconds

    @staticmethod
    def _beyond(exchange: float, compute: float) -> float:
        """Seconds of an exchange that concurrent arithmetic does not hide."""
        return max(0.0, exchange - compute)

    # Links

    def _on_host(self, ranks: int, stride: int) -> int:
        """How many of a group's ranks share a host, if hosts take the gang's ranks in order."""
        return min(ranks, max(1, self.device.npus_per_host // stride))

    def _link(self, ranks: int, stride: int) -> Link:
        """The slowest link within a group."""
        return self.device.inside if self._on_host(ranks, stride) == ranks else self.device.between

    def _exchange(self, sent: float, ranks: int, *, stride: int, times: int = 1) -> float:
        """Seconds of an exchange in which a rank sends the same amount to each other rank.

        Args:
            sent: Bytes to all others together.
            ranks: Size of the group.
            stride: Distance between its ranks in the gang.
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
