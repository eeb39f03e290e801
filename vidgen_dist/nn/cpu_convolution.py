"""Convolution on the CPU as matrix products.

MindSpore's own kernels are not used: on AVX-512 they use oneDNN's reference code, which is a hundred times
slower.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vidgen_dist.nn.cpu_jobs import Array, each, empty, scratch, slices

# Winograd's F(2x2, 3x3), in the notation of Lavin and Gray (2016): G takes weights to 4 x 4 points, and the
# transpose of A, written out in `_from_points`, takes points to outputs.
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_WINOGRAD_CHANNELS = 16
_WINOGRAD_PIXELS = 512


def convolve(
    x: Array, weight: Array, bias: Array | None, stride: Sequence[int], padding: Sequence[int]
) -> Array:
    """Convolve x (B, I, T, H, W) with weight (O, I, kT, kH, kW), padded by zeros: (B, O, T', H', W').

    Beyond the result it takes a few MB of memory per thread and, for kernels of 3 x 3, three times the
    weights.
    """
    batch, inputs, *size = x.shape
    outputs, _, *kernel = weight.shape
    shape = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, kernel, stride, strict=True)]
    if min(shape) < 1:
        raise ValueError(
            f"a kernel of {tuple(kernel)} does not fit into {tuple(size)} padded by {tuple(padding)}"
        )
    out = empty((batch, outputs, *shape))
    if kernel == [1, 1, 1] and tuple(stride) == (1, 1, 1) and not any(padding):
        _pointwise(x, weight, bias, out)
    elif (
        kernel[1:] == [3, 3]
        and tuple(stride) == (1, 1, 1)
        and min(inputs, outputs) >= _WINOGRAD_CHANNELS
        and np.prod(shape) >= _WINOGRAD_PIXELS
    ):
        _winograd(x, weight, bias, padding, out)
    else:
        _unfolded(x, weight, bias, stride, padding, out)
    return out


def _pointwise(x: Array, weight: Array, bias: Array | None, out: Array) -> None:
    """A kernel of one point: one product for each block of pixels."""
    batch, inputs = x.shape[:2]
    outputs = len(weight)
    pixels = x.reshape(batch, inputs, -1)
    result = out.reshape(batch, outputs, -1)
    matrix = weight.reshape(outputs, inputs)

    def body(job: tuple[int, slice]) -> None:
        b, block = job
        y = np.matmul(matrix, pixels[b, :, block], out=result[b, :, block])
        if bias is not None:
            y += bias[:, None]

    each([(b, block) for b in range(batch) for block in slices(pixels.shape[2], 4096)], body)


def _winograd(x: Array, weight: Array, bias: Array | None, padding: Sequence[int], out: Array) -> None:
    """Kernels (kT, 3, 3), by 4 x 4 points for every 2 x 2 pixels: 2.25 times fewer products.

    A job is a block of rows of one video, over a range of frames. It keeps the points of the last kT input
    frames in a ring, frame f in slot f mod kT, so every input frame is transformed once.
    """
    batch, outputs, frames, height, width = out.shape
    inputs, kt = weight.shape[1:3]
    matrices = _weight_points(weight)
    tile_rows, tile_columns = -(-height // 2), -(-width // 2)
    # A row has room for one tile more than there are, so all the arithmetic below runs on flat arrays: the
    # tile at the end of a row mixes two rows and is dropped.
    pitch = tile_columns + 1
    most = max(1, int(np.clip(2**16 // (kt * inputs), 96, 256)) // pitch)
    row_blocks = slices(tile_rows, -(-tile_rows // -(-tile_rows // most)))

    def body(job: tuple[int, slice, slice]) -> None:
        b, rows, ts = job
        tiles = (rows.stop - rows.start) * pitch
        points = scratch("points", (16, kt, inputs, tiles))
        products = scratch("products", (16, outputs, tiles))
        ready = ts.start - padding[0]  # the first input frame whose points are not computed yet
        for t in range(ts.start, ts.stop):
            first = t - padding[0]
            for frame in range(ready, first + kt):
                if 0 <= frame < x.shape[2]:
                    top = 2 * rows.start - padding[1]
                    _to_points(x[b, :, frame], points[:, frame % kt], top, -padding[2], pitch)
                else:
                    points[:, frame % kt] = 0
            ready = first + kt
            # The taps in the order of the slots: a window into the taps, which are written twice.
            tap = -first % kt
            for point in range(16):
                np.matmul(
                    matrices[point, :, tap * inputs : (tap + kt) * inputs],
                    points[point].reshape(kt * inputs, tiles),
                    out=products[point],
                )
            _from_points(products, bias, out[b, :, t, 2 * rows.start : 2 * rows.stop], pitch)

    each(_jobs(batch, row_blocks, frames), body)


def _weight_points(weight: Array) -> Array:
    """Weights (O, I, kT, 3, 3) to (16, O, (2 kT - 1) I): taps 0, 1, ..., kT - 1, 0, ..., kT - 2."""
    outputs, inputs, kt = weight.shape[:3]
    points = np.empty((16, outputs, (2 * kt - 1) * inputs), np.float32)
    transform = np.kron(_G, _G)

    def body(block: slice) -> None:
        taps = np.ascontiguousarray(weight[block].transpose(0, 2, 1, 3, 4)).reshape(-1, 9)
        half = points[:, block, : kt * inputs]
        half[...] = np.matmul(transform, taps.T).reshape(half.shape)
        points[:, block, kt * inputs :] = half[..., : (kt - 1) * inputs]

    each(slices(outputs, 16), body)
    return points


def _to_points(frame: Array, points: Array, top: int, left: int, pitch: int) -> None:
    """Points (16, C, tiles) of frame (C, H, W); the first tile's corner is at (top, left)."""
    channels = len(frame)
    tiles = points.shape[2]
    length = tiles + pitch  # one more row of tiles below
    group = max(1, 16384 // length)
    for c in slices(channels, group):
        count = c.stop - c.start
        # quarter[i, j]: rows of parity i and columns of parity j.
        quarter = scratch("quarter", (2, 2, count, length))
        for i in range(2):
            for j in range(2):
                grid = quarter[i, j].reshape(count, -1, pitch)
                _every_other(grid, frame[c], top + i, left + j)
        columns = scratch("columns", (2, 4, count, length - 1))
        for i in range(2):
            even, odd = quarter[i]
            _input_step(even[:, :-1], odd[:, :-1], even[:, 1:], odd[:, 1:], columns[i])
        n = tiles - 1
        for k in range(4):
            even, odd = columns[:, k]
            below = slice(pitch, pitch + n)
            _input_step(even[:, :n], odd[:, :n], even[:, below], odd[:, below], points[k::4, c, :n])


def _input_step(d0: Array, d1: Array, d2: Array, d3: Array, out: Array) -> None:
    np.subtract(d0, d2, out=out[0])
    np.add(d1, d2, out=out[1])
    np.subtract(d2, d1, out=out[2])
    np.subtract(d1, d3, out=out[3])


def _every_other(grid: Array, frame: Array, top: int, left: int) -> None:
    """grid (C, R, S) = frame at rows top, top + 2, ... and columns left, left + 2, ...; 0 outside."""
    rows, source_rows = _inside(grid.shape[1], top, frame.shape[1])
    columns, source_columns = _inside(grid.shape[2], left, frame.shape[2])
    if rows.stop - rows.start < grid.shape[1] or columns.stop - columns.start < grid.shape[2]:
        grid.fill(0)
    grid[:, rows, columns] = frame[:, source_rows, source_columns]


def _inside(count: int, start: int, size: int) -> tuple[slice, slice]:
    """The indices i below `count` with start + 2 i from 0 to below size, and those values."""
    first = max(0, -(start // 2))
    end = max(first, min(count, -((start - size) // 2)))
    return slice(first, end), slice(start + 2 * first, start + 2 * end, 2)


def _from_points(products: Array, bias: Array | None, out: Array, pitch: int) -> None:
    """Pixels out (O, H, W) of products (16, O, tiles)."""
    tiles = products.shape[2]
    for c in slices(len(out), max(1, 16384 // tiles)):
        count = c.stop - c.start
        rows = scratch("rows", (2, 4, count, tiles))
        spare = scratch("spare", (2, count, tiles))
        for k in range(4):
            _output_step(products[k::4, c], spare[0], rows[:, k])
        for i in range(2):
            _output_step(rows[i], spare[0], spare)
            for j in range(2):
                target = out[c, i::2, j::2]
                pixels = spare[j].reshape(count, -1, pitch)[:, : target.shape[1], : target.shape[2]]
                if bias is None:
                    target[...] = pixels
                else:
                    np.add(pixels, bias[c, None, None], out=target)


def _output_step(m: Array, spare: Array, out: Array) -> None:
    """out[0] = m0 + m1 + m2, out[1] = m1 - m2 - m3; spare may be out[0]."""
    np.subtract(m[1], m[2], out=out[1])
    out[1] -= m[3]
    np.add(m[1], m[2], out=spare)
    np.add(spare, m[0], out=out[0])


def _unfolded(
    x: Array, weight: Array, bias: Array | None, stride: Sequence[int], padding: Sequence[int], out: Array
) -> None:
    """Any kernel and stride: products with the columns of one block of rows at a time.

    A job is a block of output rows of one video, over a range of frames. It keeps the columns
    (I * kH * kW, pixels) of the last kT input frames in a ring, as `_winograd` keeps its points.
    """
    batch, outputs, frames, height, width = out.shape
    inputs, kt, kh, kw = weight.shape[1:]
    st, sh, sw = stride
    pt, ph, pw = padding
    taps = [np.ascontiguousarray(weight[:, :, t].reshape(outputs, -1)) for t in range(kt)]
    depth = inputs * kh * kw
    most = max(1, int(np.clip(2**20 // (kt * depth), 128, 768)) // width)
    row_blocks = slices(height, most)

    def body(job: tuple[int, slice, slice]) -> None:
        b, rows, ts = job
        count = rows.stop - rows.start
        pixels = count * width
        columns = scratch("columns", (kt, depth, pixels))
        padded = scratch("padded", (inputs, (count - 1) * sh + kh, x.shape[4] + 2 * pw))
        total = scratch("total", (outputs, pixels))
        product = scratch("product", (outputs, pixels))
        ready = 0  # the first input frame whose columns are not computed yet
        for t in range(ts.start, ts.stop):
            total.fill(0)
            first = t * st - pt
            for tap in range(kt):
                frame = first + tap
                if not 0 <= frame < x.shape[2]:
                    continue
                slot = columns[frame % kt]
                if frame >= ready:
                    _fill_padded(padded, x[b, :, frame], rows.start * sh - ph, pw)
                    _unfold(padded, slot.reshape(inputs, kh, kw, count, width), sh, sw)
                    ready = frame + 1
                total += np.matmul(taps[tap], slot, out=product)
            target = out[b, :, t, rows]
            if bias is None:
                target[...] = total.reshape(target.shape)
            else:
                np.add(total.reshape(target.shape), bias[:, None, None], out=target)

    each(_jobs(batch, row_blocks, frames), body)


def _jobs(batch: int, row_blocks: list[slice], frames: int) -> list[tuple[int, slice, slice]]:
    """(video, rows, frames); cut along the frames too if there would be too few jobs for the threads."""
    blocks = batch * len(row_blocks)
    run = frames if blocks >= 8 else max(2, -(-frames * blocks // 8))
    return [(b, rows, ts) for b in range(batch) for rows in row_blocks for ts in slices(frames, run)]


def _fill_padded(padded: Array, frame: Array, top: int, left: int) -> None:
    """Copy rows top, top + 1, ... of frame (C, H, W) into padded (C, R, W + 2 * left), 0 outside."""
    height, width = frame.shape[1:]
    begin, end = max(top, 0), min(top + padded.shape[1], height)
    if left or begin != top or end != top + padded.shape[1]:
        padded.fill(0)
    if end > begin:
        padded[:, begin - top : end - top, left : left + width] = frame[:, begin:end]


def _unfold(padded: Array, columns: Array, sh: int, sw: int) -> None:
    """Columns (C, kH, kW, rows, W') of padded (C, R, W)."""
    _, kh, kw, rows, width = columns.shape
    for i in range(kh):
        for j in range(kw):
            columns[:, i, j] = padded[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (width - 1) * sw + 1 : sw]
