"""What a cluster is handed with a submitted run: the run file and, if it is local, the manifest.

The cluster's hosts have none of this machine's files. A local path is allowed only for a manifest, which is
packaged, and in folders that the user says all hosts share.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.families import fields_named, known_fields
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.rules import load_rules
from vidgen_dist.inline import is_inline
from vidgen_dist.manifest import Manifest, ProbeError, check
from vidgen_dist.output.manifest_copy import names_in_copy
from vidgen_dist.output_layout import MANIFEST_FOLDER, RUN_FILE
from vidgen_dist.planner.planned_run import plan_splits
from vidgen_dist.planner.report import summary
from vidgen_dist.preflight.manifest_check import check_bad_rows, open_run_manifest
from vidgen_dist.preflight.paths import check_secrets
from vidgen_dist.preflight.sampling import (
    change_sampling_media,
    sampling_defaults,
    sampling_media,
)
from vidgen_dist.request import RenderRequest, ResolvedRequest, sources_of
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.uris import absolute, is_local, local_path, redact, scheme_of

MAX_MANIFEST_BYTES = 100_000_000
"""The largest manifest that is packaged. Ray keeps packages in the memory of the cluster's head."""


@dataclass(frozen=True)
class Submission:
    """A run that a cluster may be handed.

    Args:
        spec: The run as the cluster's `vidgen render` reads it, in the package's folder.
        files: The packaged manifest: names in the package -> paths. Empty if the cluster opens it itself.
        plan: What `vidgen plan` expects, or why that is not known here; a line each.
        notes: What was not checked here, or does not refuse the run; a line each.
    """

    spec: RunSpec
    files: Mapping[str, str]
    plan: tuple[str, ...]
    notes: tuple[str, ...]

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write the package into an empty folder.

        Raises:
            Refused: A file of the manifest cannot be read any more, or the folder is full.
        """
        try:
            for name, path in self.files.items():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            (Path(folder) / RUN_FILE).write_text(self.spec.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise Refused(f"the run cannot be packaged: {error}") from None


def prepare_submission(
    spec: RunSpec, shared: Sequence[str] = (), *, max_bytes: int = MAX_MANIFEST_BYTES
) -> Submission:
    """Check a run for a cluster, as far as this machine can, and say what goes with it.

    Args:
        spec: The run; its sampling defaults are checked.
        shared: Folders that this machine's paths and the cluster's hosts have in common.
        max_bytes: The largest manifest that is packaged.

    Raises:
        Refused: Names the key, or the manifest's file, row and column, and what is allowed.
    """
    check_secrets(spec)
    folders = tuple(_shared_folder(folder) for folder in shared)
    there = spec.override(_places_on_cluster(spec, folders))
    rules, unknown = _find_rules(spec)
    if rules is not None:
        rules.check_defaults(spec.sampling)
    notes: list[str] = []
    files: dict[str, str] = {}
    rows = None
    if not is_local(spec.manifest.uri) or _is_below(local_path(spec.manifest.uri), folders):
        try:
            rows = open_run_manifest(spec, rules).num_rows
        except Refused as error:
            notes.append(f"the manifest is not checked here, but by the job: {error}")
    else:
        manifest = open_run_manifest(spec, rules)
        rows, files = manifest.num_rows, _packaged(manifest, max_bytes)
        if bad := _check_rows(spec, manifest, rules, folders):
            notes.append(f"{bad:,} of {rows:,} rows cannot be rendered, and will be dead letters")
        place = next(iter(files)) if len(files) == 1 else MANIFEST_FOLDER
        there = there.override({"manifest.uri": place, "manifest.keep": True})
    plan = _expected(spec, rows) if unknown is None else [f"plan: unknown here: {unknown}"]
    return Submission(there, files, tuple(plan), tuple(notes))


# --- paths ---------------------------------------------------------------------------------------------


def _shared_folder(folder: str) -> str:
    if not is_local(folder):
        raise Refused(f"--shared {redact(folder)}: is not a path; URIs are allowed without it")
    return local_path(folder)


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(f"{path}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _place_on_cluster(place: str, folders: Sequence[str]) -> str:
    """A path or URI as the cluster's hosts open it.

    Raises:
        Refused: It is a path of this machine alone; the message names no key.
    """
    if not is_local(place):
        return place
    path = local_path(place)
    if _is_below(path, folders):
        return path
    raise Refused(
        f"{place!r} is a path of this machine; allowed: a URI, such as s3://bucket/…, or a path in a folder "
        f"that all hosts of the cluster share, named by --shared, such as --shared {os.path.dirname(path)}"
    )


def _is_path(place: str) -> bool:
    """Whether what may be a hub id is a path."""
    if not is_local(place):
        return False
    return place.startswith(("/", ".", "~")) or bool(scheme_of(place)) or os.path.exists(absolute(place))


def _places_on_cluster(spec: RunSpec, folders: Sequence[str]) -> dict[str, Any]:
    """All keys with paths but the manifest's, as the cluster's hosts open them; its own Ray as address."""

    def place(key: str, given: str) -> str:
        try:
            return _place_on_cluster(given, folders)
        except Refused as error:
            raise Refused(f"{key}: {error}") from None

    def checkpoint(key: str, given: str | None) -> str | None:
        return place(key, given) if given is not None and _is_path(given) else given

    for name, given in sampling_media(spec).items():
        place(f"sampling.{name}", given)
    model, cache = spec.model, spec.model.prompt_cache
    uri = spec.manifest.uri
    return {
        "topology.address": "auto",
        "output.uri": place("output.uri", spec.output.uri),
        "manifest.uri": absolute(uri),
        "model.id": checkpoint("model.id", model.id),
        "model.adapter": checkpoint("model.adapter", model.adapter),
        "model.prompt_cache": None if cache is None else place("model.prompt_cache", cache),
        "model.loras": [
            {**lora.model_dump(exclude_none=True), "id": checkpoint(f"model.loras.{number}.id", lora.id)}
            for number, lora in enumerate(model.loras)
        ],
        **change_sampling_media(spec, functools.partial(_place_on_cluster, folders=folders)),
    }


# --- manifest ------------------------------------------------------------------------------------------


def _packaged(manifest: Manifest, max_bytes: int) -> dict[str, str]:
    """The manifest's files: names in the package -> paths.

    Raises:
        Refused: They are too large.
    """
    names = names_in_copy([local_path(file.uri) for file in manifest.files])
    size = sum(os.path.getsize(path) for path in names.values())
    if size > max_bytes:
        raise Refused(
            f"manifest.uri: {manifest.uri}: has {size:,} bytes; allowed for a local manifest: "
            f"{max_bytes:,}; copy it to storage that the cluster reads, and give its URI"
        )
    return {f"{MANIFEST_FOLDER}/{name}": path for name, path in names.items()}


def _check_rows(spec: RunSpec, manifest: Manifest, rules: Rules[Any] | None, folders: Sequence[str]) -> int:
    """The number of rows that cannot be rendered, if the run makes dead letters of them.

    Raises:
        Refused: It does not; names file, row and column.
    """
    fields = known_fields() if rules is None else rules.declared
    with_places = [name for name in manifest.columns if name == _LORA or fields[name].kind.has_sources]
    report = check(
        manifest,
        defaults=sampling_defaults(spec, rules),
        # LoRAs of rows are opened by the job: there may be thousands.
        resolve=None if rules is None else rules.resolve,
        probe=functools.partial(_check_places, folders=folders) if with_places else None,
    )
    check_bad_rows(spec, report)
    return report.bad_rows


_LORA = "lora"


def _check_places(request: RenderRequest | ResolvedRequest, folders: Sequence[str]) -> None:
    """Raise ProbeError for a row's image, clip or LoRA that is on this machine alone."""
    values = request.values()
    sources = sources_of(values, fields_named(values))
    places = [(name, source.value) for name, source in sources.items() if isinstance(source.value, str)]
    places += [(_LORA, place) for place in values.get(_LORA) or () if _is_path(place)]
    for name, place in places:
        if is_inline(place):
            continue
        try:
            _place_on_cluster(place, folders)
        except Refused as error:
            raise ProbeError(name.partition("[")[0], str(error)) from None


# --- plan ----------------------------------------------------------------------------------------------


def _find_rules(spec: RunSpec) -> tuple[Rules[Any] | None, str | None]:
    """What the model takes; or why that is not known on this machine, which need not have the checkpoint.

    Raises:
        Refused: The checkpoint is here, and the run asks for what it cannot do.
    """
    try:
        checkpoint = open_model_checkpoint(spec.model, weights=False)
    except Refused as error:
        return None, str(error)
    return load_rules(checkpoint, spec.model.task, ring=spec.topology.ring), None


def _expected(spec: RunSpec, rows: int | None) -> list[str]:
    """What `vidgen plan` expects; the cluster's NPUs may be others than those that it plans for."""
    try:
        planned = plan_splits(spec, rows=rows or None)
    except Refused as error:
        return [f"plan: {error}"]
    return [f"plan for {planned.run.device.name}: {line}" for line in summary(planned)]
