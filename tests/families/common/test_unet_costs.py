"""The costs that are computed from a UNet's parameters, against torch's count and by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.planner import unets
from vidgen_dist.families.common.costs import ParameterShapes, Shapes
from vidgen_dist.families.common.unet_costs import UNet, image_convolutions, unet
from vidgen_dist.parallel.degrees import Degrees

# Layers that diffusers computes more often: keys and values of the text, which are the same in all frames,
# and those of SVD's image, at each place.
REPEATED = 0.003


@pytest.mark.parametrize("name", unets.UNETS)
def test_operations_of_a_step_are_those_that_torch_counts(name: str) -> None:
    step = unets.network(name).step(unets.workload(name), Degrees(), 2)
    counted = unets.facts(name)
    assert (1 - REPEATED) * counted["operations"] < step.operations <= counted["operations"]
    convolved = sum(segment.convolved for segment in step.segments)
    # The three that make tokens from I2VGen-XL's image are in no block.
    beside = 1e-5 * convolved if name == "i2vgen_xl" else 0
    assert convolved <= counted["convolved"] <= convolved + beside


@pytest.mark.parametrize("name", unets.UNETS)
def test_parameters_are_all_there(name: str) -> None:
    network, counted = unets.network(name), unets.counted(name)
    assert network.parameters == sum(map(math.prod, counted.shapes.values()))
    assert sum(block.shared for block in network.levels) == sum(network.blocks)
    # What no list has: embeddings of time, the first and last convolutions, layers that halve and double.
    assert network.rest < 0.05 * network.parameters


@pytest.mark.parametrize(
    ("name", "trips", "halos", "norms"),
    [
        # Motion modules: two or three in each of eight blocks, one in the middle.
        ("animatediff", 21, 0, 21),
        # A block over time after each of 16 over space; 22 blocks of two convolutions.
        ("stable_video_diffusion", 16, 44, 44),
        # The same 16, one before all and one for the image, which has no norm; 22 times four convolutions.
        ("i2vgen_xl", 18, 88, 105),
    ],
)
def test_layers_over_time_are_found(name: str, trips: int, halos: int, norms: int) -> None:
    counts = [counts for block in unets.network(name).levels for counts in block.levels.values()]
    assert sum(each.trips for each in counts) == trips
    assert sum(each.halos for each in counts) == halos
    assert sum(each.norms for each in counts) == norms


def test_what_waits_for_the_way_up_is_kept() -> None:
    """In Stable Diffusion: the first convolution's result, two of each block, and three halved ones."""
    by_name = {block.name: block for block in unets.network("animatediff").levels}
    assert by_name["down_blocks.0"].kept == {0: 3 * 320, 1: 320}
    all_of_them = {0: 3 * 320, 1: 320 + 2 * 640, 2: 640 + 2 * 1280, 3: 3 * 1280}
    assert by_name["mid_block"].kept == by_name["up_blocks.0"].kept == all_of_them
    assert by_name["up_blocks.1"].kept == {key: all_of_them[key] for key in (0, 1, 2)}
    assert by_name["up_blocks.3"].kept == {0: 3 * 320}
    assert by_name["conv_out"].kept == {}
    # A feed-forward of the first block needs most, together with all its skip connections.
    held = 33 * 320 + 3 * 320 + 320 // 4
    work = unets.workload("animatediff")
    assert unets.network("animatediff").activations(work, Degrees(), 2) == 2 * 16 * 64 * 64 * held * 2


def resnet(path: str, inputs: int, outputs: int) -> Shapes:
    return {
        f"{path}.conv1.weight": (outputs, inputs, 3, 3),
        f"{path}.conv2.weight": (outputs, outputs, 3, 3),
        f"{path}.time_emb_proj.weight": (outputs, 16),
    }


def motion_module(path: str, width: int) -> Shapes:
    block = f"{path}.transformer_blocks.0"
    return {
        f"{path}.proj_in.weight": (width, width),
        f"{block}.attn1.to_q.weight": (width, width),
        f"{block}.attn2.to_k.weight": (width, width),
        f"{block}.pos_embed.pe": (1, 32, width),
    }


@pytest.fixture
def tiny() -> UNet:
    """Two sizes of the image; over time a motion module at the larger, a convolution at the smaller."""
    shapes = {
        "conv_in.weight": (8, 4, 3, 3),
        **motion_module("down_blocks.0.motion_modules.0", 8),
        **resnet("down_blocks.0.resnets.0", 8, 8),
        "down_blocks.0.downsamplers.0.conv.weight": (8, 8, 3, 3),
        **resnet("down_blocks.1.resnets.0", 8, 16),
        "down_blocks.1.temp_convs.0.conv1.2.weight": (16, 16, 3, 1, 1),
        **resnet("mid_block.resnets.0", 16, 16),
        **resnet("up_blocks.0.resnets.0", 32, 16),
        **resnet("up_blocks.0.resnets.1", 24, 16),
        "up_blocks.0.upsamplers.0.conv.weight": (16, 16, 3, 3),
        **resnet("up_blocks.1.resnets.0", 24, 8),
        **resnet("up_blocks.1.resnets.1", 16, 8),
        "conv_out.weight": (4, 8, 3, 3),
        "time_embedding.linear_1.weight": (16, 8),
    }
    sharded = ("down_blocks.0.resnets", "down_blocks.0.motion_modules", "up_blocks.0.resnets")
    return unet("unet", ParameterShapes(shapes, sharded), groups=4)


WORK = unets.workload("animatediff", frames=3, latents=3 * 4 * 35, latent_rows=5, latent_columns=7)


def test_bytes_of_a_step_by_hand(tiny: UNet) -> None:
    """Three frames of 5x7 on two ranks: 2 and 1 frames, 18 and 17 places; half the size is 3x4."""
    sent = tiny.step(WORK, Degrees(ulysses=2), 4).sent
    samples, item = 2, 4
    # There and back, on both ranks: 2 x 17 and 1 x 18 places of frames, 18 x 1 and 17 x 2 frames of places.
    assert sent["frames"] == samples * 8 * item * (2 * 17 + 1 * 18 + 18 * 1 + 17 * 2) // 2
    # Each sends the other one frame.
    assert sent["halo"] == samples * 16 * item * 3 * 4 * 2 // 2
    # Two norms, four groups: each rank sends the other three numbers.
    assert sent["norm"] == 2 * samples * 4 * 3 * 4
    assert sent["gather"] == samples * 3 * 4 * 35 * item // 2
    assert sent["cfg"] == 0
    assert sent["weights"] == item * sum(tiny.blocks) // 2


def test_operations_of_a_rank_by_hand(tiny: UNet) -> None:
    step = tiny.step(WORK, Degrees(ulysses=2), 4)
    by_block = dict(zip((block.name for block in tiny.levels), step.segments, strict=True))
    samples, frames = 2, 2
    # Input maps, maps to queries and to keys; attention over three frames; all at 18 of the places.
    products = 2 * 3 * 64 * 3 * 18 * samples + 4 * 8 * 9 * 18 * samples
    assert sum(by_block["down_blocks.0"].products) == products
    # At 35 places, and the layer that halves the image at 12.
    convolved = 2 * frames * samples * (2 * 8 * 8 * 9 * 35 + 8 * 8 * 9 * 12)
    assert by_block["down_blocks.0"].convolved == convolved
    assert by_block["down_blocks.1"].convolved == 2 * frames * samples * 12 * (
        9 * (8 * 16 + 16 * 16) + 3 * 16 * 16
    )
    # After the layer that doubles the image.
    assert by_block["up_blocks.0"].convolved == 2 * frames * samples * 9 * (
        12 * (32 * 16 + 16 * 16 + 24 * 16 + 16 * 16) + 35 * 16 * 16
    )


def test_ranks_without_frames_send_weights_alone(tiny: UNet) -> None:
    """Three of five ranks have a frame each: the mean is three fifths of what three ranks send."""
    three, five = (tiny.step(WORK, Degrees(ulysses=ranks), 4) for ranks in (3, 5))
    for purpose in ("frames", "halo", "norm"):
        assert 5 * five.sent[purpose] == pytest.approx(3 * three.sent[purpose], abs=5)
    assert five.operations == three.operations
    assert five.sent["weights"] > three.sent["weights"]
    assert tiny.most_ulysses(WORK, 1) == tiny.most_ulysses(WORK, 2) == 3


def test_halves_of_guidance_have_a_sample_each(tiny: UNet) -> None:
    both, half = (tiny.step(WORK, Degrees(ulysses=2, cfg=cfg), 4) for cfg in (1, 2))
    assert half.operations == both.operations / 2
    assert half.sent["frames"] == both.sent["frames"] / 2
    assert half.sent["cfg"] == WORK.latents * 4
    one, two = (tiny.activations(WORK, Degrees(cfg=cfg), 4) for cfg in (2, 1))
    assert two == 2 * one


def test_what_a_rank_has_of_weights_at_once(tiny: UNet) -> None:
    by_name = {block.name: block for block in tiny.levels}
    resnets = [9 * (32 * 16 + 16 * 16) + 256, 9 * (24 * 16 + 16 * 16) + 256]
    up = by_name["up_blocks.0"]
    assert (up.shared, up.ahead, up.gathered) == (sum(resnets), resnets[0], 2 * resnets[0])
    # Lists of one layer: each is whole on its own, and nothing is gathered ahead of it.
    down = by_name["down_blocks.0"]
    assert down.shared == down.ahead == down.gathered
    assert by_name["mid_block"].shared == 0
    assert tiny.gathered == max(up.gathered, down.gathered)


@pytest.mark.parametrize("name", unets.UNETS)
def test_memory_of_a_rank_falls_with_its_frames(name: str) -> None:
    held = [
        unets.network(name).activations(unets.workload(name), Degrees(ulysses=ranks), 2)
        for ranks in (1, 2, 4, 8)
    ]
    frames = [-(-unets.facts(name)["frames"] // ranks) for ranks in (1, 2, 4, 8)]
    assert [each / held[0] for each in held] == pytest.approx([each / frames[0] for each in frames])


@pytest.mark.parametrize("name", ["image_vae", "temporal_vae"])
def test_convolutions_of_a_decoder_are_those_that_torch_counts(name: str) -> None:
    told, shapes = unets.facts(name), unets.counted(name).shapes
    latents = told["frames"] * told["rows"] * told["columns"]
    attention = {shapes[f"decoder.mid_block.attentions.0.to_{way}.weight"] for way in "qkv"}
    (square,) = attention
    convolved = linear = 0.0
    for conv in image_convolutions(shapes, "decoder."):
        operations = 2 * conv.weights * 64 * latents * conv.pixels**2
        if conv.kernel == (1, 1, 1) and (conv.outputs, conv.inputs) == square:
            linear += operations
        else:
            convolved += operations
    # A map from latents to latents comes before the decoder.
    before = 2 * 4 * 4 * latents if "post_quant_conv.weight" in shapes else 0
    assert convolved + before == told["convolved"]
    assert linear == 4 * 2 * math.prod(square) * latents
    # The rest is attention between places, which is left out.
    assert 0.97 * told["operations"] < convolved + linear < told["operations"]


def test_convolutions_of_an_encoder_are_where_the_image_has_their_size() -> None:
    convolutions = list(image_convolutions(unets.counted("image_vae").shapes, "encoder."))
    assert (convolutions[0].inputs, convolutions[0].pixels) == (3, 1)
    halved = [
        (conv.inputs, conv.pixels) for conv in convolutions if conv.pixels == 1 / 2 and conv.inputs == 128
    ]
    # The layer that halves the image, and two of the first block after it, one with its residual.
    assert halved == [(128, 1 / 2)] * 3
    assert next(conv.pixels for conv in convolutions if conv.outputs == 8) == 1 / 8
    assert {conv.frames for conv in convolutions} == {1}


def test_a_list_of_whole_blocks_can_be_shared_out() -> None:
    """Blocks in one list are gathered one ahead of the other, except the first."""
    counted = dataclasses.replace(unets.counted("animatediff"), sharded=("down_blocks", "up_blocks"))
    blocks = {block.name: block for block in unet("unet", counted, groups=32).levels}
    assert (
        blocks["down_blocks.0"].ahead == blocks["down_blocks.0"].shared == blocks["down_blocks.0"].parameters
    )
    assert blocks["down_blocks.1"].ahead == 0
    assert blocks["up_blocks.2"].shared == blocks["up_blocks.2"].parameters
