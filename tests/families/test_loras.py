"""Frames of checkpoints with LoRAs: against diffusers' `load_lora_weights`, and against merged weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import RenderRequest, load_pipeline, nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.loader import AnyPipeline, load_model
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.sharding import sharded_paths
from vidgen_dist.spec import LoraOptions
from vidgen_dist.weights.lora.files import open_lora
from vidgen_dist.weights.lora.switch import LoraError
from vidgen_dist.weights.tensors import TensorFiles

TOLERANCE = 1e-3
OF_GANGS = 1e-4


def render(mesh: Mesh | None, name: str, scale: float = 1.0) -> np.ndarray:
    """A case's frames, its LoRAs' scales multiplied by `scale`."""
    case = references.LoraCase(name)
    loras = [(place, scale * own) for place, own in case.loras]
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options, loras=loras, mesh=mesh)
    return pipeline(case.request)


@pytest.mark.parametrize("name", references.lora_cases())
def test_frames_equal_diffusers(name: str) -> None:
    references.check_close(name, render(None, name), references.LoraCase(name).frames, TOLERANCE)


def test_a_scale_of_zero_changes_nothing() -> None:
    case = references.LoraCase("cogvideox")
    plain = load_pipeline(str(case.base.checkpoint), **case.base.options)(case.request)
    np.testing.assert_array_equal(render(None, "cogvideox", scale=0), plain)


@pytest.mark.parametrize(
    ("name", "degrees"),
    [
        ("animatediff", Degrees(ulysses=2)),
        ("cogvideox", Degrees(ring=2)),
        ("hunyuan_video", Degrees(ulysses=2)),
    ],
)
def test_a_gang_merges_its_slices_of_the_weights(name: str, degrees: Degrees, ranks: Ranks) -> None:
    frames, _ = ranks.run(render, name, degrees=degrees)
    references.check_close(name, frames, references.LoraCase(name).frames, TOLERANCE)
    references.check_close(f"{name}, alone", frames, render(None, name), OF_GANGS)


def with_loras(name: str, scale: float | None) -> RenderRequest:
    """A case's request with its LoRAs, their scales multiplied by `scale`; None for no LoRAs."""
    case = references.LoraCase(name)
    if scale is None:
        return case.request
    places, scales = zip(*((place, scale * own) for place, own in case.loras), strict=True)
    return dataclasses.replace(case.request, lora=places, lora_scale=scales)


def weights_of(pipeline: AnyPipeline) -> dict[str, bytes]:
    """The bytes of all parameters that this rank has, by component and name; of sharded ones its share."""
    found = {}
    for component in ("transformer", "unet", "text_encoder", "vae"):
        model = getattr(pipeline, component, None)
        for key, parameter in nn.named_parameters(model).items() if model is not None else ():
            found[f"{component}.{key}"] = nn.to_numpy(parameter).tobytes()
        for path in sharded_paths(model) if model is not None else ():
            part = functools.reduce(getattr, path.split("."), model)
            for i, block in enumerate(getattr(part, "_blocks", ())):
                found[f"{component}.{path}.{i}"] = nn.to_numpy(block.share).tobytes()
    return found


def of_rows(mesh: Mesh | None, name: str) -> tuple[list[bool], list[np.ndarray]]:
    """Rows without LoRAs, with them, with other scales, and without again, in one pipeline."""
    case = references.LoraCase(name)
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options, mesh=mesh)
    before = weights_of(pipeline)
    told, frames = [], []
    for scale in (None, 1.0, 1.0, 0.5, None):
        rendering = pipeline.render(with_loras(name, scale))
        told.append(rendering.loras_changed)
        frames.append(rendering.frames)
    assert weights_of(pipeline) == before
    return told, frames


@pytest.mark.parametrize("name", ["animatediff", "ltx"])
def test_rows_with_loras_of_their_own(name: str) -> None:
    told, frames = of_rows(None, name)
    assert told == [False, True, False, True, True]
    np.testing.assert_array_equal(frames[0], frames[4])
    np.testing.assert_array_equal(frames[1], frames[2])
    np.testing.assert_array_equal(frames[1], render(None, name))
    np.testing.assert_array_equal(frames[3], render(None, name, 0.5))


def test_a_gang_changes_its_slices(ranks: Ranks) -> None:
    (told, frames), _ = ranks.run(of_rows, "cogvideox", degrees=Degrees(ulysses=2))
    assert told == [False, True, False, True, True]
    np.testing.assert_array_equal(frames[0], frames[4])
    references.check_close("cogvideox", frames[1], references.LoraCase("cogvideox").frames, TOLERANCE)
    references.check_close("cogvideox, alone", frames[3], render(None, "cogvideox", 0.5), OF_GANGS)


def of_one_rank_only(mesh: Mesh, folder: str) -> tuple[str, np.ndarray]:
    """A row whose LoRA is on the first rank's host alone, and one without."""
    case = references.LoraCase("cogvideox")
    own = Path(folder) / str(mesh.rank)
    own.mkdir()
    if mesh.rank == 0:
        shutil.copy(case.loras[0][0], own / "a.safetensors")
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options, mesh=mesh)
    before = weights_of(pipeline)
    with contextlib.chdir(own), pytest.raises(LoraError) as error:
        pipeline(dataclasses.replace(case.request, lora=("./a.safetensors",)))
    assert weights_of(pipeline) == before
    return str(error.value), pipeline(case.request)


def test_ranks_agree_before_they_change_weights(ranks: Ranks, tmp_path: Path) -> None:
    (first, frames), (second, _) = ranks.run(of_one_rank_only, str(tmp_path), degrees=Degrees(ulysses=2))
    assert first == "lora ./a.safetensors: another rank of the gang cannot open or fit it"
    assert "'./a.safetensors' is neither a folder" in second
    references.check_close("cogvideox", frames, render(None, "cogvideox", scale=0), OF_GANGS)


def test_a_file_that_changed_during_a_run_is_not_taken(tmp_path: Path) -> None:
    case = references.LoraCase("ltx")
    place = shutil.copy(case.loras[0][0], tmp_path / "a.safetensors")
    known = LoraOptions(id=str(place), digest=open_lora(LoraOptions(id=str(place))).digest)
    model = case.base.model.model_copy(update={"row_loras": (known,)})
    save_file({"transformer.proj_in.diff": np.ones((1, 1), np.float32)}, place)
    with pytest.raises(LoraError, match="has changed since the run began"):
        load_model(model)(dataclasses.replace(case.request, lora=(str(place),)))
    with pytest.raises(Refused, match="has changed since the run began"):
        load_model(model.model_copy(update={"loras": (known,)}))


def test_a_file_that_is_replaced_between_two_rows(tmp_path: Path) -> None:
    case = references.LoraCase("ltx")
    place = str(shutil.copy(case.loras[0][0], tmp_path / "a.safetensors"))
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options)
    own = dataclasses.replace(case.request, lora=(place,))
    first = pipeline(own)
    pipeline(case.request)
    tensors = load_file(place)
    save_file({key: -value if "lora_A" in key else value for key, value in tensors.items()}, place)
    other = load_pipeline(str(case.base.checkpoint), **case.base.options, loras=[(case.loras[0][0], -1.0)])
    changed = pipeline(own)
    assert references.largest_difference(changed, first) > 0.01
    references.check_close("replaced", changed, other(case.request), 1e-5)


def test_a_rows_loras_come_after_the_runs() -> None:
    case = references.LoraCase("ltx")
    (first, second), request = case.loras, case.request
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options, loras=[first])
    own = dataclasses.replace(request, lora=(second[0],), lora_scale=(second[1],))
    np.testing.assert_array_equal(pipeline(own), render(None, "ltx"))


def test_a_row_whose_lora_does_not_fit_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    case = references.LoraCase("ltx")
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options)
    plain = pipeline(case.request)
    path = tmp_path / "wrong.safetensors"
    save_file(
        {"transformer.proj_in.lora_A.weight": np.ones((2, 5), np.float32)}
        | {"transformer.proj_in.lora_B.weight": np.ones((7, 2), np.float32)},
        path,
    )
    for place in (str(path), str(tmp_path / "none.safetensors")):
        with pytest.raises(LoraError, match=Path(place).name):
            pipeline(dataclasses.replace(case.request, lora=(case.loras[0][0], place)))
        np.testing.assert_array_equal(pipeline(case.request), plain)


def test_weights_that_could_not_be_read_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    case = references.LoraCase("ltx")
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options)
    plain, before = pipeline(case.request), weights_of(pipeline)
    read, reads = TensorFiles.read, itertools.count()

    def fail(self: TensorFiles, key: str, part: Any = None) -> np.ndarray:
        if "lora" not in key and next(reads) == 5:
            raise Refused("the disk is gone")
        return read(self, key, part)

    with monkeypatch.context() as patched:
        patched.setattr(TensorFiles, "read", fail)
        with pytest.raises(Refused, match="the disk is gone"):
            pipeline(with_loras("ltx", 1.0))
    assert weights_of(pipeline) != before
    np.testing.assert_array_equal(pipeline(case.request), plain)
    assert weights_of(pipeline) == before


# diffusers has no loader for these.
@pytest.mark.parametrize(("family", "of"), [("stable_video_diffusion", "small"), ("i2vgen_xl", "odd")])
def test_frames_equal_those_of_weights_merged_beforehand(family: str, of: str, tmp_path: Path) -> None:
    case = references.case(of, family)
    merged = Path(shutil.copytree(case.checkpoint, tmp_path / "checkpoint"))
    lora = _merge_random_lora(merged / "unet", tmp_path / "lora.safetensors", scale=0.6)
    expected = load_pipeline(str(merged), **case.options)(case.requests[0])
    frames = load_pipeline(str(case.checkpoint), **case.options, loras=[(lora, 0.6)])(case.requests[0])
    references.check_close(family, frames, expected, 1e-5)
    assert references.largest_difference(frames, case.frames[0]) > 0.01


def _merge_random_lora(folder: Path, path: Path, scale: float) -> str:
    """Write a LoRA of a component, and add it to the weights in the component's folder, in float32."""
    rng = np.random.default_rng(5)
    (file,) = folder.glob("*.safetensors")
    weights = {key: value.astype(np.float32) for key, value in load_file(file).items()}
    lora = {}
    for key in [key for key in weights if key.endswith(("to_q.weight", "to_out.0.weight", "conv1.weight"))]:
        out, inner = len(weights[key]), weights[key][0].size
        up = rng.standard_normal((out, 3)).astype(np.float32)
        down = (rng.standard_normal((3, inner)) / inner**0.5).astype(np.float32)
        weights[key] += np.float32(scale * 2 / 3) * (up @ down).reshape(weights[key].shape)
        kernel = weights[key].shape[2:]
        name = f"unet.{key.removesuffix('.weight')}"
        lora[f"{name}.lora_A.weight"] = down.reshape(3, *weights[key].shape[1:])
        lora[f"{name}.lora_B.weight"] = up.reshape(out, 3, *(1 for _ in kernel))
    save_file(weights, file)
    save_file(lora, path, metadata={"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.lora_alpha": 2})})
    return str(path)
