"""Layers: their parameters' names, shapes and memory, and that they compute what the functions do."""

from pathlib import Path

import numpy as np
import pytest

from tests.nn import plain
from vidgen_dist import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.empty_parameter((1, 3), "scale")
        self.to_out = nn.ModuleList([nn.Linear(6, 4), nn.Module(), nn.Linear(4, 2, bias=False)])
        self.norm = nn.LayerNorm(4)
        self.plain_norm = nn.LayerNorm(4, elementwise_affine=False)
        self.scaled_norm = nn.LayerNorm(4, bias=False)
        self.rms = nn.RMSNorm(4, 1e-6)
        self.group = nn.GroupNorm(2, 4)
        self.table = nn.Embedding(7, 3)
        self.conv2 = nn.Conv2d(3, 5, (1, 2))
        self.conv3 = nn.Conv3d(3, 5, 3, stride=(1, 2, 2), padding=(0, 1, 1), bias=False)


def fill(module):
    rng = np.random.default_rng(0)
    values = {}
    for name, parameter in nn.named_parameters(module).items():
        values[name] = rng.standard_normal(parameter.shape, dtype=np.float32)
        parameter.set_data(nn.from_numpy(values[name]))
    return values


def test_names_are_those_of_diffusers():
    shapes = {name: tuple(p.shape) for name, p in nn.named_parameters(Net()).items()}
    assert shapes == {
        "scale": (1, 3),
        "to_out.0.weight": (4, 6),
        "to_out.0.bias": (4,),
        "to_out.2.weight": (2, 4),
        "norm.weight": (4,),
        "norm.bias": (4,),
        "scaled_norm.weight": (4,),
        "rms.weight": (4,),
        "group.weight": (4,),
        "group.bias": (4,),
        "table.weight": (7, 3),
        "conv2.weight": (5, 3, 1, 2),
        "conv2.bias": (5,),
        "conv3.weight": (5, 3, 3, 3, 3),
    }
    assert all(p.dtype == nn.float32 and not p.requires_grad for p in nn.named_parameters(Net()).values())


def test_parameters_of_nested_modules_bear_their_whole_path():
    outer = nn.ModuleList([Net(), Net()])
    assert "1.to_out.2.weight" in nn.named_parameters(outer)
    assert all(p.name == name for name, p in nn.named_parameters(outer).items())


def test_layers_compute_what_the_functions_do():
    net = Net()
    w = fill(net)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((3, 6), dtype=np.float32), rng.standard_normal((2, 4), dtype=np.float32)
    video = rng.standard_normal((1, 3, 4, 6, 5), dtype=np.float32)
    ids = np.array([6, 0], np.int32)

    def check(layer, given, expected):
        np.testing.assert_allclose(nn.to_numpy(layer(nn.from_numpy(given))), expected, rtol=1e-4, atol=1e-5)

    check(net.to_out[0], x, plain.linear(x, w["to_out.0.weight"], w["to_out.0.bias"]))
    check(net.to_out[-1], y, plain.linear(y, w["to_out.2.weight"]))
    check(net.norm, y, plain.layer_norm(y, w["norm.weight"], w["norm.bias"]))
    check(net.plain_norm, y, plain.layer_norm(y))
    check(net.scaled_norm, y, plain.layer_norm(y, w["scaled_norm.weight"]))
    check(net.rms, y, plain.rms_norm(y, w["rms.weight"]))
    check(net.group, y, plain.group_norm(y, 2, w["group.weight"], w["group.bias"]))
    check(net.table, ids, w["table.weight"][ids])
    frames = video.transpose(0, 2, 1, 3, 4)[0]
    check(net.conv2, frames, plain.convolution(frames, w["conv2.weight"], w["conv2.bias"]))
    check(net.conv3, video, plain.convolution(video, w["conv3.weight"], None, (1, 2, 2), (0, 1, 1)))


def test_new_weights_are_seen_at_the_next_call():
    conv = nn.Conv3d(16, 16, 3)
    x = np.random.default_rng(1).standard_normal((1, 16, 4, 20, 20), dtype=np.float32)
    fill(conv)
    conv(nn.from_numpy(x))
    conv.weight.set_data(nn.zeros(conv.weight.shape))
    conv.bias.set_data(nn.ones((16,)))
    assert (nn.to_numpy(conv(nn.from_numpy(x))) == 1).all()


def test_parameters_take_no_memory_before_they_are_loaded():
    def held():
        # Reserved memory counts too: it may have been touched if the allocator used it before.
        return int(Path("/proc/self/statm").read_text().split()[0]) * 4096

    nn.Linear(8, 8)
    before = held()
    big = nn.Linear(8192, 16384)  # 512 MiB
    assert held() - before < 32 * 2**20
    assert tuple(big.weight.shape) == (16384, 8192)


def test_module_list():
    layers = nn.ModuleList([nn.Linear(1, n) for n in (1, 2)])
    layers.append(nn.Linear(1, 3))
    assert len(layers) == 3
    assert [layer.weight.shape[0] for layer in layers] == [1, 2, 3]
    assert layers[-1].weight.shape == (3, 1)
    with pytest.raises(IndexError):
        layers[3]


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="5 is not a multiple"):
        nn.GroupNorm(2, 5)
