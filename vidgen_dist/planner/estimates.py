"""What one gang needs and how long it takes for a video: bytes a rank, bytes it sends, seconds.

An estimate, for choosing between splits: it counts the arithmetic of blocks and convolutions, what is sent
and what of that no arithmetic hides, and what each operator and each exchange costs however small it is. It
leaves out the loading of the model and the writing of files, and that exchanges which are under way at the
same time share the links. What a denoising step computes, holds and sends, the denoiser says itself
(`common.costs.Denoiser`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vidgen_dist.families.common.costs import ITEM_SIZES, ComponentSize, Convolution, ModelSize, Workload
from vidgen_dist.families.common.step_costs import Exchange, Segment, Step, gathered_bytes
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner.devices import Device, Link

# Tensors of a convolution's input that are in memory at once: the shortcut, the normed one, what scales it,
# and the one with the frames and edges around it. On CPU, 17 frames of 240x360 through a decoder of 32 to 128
# channels took 1,397 MiB; this gives 1,375.
_CONVOLUTION_ALIVE = 4
# Operators that go with each convolution: norm, activation, padding.
_CONVOLUTION_OPERATORS = 8
# Operators that give something to a neighbour and put together what comes of another one.
_OPERATORS_OF_NEXT = 3
# A rank that has rows above and below exchanges edges with two others, and the norm's moments with all.
_EXCHANGES_OF_CONVOLUTION = 2


@dataclass(frozen=True)
class MemoryUse:
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
    memory: MemoryUse
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
        """Gathered blocks and activations of what encodes a prompt."""
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
        """Activations of the fullest convolution, and the frames that each keeps for the next batch."""
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
        """What the fullest rank puts through the autoencoder of a frame: rows and columns of each part."""
        if self.work.vae_tiles is not None:
            return self.work.vae_tiles.sizes(self.work.height, self.work.width)
        if self.size.vae.divides != "rows":
            return [self.work.height], [self.work.width]
        rows = self.work.latent_rows
        return [-(-rows // self.degrees.size) * self.work.height // rows], [self.work.width]

    def _decoded(self) -> tuple[int, int, int]:
        """Frames of the largest batch that the fullest rank decodes, those of all its batches, and these."""
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
        """Arithmetic of a step, and what is waited for."""
        step = self._step
        computes = [self._computing(segment) for segment in step.segments]
        waiting = ends = 0.0
        for segment, compute in zip(step.segments, computes, strict=True):
            waits = sum(map(self._exchanging, segment.exchanges))
            waits += self._beyond(self._gathering(segment.gathered), compute)
            waiting += segment.times * waits
            # What is first does not travel ahead.
            ends += min(self._gathering(segment.ahead), compute)
        for exchange in step.ends:
            ends += self._exchanging(exchange)
        total = sum(segment.times * each for segment, each in zip(step.segments, computes, strict=True))
        return total, waiting + ends

    def _computing(self, segment: Segment) -> float:
        """Arithmetic of one run of a segment."""
        arithmetic = sum(part / self._matmul for part in segment.products)
        arithmetic += segment.convolved / self._convolving
        return max(arithmetic, self._reading(segment.read)) + self._overhead(segment.operators)

    def _gathering(self, weights: float) -> float:
        """Seconds of an exchange of weights, of which this rank sends so many bytes."""
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
        """This rank's frames through one half of the autoencoder; what others tell it is waited for."""
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
        """Bytes that a rank gives each neighbour for a convolution of so many frames in so many batches."""
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
        """Operations a second."""
        return self.device.tflops[self.dtype] * 1e12

    @property
    def _matmul(self) -> float:
        return self._peak * self.device.matmul_share

    @property
    def _convolving(self) -> float:
        return self._peak * self.device.convolution_share

    def _reading(self, weights: int) -> float:
        """Seconds in which bytes of weights come from memory: with few tokens, more than the arithmetic."""
        return weights / (self.device.memory_bandwidth * self.device.memory_share)

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
