"""What a change of the code's structure must leave as it is, bit for bit: written down as JSON, and compared.

    python -m tests.freeze OUT.json                     # write it down
    python -m tests.freeze --compare OLD.json           # write it down again, and compare
    python -m tests.freeze --compare OLD.json NEW.json  # compare two files

Exit status of a comparison: 0 nothing differs, 1 something does, which is listed. The parts, each of which
`--only` chooses by its name, and `--family` for the families of `tests/references` alone:

frames        Of each reference checkpoint and request, alone on one rank: frames, states, draws of noise,
              progress; of the first request also with the VAE in tiles, and with other schedules of noise.
gangs         The same on gangs of two, three and four ranks, and what each rank sent.
fingerprints  Of rows that use each column, for each checkpoint and task: id, seed, fingerprint or refusal.
plans         What `vidgen plan` makes of each run file and reference checkpoint, on several devices.
refusals      Of a checkpoint of each family what is told of config keys that are left out or cannot be.
output        What a run that is interrupted leaves: files, run.yaml, status.json, ledger, saved state.
names         Of the commands and their flags, request fields, keys of run.yaml and status.json.

Frames are compared by digest, so both files must come from the same kind of processor and the same releases
of MindSpore and NumPy; a difference in these is told. What only NEW has counts as a difference, unless
`--allow-more` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import inspect
import io
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import load, save

import vidgen_dist
from tests import references
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline

ROOT = Path(__file__).parents[1]

Facts = dict[str, Any]
"""What JSON holds: names -> facts, lists, texts, numbers."""

# --- what is known of the product's inside ---------------------------------------------------------------
#
# All else reaches it by `load_pipeline`, `RenderRequest`, the command line and files. When modules move or
# names change, this section is to be adapted, and nothing below.


@dataclass(frozen=True)
class Seen:
    """A rendering, and all that it told on its way.

    Args:
        frames: float32 (frames, height, width, 3).
        progress: (stage, steps done, steps in all) each time that progress was told.
        states: (steps done, arrays by name, state of the generator) after each step, digested when told.
        stages: Names of the stages that were timed.
        sent: Bytes sent to other ranks, by purpose.
    """

    frames: np.ndarray
    progress: list[tuple[str, int, int]]
    states: list[Facts]
    stages: list[str]
    sent: dict[str, int]


def render_and_look(pipeline: Any, request: RenderRequest) -> Seen:
    """Render a request with a listener for progress and one for states."""
    progress: list[tuple[str, int, int]] = []
    states: list[Facts] = []
    rendering = pipeline.render(
        request,
        lambda *told: progress.append(told),
        on_state=lambda state: states.append(state_facts(state.step, state.arrays, state.rng)),
    )
    return Seen(rendering.frames, progress, states, sorted(rendering.seconds), dict(rendering.sent))


def enable_tiling(pipeline: Any, *, small: bool) -> None:
    """Have a pipeline's VAE work in tiles: of its own size, or of two latents that overlap by one.

    Raises:
        Refused: It cannot.
    """
    vae = pipeline.vae
    pixels = vae.spatial_compression_ratio
    # Each kind of tiles has `min` sizes, and either a `stride` or a `factor` of overlap.
    values = {"min": 2 * pixels, "stride": pixels, "factor": 0.5}
    sizes = {name: values[word] for name in vars(vae.tiles) for word in values if word in name.split("_")}
    vae.enable_tiling(**(sizes if small else {}))


@contextlib.contextmanager
def gangs() -> Iterator[Callable[..., list[Any]]]:
    """Rank processes. Yields run(body, *args, degrees={"ulysses": 2}): body(mesh, *args)'s values by rank.

    In a gang of one rank the mesh is None.
    """
    from tests.parallel.ranks import Ranks
    from vidgen_dist.parallel.degrees import Degrees

    ranks = Ranks()

    def run(body: Callable[..., Any], *args: Any, degrees: Mapping[str, int]) -> list[Any]:
        return ranks.run(_with_mesh, body, *args, degrees=Degrees(**degrees), timeout=600.0)

    try:
        yield run
    finally:
        ranks.close()


def _with_mesh(mesh: Any, body: Callable[..., Any], *args: Any) -> Any:
    return body(mesh if mesh.size > 1 else None, *args)


def identify_rows(manifest: Path, flags: Mapping[str, Any]) -> list[Facts]:
    """Of each row of a manifest its id, and its seed and fingerprint or why it is refused.

    The fingerprint is worked out twice, as a worker does it for one row and as a run that goes on does it for
    many at once.

    Args:
        manifest: A Parquet file.
        flags: Dotted keys of a run, `model.id` among them.

    Raises:
        Refused: The checkpoint cannot do the task.
    """
    from vidgen_dist.engine import open_model
    from vidgen_dist.output.fingerprint import identity_of
    from vidgen_dist.output.resume import RowResolver
    from vidgen_dist.preflight.manifest_check import open_run_manifest
    from vidgen_dist.preflight.sampling import sampling_defaults
    from vidgen_dist.processes import InlineExecutor
    from vidgen_dist.spec import spec_from_flags

    spec = spec_from_flags({**flags, "manifest.uri": str(manifest), "output.uri": "none"})
    model = open_model(spec.model, "cpu")
    resolving = RowResolver(model.rules, spec.seed, identity_of(model, spec, {}))
    found: list[Facts] = []
    for batch in open_run_manifest(spec, model.rules).batches(sampling_defaults(spec, model.rules)):
        first = len(found)
        for row in batch.rows():
            try:
                told = {"seed": resolving.request(row).seed, "fingerprint": resolving.fingerprint(row)}
            except RequestError as error:
                told = {"refused": str(error)}
            found.append({"id": row.id, **told})
        good = np.array(["refused" not in facts for facts in found[first:]])
        for looking in resolving.fingerprints(batch, good, InlineExecutor()):
            for place, fingerprint in zip(looking.places, looking.fingerprints.result(), strict=True):
                found[first + place]["fingerprint of many"] = str(fingerprint)
    return found


def commands() -> Any:
    """The command line as click has it: `params`, and `commands` below it."""
    import typer.main

    from vidgen_dist.cli import app

    return typer.main.get_command(app)


def flag_facts(flag: Any) -> Facts:
    """What one of a command's `params` takes."""
    # Typer's own classes, since 0.29, have no `type`.
    described = getattr(flag, "type_descriptor", None)
    kind = flag.type if described is None else described.annotation
    known = ("required", "default", "nargs", "multiple", "is_flag", "metavar")
    return {"type": getattr(kind, "__name__", str(kind)), **{key: getattr(flag, key, None) for key in known}}


def vidgen(*arguments: object) -> Facts:
    """Run `vidgen` in this process: its exit status, and what it prints."""
    from vidgen_dist.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["vidgen", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        status: Any = 0
    except SystemExit as exit_:
        status = exit_.code or 0
    finally:
        sys.argv = before
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def key_schemas() -> Facts:
    """The keys of run.yaml and status.json with their types and defaults, as JSON schemas."""
    from vidgen_dist.output.status_file import RunStatus
    from vidgen_dist.spec import RunSpec

    schemas = {"run.yaml": RunSpec.model_json_schema(), "status.json": RunStatus.model_json_schema()}
    return {name: in_place(schema, schema.pop("$defs", {})) for name, schema in schemas.items()}


def in_place(schema: Any, parts: Mapping[str, Any]) -> Any:
    """A JSON schema with the parts that it refers to in place of their classes' names."""
    if isinstance(schema, list):
        return [in_place(item, parts) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = {**schema, **parts[schema["$ref"].rpartition("/")[2]]}
    return {key: in_place(value, parts) for key, value in schema.items() if key != "$ref"}


def request_fields() -> dict[str, Any]:
    """The fields of a request, by name: the common ones, then those of each family."""
    from vidgen_dist.families import OUR_FIELDS

    return dict(OUR_FIELDS)


def published_models() -> list[str]:
    """Hub ids of the published checkpoints whose configs the tests have."""
    from tests.planner import published

    return list(published.NAMES)


def write_published(folder: Path, model: str) -> str:
    """Write the configs of a published checkpoint, with stubs for weights and vocabularies.

    Args:
        folder: Where to.
        model: Its hub id.

    Returns:
        The key of its family.
    """
    from tests.planner import published
    from vidgen_dist.families import find_family

    checkpoint = published.checkpoint(folder, published.NAMES[model])
    (folder / "model_index.json").write_text(json.dumps(checkpoint.model_index), encoding="utf-8")
    for component in checkpoint.components:
        for stub in ("model.safetensors", "model.bf16.safetensors"):
            (folder / component / stub).write_bytes(save({"stub": np.zeros(1, np.float32)}))
        (folder / component / "spiece.model").touch()
    return find_family(checkpoint).key


# --- digests ---------------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """dtype, shape and digest of an array, as one text."""
    return f"{array.dtype} {list(array.shape)} {sha256(np.ascontiguousarray(array).tobytes())}"


def state_facts(step: int, arrays: Mapping[str, np.ndarray], rng: Mapping[str, Any]) -> Facts:
    """A state between two denoising steps, by digests."""
    return {
        "step": step,
        "arrays": {name: array_digest(arrays[name]) for name in sorted(arrays)},
        "rng": sha256(json.dumps(dict(rng), sort_keys=True).encode()),
    }


def beside(facts: Facts, first: Facts, name: str) -> Facts:
    """Facts of which those that `first` has alike are replaced by its name."""
    return {
        key: f"as {name}" if key in first and first[key] == value else value for key, value in facts.items()
    }


# --- frames and gangs ------------------------------------------------------------------------------------

GANGS: Mapping[str, Mapping[str, int]] = {
    "ulysses 2": {"ulysses": 2},
    "ring 2": {"ring": 2},
    "cfg 2": {"cfg": 2},
    "ulysses 3": {"ulysses": 3},
    "ring 3": {"ring": 3},
    "ulysses 2, cfg 2": {"ulysses": 2, "cfg": 2},
}

SCHEDULES: Mapping[str, Sequence[Facts]] = {
    "FlowMatchEulerDiscreteScheduler": [
        {"stochastic_sampling": True},
        {"shift": 3.0, "use_dynamic_shifting": False},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"shift_terminal": 0.1},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
    ],
    "CogVideoX": [
        {"timestep_spacing": "leading"},
        {"timestep_spacing": "linspace"},
        {"prediction_type": "epsilon"},
        {"prediction_type": "sample"},
        {"rescale_betas_zero_snr": False},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
}
"""How a scheduler's class begins -> keys of its config, of which each checkpoint is given each set."""

DRAWING = ("standard_normal", "normal", "random", "uniform", "integers")
"""Methods of a generator whose calls are recorded."""


def freeze_frames(cases: Sequence[references.Case]) -> Facts:
    """Of each case its renderings on one rank."""
    frozen: Facts = {}
    with gangs() as run:
        for case in progress_of("frames", cases):
            whole = run(render_case, case.family, case.name, degrees={})[0]
            tiled = run(render_in_tiles, case.family, case.name, degrees={})[0]
            schedules = run(render_by_schedules, case.family, case.name, degrees={})[0]
            frozen[key_of(case)] = {**whole, **tiled, "schedules": schedules}
    return frozen


def freeze_gangs(cases: Sequence[references.Case]) -> Facts:
    """Of each case its renderings on each gang: of the first rank all, of others where they differ."""
    from vidgen_dist.families import FAMILIES

    with_ring = {family.key for family in FAMILIES if family.ring}
    frozen: Facts = {}
    with gangs() as run:
        for case in progress_of("gangs", cases):
            frozen[key_of(case)] = {}
            for name, degrees in GANGS.items():
                if "ring" in degrees and case.family not in with_ring:
                    continue
                first, *others = run(render_case, case.family, case.name, degrees=degrees)
                by_rank = {"rank 0": first}
                for rank, facts in enumerate(others, start=1):
                    by_rank[f"rank {rank}"] = {
                        request: beside(each, first[request], "rank 0") for request, each in facts.items()
                    }
                frozen[key_of(case)][name] = by_rank
    return frozen


def render_case(mesh: Any, family: str, name: str) -> Facts:
    """Render all requests of a case; runs on a rank."""
    logging.disable(logging.WARNING)
    case = references.case(name, family)
    pipeline = load_pipeline(str(case.checkpoint), **case.options, mesh=mesh)
    return {f"request {k}": render_request(pipeline, request) for k, request in enumerate(case.requests)}


def render_in_tiles(mesh: Any, family: str, name: str) -> Facts:
    """The frames of a case's first request with a VAE in tiles, or why there are none; runs on a rank."""
    case = references.case(name, family)
    found: Facts = {}
    for which in ("tiles", "small tiles"):
        pipeline = load_pipeline(str(case.checkpoint), **case.options, mesh=mesh)
        try:
            enable_tiling(pipeline, small=which == "small tiles")
            found[which] = array_digest(pipeline(case.requests[0]))
        except Refused as error:
            found[which] = f"refused: {error}"
    return found


def render_by_schedules(mesh: Any, family: str, name: str) -> Facts:
    """A case's first request with other values in the scheduler's config; runs on a rank."""
    case = references.case(name, family)
    found: Facts = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = case.copy_checkpoint(Path(folder))
        file = checkpoint / "scheduler" / "scheduler_config.json"
        text = file.read_text(encoding="utf-8")
        index = json.loads((checkpoint / "model_index.json").read_text(encoding="utf-8"))
        changes = [
            each for kind in SCHEDULES if index["scheduler"][1].startswith(kind) for each in SCHEDULES[kind]
        ]
        for change in changes:
            references.edit_json(file, **change)
            try:
                pipeline = load_pipeline(str(checkpoint), **case.options, mesh=mesh)
                told: Any = render_request(pipeline, case.requests[0])
            except (Refused, RequestError) as error:
                told = clean(f"refused: {error}", {folder: "FOLDER"})
            found[json.dumps(change)] = told
            file.write_text(text, encoding="utf-8")
    return found


def render_request(pipeline: Any, request: RenderRequest) -> Facts:
    """Render one request and digest all that can be seen of it."""
    with recorded_draws() as draws:
        seen = render_and_look(pipeline, request)
    return {
        "frames": array_digest(seen.frames),
        "states": seen.states,
        "draws": draws,
        "progress": [f"{stage} {done} of {steps}" for stage, done, steps in seen.progress],
        "stages": seen.stages,
        "sent": seen.sent,
    }


@contextlib.contextmanager
def recorded_draws() -> Iterator[list[str]]:
    """The draws of all generators that NumPy makes while the block lasts: method, dtype and shape."""
    draws: list[str] = []

    def recording(name: str) -> Callable[..., Any]:
        draw = getattr(before[0], name)

        def recorded(self: np.random.Generator, *args: Any, **kwargs: Any) -> Any:
            values = draw(self, *args, **kwargs)
            draws.append(f"{name} {np.asarray(values).dtype} {list(np.shape(values))}")
            return values

        return recorded

    before = np.random.Generator, np.random.default_rng
    recorder: Any = type("Generator", (before[0],), {name: recording(name) for name in DRAWING})
    np.random.Generator = recorder
    np.random.default_rng = lambda seed=None: recorder(np.random.PCG64(seed))
    try:
        yield draws
    finally:
        np.random.Generator, np.random.default_rng = before


# --- fingerprints ----------------------------------------------------------------------------------------

TASKS: Mapping[str, Mapping[str, str]] = {
    "text-to-video": {},
    "image-to-video": {"image": "image.png"},
    "video-to-video": {"video": "clip.mp4"},
}
"""Task -> what its rows need beside the prompt."""

MEDIA = ("image.png", "other.png", "clip.mp4", "other.mp4")
"""Files beside the manifests. They are digested, never opened; the names are all that is in them."""

EXAMPLES: Mapping[str, Sequence[Any]] = {
    "prompt": ["", "Ein Zug im Regen — 雨", 'quotes " and \\ and\nlines'],
    "id": ["x", "a/b c"],
    "negative_prompt": ["", "blurry"],
    "image": ["image.png", "other.png"],
    "video": ["clip.mp4", "other.mp4"],
    "height": [32, 64],
    "width": [32, 64],
    "num_frames": [1, 9, 13],
    "num_inference_steps": [1, 3],
    "guidance_scale": [1.0, 4.5],
    "guidance_rescale": [0.0, 0.7],
    "true_cfg_scale": [1.0, 3.5],
    "use_dynamic_cfg": [False, True],
    "eta": [0.0, 0.5],
    "strength": [0.5, 1.0],
    "max_sequence_length": [16],
    "frame_rate": [12.5, 24.0],
    "decode_timestep": [0.0, 0.3],
    "decode_noise_scale": [0.0, 0.025],
    "seed": [0, 7, 2**63 - 1],
    "fps": [8.0, 29.97],
    "clip_skip": [1],
    "decode_chunk_size": [2],
    "min_guidance_scale": [1.5],
    "max_guidance_scale": [2.5],
    "motion_bucket_id": [0, 255],
    "noise_aug_strength": [0.0, 0.1],
    "file_fps": [12.0],
    "target_fps": [8],
    "priority": [3],
}
"""Column -> values of which each is in a row that has nothing else of its own."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "seed 7": {"seed": 7},
    "npy": {"output.format": "npy"},
    "gif": {"output.format": "gif"},
    "crf 30": {"output.crf": 30},
    "12 fps": {"output.fps": 12.0},
    "tiles": {"model.vae_tiling": True},
    "3 steps": {"sampling.num_inference_steps": 3},
    "negative prompt": {"sampling.negative_prompt": "blurry"},
    "what decides no pixels": {"topology.replicas": 2, "topology.shard_size": 1, "output.reject": ["black"]},
}
"""Settings of a run, given to a row that has nothing but its prompt."""


def freeze_fingerprints(cases: Sequence[references.Case]) -> Facts:
    """Of each case and task the identities of rows."""
    frozen: Facts = {}
    for name in sorted(set(request_fields()) - set(EXAMPLES)):
        print(f"fingerprints: no EXAMPLES of {name}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for name in MEDIA:
            (Path(folder) / name).write_bytes(name.encode())
        for case in progress_of("fingerprints", cases):
            frozen[key_of(case)] = {task: identities_of(Path(folder), case, task) for task in TASKS}
        return clean(frozen, {folder: "FOLDER", str(references.HERE): "REFERENCES"})


def identities_of(folder: Path, case: references.Case, task: str) -> Facts:
    """Of one case and task the identities of all rows, under all settings."""
    options = {"id": str(case.checkpoint), **case.options, "task": task}
    flags = {f"model.{name}": value for name, value in options.items() if value is not None}
    base = {"prompt": "A red fox runs through the snow.", **TASKS[task]}
    single = {
        f"{column} = {value!r}": {**base, column: value}
        for column, values in EXAMPLES.items()
        for value in values
    }
    try:
        found: Facts = {"each column": identities_in(folder, {"no column": base, **single}, flags)}
    except Refused as error:
        return {"refused": str(error)}
    taken = {column for column in EXAMPLES if _is_taken(column, found["each column"])}
    full = {**base, **{column: EXAMPLES[column][-1] for column in EXAMPLES if column in taken}}
    found["all columns"] = identities_in(folder, {"all": full}, flags)
    found["numbers as floats"] = beside(
        identities_in(folder, single, flags, as_floats), found["each column"], "each column"
    )
    found["settings"] = {
        name: identities_in(folder, {"no column": base}, {**flags, **settings})["no column"]
        for name, settings in SETTINGS.items()
    }
    if "image" in base:
        content = (folder / base["image"]).read_bytes()
        for name, image in {
            "bytes": content,
            "struct of bytes": {"bytes": content, "path": None},
            "struct of path": {"bytes": None, "path": base["image"]},
        }.items():
            found[f"image as {name}"] = identities_in(folder, {"image": {**base, "image": image}}, flags)
    return found


def identities_in(
    folder: Path,
    rows: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
) -> Facts:
    """By name the identities of rows that are one manifest, with the columns that any of them has."""
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    table = change(pa.table({name: [row.get(name) for row in rows.values()] for name in columns}))
    manifest = folder / "manifest.parquet"
    pq.write_table(table, manifest)
    return dict(zip(rows, identify_rows(manifest, flags), strict=True))


def as_floats(table: pa.Table) -> pa.Table:
    """A table whose columns of whole numbers are floats, as pandas makes them where a value is missing."""
    kinds = [
        field.with_type(pa.float64())
        if pa.types.is_integer(field.type) and field.name != "priority"
        else field
        for field in table.schema
    ]
    return table.cast(pa.schema(kinds), safe=False)


def _is_taken(column: str, identities: Mapping[str, Facts]) -> bool:
    last = f"{column} = {EXAMPLES[column][-1]!r}"
    return "refused" not in identities[last]


# --- plans -----------------------------------------------------------------------------------------------


DEVICES: Mapping[str, Sequence[str]] = {
    "as it is": (),
    "910B of 32 GB": ("--memory", "32GB", "--replicas", "1", "--npus", "8"),
    "16 x A3": ("--device-name", "A3", "--npus", "16", "--replicas", "1"),
    "CPU": ("--device-name", "CPU", "--dtype", "float32", "--memory", "512GiB", "--replicas", "1"),
    "gang of 8": ("--replicas", "2", "--ulysses", "2", "--ring", "2", "--cfg", "2", "--npus", "16"),
    "gang of 3": ("--replicas", "1", "--gang", "3", "--ulysses", "3"),
    "tiles": ("--vae-tiling",),
    "3 rows": ("--rows", "3", "--replicas", "1"),
    "too little memory": ("--memory", "1MiB"),
}
"""What is added to the command line of `vidgen plan`."""


def freeze_plans(cases: Sequence[references.Case]) -> Facts:
    """The plans of all run files, of published checkpoints without one, and of all cases, by family."""
    frozen: Facts = {}
    families = {case.family for case in cases}
    run_files = {
        run_file: yaml.safe_load(run_file.read_text(encoding="utf-8"))["model"]["id"]
        for run_file in sorted((ROOT / "jobs").glob("*.yaml"))
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # Each in a folder with the name of its repository.
        family = {
            model: write_published(Path(model.partition("/")[2]), model) for model in published_models()
        }
        for run_file in progress_of("plans", list(run_files)):
            model = run_files[run_file]
            if family[model] in families:
                key = f"{family[model]}/jobs/{run_file.name}"
                frozen[key] = plans(run_file, "--model", model.partition("/")[2])
        for model in set(family) - set(run_files.values()):
            if family[model] in families:
                frozen[f"{family[model]}/{model}"] = plans("--model", model.partition("/")[2])
    with contextlib.chdir(references.HERE):
        for case in progress_of("plans", cases):
            checkpoint = case.checkpoint.relative_to(references.HERE)
            frozen[key_of(case)] = plans("--model", checkpoint, "--task", case.task, *model_flags(case))
    return clean(frozen, {folder: "FOLDER", str(references.HERE): "REFERENCES"})


def model_flags(case: references.Case) -> list[str]:
    """Flags for how a case's checkpoint is read, beside its task."""
    flags = []
    for name in ("variant", "adapter"):
        if (value := case.options.get(name)) is not None:
            flags += [f"--{name}", value]
    for key, value in case.options.get("scheduler", {}).items():
        flags += ["--scheduler", f"{key}={json.dumps(value)}"]
    return flags


def plans(*arguments: object) -> Facts:
    """What `vidgen plan` says on each of the devices, as JSON, and once as it prints it."""
    printed = vidgen("plan", *arguments)
    found: Facts = {"printed": printed["out"].splitlines() or printed["err"]}
    for name, flags in DEVICES.items():
        told = vidgen("plan", *arguments, *flags, "--json")
        found[name] = json.loads(told["out"]) if told["status"] == 0 else told
    return found


# --- refusals --------------------------------------------------------------------------------------------

ODD_VALUES: Sequence[Any] = ("nonsense", -1, 0)
"""What a config key is given in place of what it has."""

ODD_ITEMS: Sequence[Any] = ("nonsense", [], ["nonsense"])
"""Likewise where that is a list."""


def freeze_refusals(cases: Sequence[references.Case]) -> Facts:
    """Of a case of each family what is said when it is loaded with an odd config, one key after another.

    It is the one whose configs have the most keys.
    """
    chosen: dict[str, references.Case] = {}
    for case in sorted(cases, key=lambda case: sum(map(len, configs_of(case.checkpoint).values()))):
        chosen[case.family] = case
    frozen: Facts = {}
    for case in progress_of("refusals", list(chosen.values())):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = case.copy_checkpoint(Path(folder))
            told = {
                str(file.relative_to(checkpoint)): odd_config(checkpoint, file, case)
                for file in configs_of(checkpoint)
            }
            frozen[key_of(case)] = clean(told, {folder: "FOLDER"})
    return frozen


def configs_of(checkpoint: Path) -> dict[Path, Facts]:
    """The config files of a checkpoint, without those of tokenizers, and what is in them."""
    files = [checkpoint / "model_index.json", *sorted(checkpoint.glob("*/*config.json"))]
    return {
        file: json.loads(file.read_text(encoding="utf-8"))
        for file in files
        if not file.parent.name.startswith("tokenizer")
    }


def odd_config(checkpoint: Path, file: Path, case: references.Case) -> Facts:
    """What is said of each odd key of one config file, which is as it was afterwards."""
    text = file.read_text(encoding="utf-8")
    config = json.loads(text)
    found: Facts = {}

    def put(name: str, changed: Facts) -> str:
        file.write_text(json.dumps(changed), encoding="utf-8")
        found[name] = try_to_load(checkpoint, case)
        return found[name]

    put("a key that is not known", {**config, "unknown": 1})
    for key, value in config.items():
        for odd in ODD_ITEMS if isinstance(value, list) else ODD_VALUES:
            # Of a key that nobody reads all values are alike.
            if put(f"{key}: {json.dumps(odd)}", {**config, key: odd}) == "loaded" and odd == "nonsense":
                break
        else:
            put(f"{key} left out", {name: config[name] for name in config if name != key})
    file.write_text(text, encoding="utf-8")
    return found


def try_to_load(checkpoint: Path, case: references.Case) -> str:
    """What is said when a checkpoint is loaded."""
    try:
        load_pipeline(str(checkpoint), **case.options)
    except Refused as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - also what should have been a refusal
        return f"{type(error).__name__}: {error}"
    return "loaded"


# --- the output of a run ---------------------------------------------------------------------------------

PATIENCE = 180.0
"""Seconds that a run may take to its first saved state."""

MEASURED = ("seconds_encode", "seconds_denoise", "seconds_decode", "seconds_write", "worker", "finished_at")
"""Columns of the ledger whose values differ from run to run."""


def freeze_output(cases: Sequence[references.Case]) -> Facts:
    """Of a text-to-video case of each family what a run leaves that is interrupted in its last row."""
    chosen: dict[str, references.Case] = {}
    for case in cases:
        if case.task == "text-to-video" and takes_many_steps(case):
            chosen.setdefault(case.family, case)
    return {key_of(case): output_of(case) for case in progress_of("output", list(chosen.values()))}


def takes_many_steps(case: references.Case) -> bool:
    """Whether a row of a case may have as many steps as it takes to be interrupted: LCM's may not."""
    config = json.loads((case.checkpoint / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    overrides = case.options.get("scheduler", {})
    return {**config, **overrides}["_class_name"] != "LCMScheduler"


def output_of(case: references.Case) -> Facts:
    """Run a manifest of a case, stop it in its last row, and look at what is there."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, output = Path(folder) / "manifest.parquet", Path(folder) / "out"
        asked = json.loads((case.folder / "request.json").read_text(encoding="utf-8"))[0]
        rows = [
            {**asked, "id": "seeded", "num_inference_steps": 2, "seed": 3, "priority": 2, "note": "one"},
            {**asked, "id": None, "num_inference_steps": 2, "seed": None, "priority": 1, "note": "two"},
            {
                **asked,
                "id": "long",
                "num_inference_steps": 500,
                "seed": None,
                "priority": 0,
                "note": "three",
            },
        ]
        pq.write_table(pa.Table.from_pylist(rows), manifest)
        flags = ["--model", str(case.checkpoint), "--device", "cpu", "--format", "npy"]
        flags += ["--checkpoint-every", "1", "--passthrough", "note", *model_flags(case)]
        status, while_running = interrupt_in_last_row([str(manifest), str(output), *flags], output)
        told = {
            name: sorted(key_paths(json.loads(vidgen(name, output, "--json")["out"])))
            for name in ("status", "verify")
        }
        vidgen("failures", output, "--export", Path(folder) / "failures.parquet")
        found = {
            "exit status": status,
            "files": files_in(output),
            "run.yaml": yaml.safe_load((output / "run.yaml").read_text(encoding="utf-8")),
            "keys of status.json": sorted(while_running),
            "keys of vidgen status --json": told["status"],
            "keys of vidgen verify --json": told["verify"],
            "columns of vidgen failures --export": columns_of(Path(folder) / "failures.parquet"),
            "ledger": ledger_in(output),
            "saved state": saved_state((output / "scratch" / "long.state").read_bytes()),
        }
        return clean(found, {folder: "FOLDER", str(references.HERE): "REFERENCES"})


def interrupt_in_last_row(arguments: Sequence[str], output: Path) -> tuple[int, set[str]]:
    """Run `vidgen render` until the row `long` is saved, and stop it at once.

    Returns:
        The exit status, and the keys that status.json has while that row is rendered.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "vidgen_dist", "render", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=output.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    end = time.monotonic() + PATIENCE
    keys: set[str] | None = None
    try:
        while keys is None or not (output / "scratch" / "long.state").exists():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise AssertionError(f"the run was to be at its last row: {process.communicate()[0]}")
            time.sleep(0.05)
            keys = keys_while_rendering(output / "status.json")
        # Once for the end of the row, twice for now.
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, keys


def keys_while_rendering(file: Path) -> set[str] | None:
    """The keys of status.json, if the row `long` is rendered; of stragglers, which may come and go, none."""
    if not file.exists():
        return None
    status = json.loads(file.read_text(encoding="utf-8"))
    if not any(gang["row"] == "long" for gang in status["gangs"]):
        return None
    return {path for path in key_paths(status) if not path.startswith("slow_") or "." not in path}


def key_paths(value: Any, under: str = "") -> Iterator[str]:
    """The keys of nested JSON objects with dots between; `[]` stands for the items of a list."""
    if isinstance(value, list):
        for item in value:
            yield from key_paths(item, f"{under}[]")
    elif isinstance(value, dict):
        for key, item in value.items():
            path = f"{under}.{key}" if under else key
            yield path
            yield from key_paths(item, path)


def files_in(output: Path) -> list[str]:
    """The files of an output, without the digits of times and digests in their names."""
    names = [str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()]
    shown = [name for name in names if not Path(name).name.startswith(".")]
    return sorted({re.sub(r"(?<![a-z])[0-9a-f]{2,}(?![a-z])|\d+", "#", name) for name in shown})


def columns_of(file: Path) -> dict[str, str]:
    """The columns of a Parquet file and their types."""
    return {
        field.name: f"{field.type}{'' if field.nullable else ' not null'}" for field in pq.read_schema(file)
    }


def ledger_in(output: Path) -> Facts:
    """The columns of the ledger and, by id, those of its values that are the same in each run."""
    parts = sorted((output / "ledger").glob("[!.]*.parquet"))
    entries = pq.read_table(output / "ledger").to_pylist()
    return {
        "columns": columns_of(parts[0]),
        "entries": {
            entry["id"]: {name: value for name, value in entry.items() if name not in MEASURED}
            for entry in sorted(entries, key=lambda entry: entry["id"])
        },
    }


def saved_state(content: bytes) -> Facts:
    """How a file of `scratch/` is laid out: a digest, a line of JSON, safetensors."""
    digest, _, rest = content.partition(b"\n")
    head, _, arrays = rest.partition(b"\n")
    known = json.loads(head)
    return {
        "first line": "SHA-256 of the rest" if digest.decode() == sha256(rest) else "another",
        "keys": sorted(key_paths(known)),
        "release": known.get("release"),
        "fingerprint": known.get("fingerprint"),
        "arrays": {
            name: f"{array.dtype} {list(array.shape)}" for name, array in sorted(load(arrays).items())
        },
    }


# --- names -----------------------------------------------------------------------------------------------


def freeze_names(_cases: Sequence[references.Case]) -> Facts:
    """Names that people and programs use: commands, flags, fields, keys."""
    return {
        "python": {
            "vidgen_dist": sorted(vidgen_dist.__all__),
            "load_pipeline": parameters_of(load_pipeline),
            "RenderRequest": sorted(request_fields()),
        },
        "commands": dict(flags_of(commands(), "vidgen")),
        "keys": {name: without_texts(schema) for name, schema in key_schemas().items()},
        "columns of vidgen manifest build": columns_built(),
    }


def parameters_of(function: Callable[..., Any]) -> dict[str, str]:
    """The parameters of a function, without their annotations."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: f"{each.kind.description} = {_default(each.default)}" for each in parameters}


def _default(value: Any) -> str:
    return "required" if value in (inspect.Parameter.empty, dataclasses.MISSING) else repr(value)


def flags_of(command: Any, name: str) -> Iterator[tuple[str, Facts]]:
    """The arguments and options of a command and of those under it, by command."""
    yield name, {"/".join([*each.opts, *each.secondary_opts]): flag_facts(each) for each in command.params}
    for under, each in sorted(getattr(command, "commands", {}).items()):
        yield from flags_of(each, f"{name} {under}")


def without_texts(schema: Any) -> Any:
    """A JSON schema without titles and descriptions."""
    if isinstance(schema, dict):
        texts = {"title", "description"}
        return {
            key: without_texts(value)
            for key, value in schema.items()
            if key not in texts or not isinstance(value, str)
        }
    return [without_texts(item) for item in schema] if isinstance(schema, list) else schema


def columns_built() -> Facts:
    """The columns that a manifest gets of JSON lines with all fields, and what is said of another."""
    with tempfile.TemporaryDirectory() as folder:
        lines, manifest = Path(folder) / "rows.jsonl", Path(folder) / "manifest.parquet"
        row = {column: values[-1] for column, values in EXAMPLES.items()}
        lines.write_text(json.dumps({**row, "hight": 1}), encoding="utf-8")
        told = vidgen("manifest", "build", lines, manifest)
        return clean({**told, "columns": columns_of(manifest)}, {folder: "FOLDER"})


# --- writing and comparing -------------------------------------------------------------------------------

PARTS: Mapping[str, Callable[[Sequence[references.Case]], Facts]] = {
    "frames": freeze_frames,
    "gangs": freeze_gangs,
    "fingerprints": freeze_fingerprints,
    "plans": freeze_plans,
    "refusals": freeze_refusals,
    "output": freeze_output,
    "names": freeze_names,
}

MADE_WITH = "made with"
WITHOUT_FAMILIES = ("names",)


def key_of(case: references.Case) -> str:
    return f"{case.family}/{case.name}"


def progress_of(part: str, things: Sequence[Any]) -> Iterator[Any]:
    """The things one after another, with a line for each on a terminal."""
    for number, thing in enumerate(things, start=1):
        if sys.stderr.isatty():
            name = key_of(thing) if isinstance(thing, references.Case) else getattr(thing, "name", thing)
            print(f"\r\033[K{part} {number}/{len(things)} {name}", end="", file=sys.stderr, flush=True)
        yield thing
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def clean(value: Any, names: Mapping[str, str]) -> Any:
    """JSON in whose texts the paths of this machine are replaced by names."""
    if isinstance(value, str):
        for path, name in names.items():
            value = value.replace(os.path.realpath(path), name).replace(path, name)
        return value
    if isinstance(value, dict):
        return {clean(key, names): clean(item, names) for key, item in value.items()}
    return [clean(item, names) for item in value] if isinstance(value, list) else value


def made_with() -> Facts:
    """What digests of frames depend on beside the code."""
    releases = {name: importlib.metadata.version(name) for name in ("mindspore", "numpy")}
    return {"python": platform.python_version(), "processor": _processor(), **releases}


def _processor() -> str:
    """Name and vector instructions of the processor, as far as they are known."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.machine()
    lines = dict.fromkeys(info.read_text().splitlines())
    names = sorted(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return " ".join([*names, *sorted(flag for flag in flags if flag.startswith("avx"))]) or platform.machine()


def freeze(parts: Iterable[str], families: Sequence[str] | None) -> Facts:
    """Write some parts down, of some families or of all, and say how long each took."""
    # What is warned of once in a process depends on what was done before.
    logging.disable(logging.WARNING)
    # Tables are as wide as the terminal.
    os.environ["COLUMNS"] = "120"
    known = [pair for pair in references.all_cases() if families is None or pair[0] in families]
    cases = [references.case(name, family) for family, name in known]
    frozen: Facts = {MADE_WITH: made_with()}
    for part in parts:
        begun = time.monotonic()
        # Through JSON, so that it equals what is read from a file.
        frozen[part] = json.loads(json.dumps(PARTS[part](cases)))
        print(f"{part}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return frozen


def choose(frozen: Mapping[str, Facts], parts: Sequence[str], families: Sequence[str] | None) -> Facts:
    """Some parts, of some families or of all."""
    return {
        part: {
            key: facts
            for key, facts in frozen[part].items()
            if families is None or part in WITHOUT_FAMILIES or key.partition("/")[0] in families
        }
        for part in parts
        if part in frozen
    }


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """What differs: where, and how. What only `new` has is told with `+`, what only `old` has with `-`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            where = f"{path} > {key}" if path else key
            if key not in new:
                yield where, f"- {_shown(old[key])}"
            elif key not in old:
                yield where, f"+ {_shown(new[key])}"
            else:
                yield from differences(old[key], new[key], where)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{place}]")
    # 1 is not 1.0 in a file that people read.
    elif old != new or type(old) is not type(new):
        yield path, f"{_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:157]}..."


def compare(old: Mapping[str, Any], new: Mapping[str, Any], allow_more: bool, shown: int = 100) -> bool:
    """Print what differs, and how often it does under which key; whether nothing does."""
    found = [
        (where, how)
        for where, how in differences(dict(old), dict(new))
        if not (allow_more and how.startswith("+"))
    ]
    for where, how in found[:shown]:
        print(f"{where}:\n    {how}")
    if len(found) > shown:
        print(f"and {len(found) - shown:,} more")
    for key, count in Counter(" > ".join(where.split(" > ")[:2]) for where, _ in found).items():
        print(f"{key}: {count:,}")
    print(f"{', '.join(old)}: {f'{len(found):,} differences' if found else 'equal'}")
    return not found


def names_among(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads names with commas between."""

    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is not allowed; some of {', '.join(allowed)}")
        return names

    return read


def main() -> int:
    families = sorted({family for family, _ in references.all_cases()})
    parser = argparse.ArgumentParser(
        prog="python -m tests.freeze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", type=Path, help="Written; with --compare, compared.")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="What was written down before.")
    parser.add_argument("--only", type=names_among(list(PARTS)), default=list(PARTS), metavar="PART,...")
    parser.add_argument("--family", type=names_among(families), metavar="FAMILY,...")
    parser.add_argument("--allow-more", action="store_true", help="What only NEW has is no difference.")
    parser.add_argument("--most", type=int, default=100, help="Differences that are listed, at most.")
    given = parser.parse_args()
    if given.file is None and given.compare is None:
        parser.error("nothing to do: give OUT.json, or --compare OLD.json")
    if given.compare is None:
        frozen = freeze(given.only, given.family)
        given.file.write_text(json.dumps(frozen, indent=1, ensure_ascii=False), encoding="utf-8")
        return 0
    old = json.loads(given.compare.read_text(encoding="utf-8"))
    parts = [part for part in given.only if part in old]
    if given.file is None:
        new = freeze(parts, given.family)
    else:
        new = json.loads(given.file.read_text(encoding="utf-8"))
        parts = [part for part in parts if part in new]
    for part in sorted(set(given.only) - set(parts)):
        print(f"{part}: not compared, it is not in both")
    for where, how in differences(old.get(MADE_WITH), new.get(MADE_WITH)):
        print(f"made with another {where}, frames may differ for that: {how}")
    chosen = [choose(frozen, parts, given.family) for frozen in (old, new)]
    return 0 if compare(*chosen, given.allow_more, given.most) else 1


if __name__ == "__main__":
    sys.exit(main())
