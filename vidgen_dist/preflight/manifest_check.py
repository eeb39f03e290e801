"""The checks of a manifest: before a run, and by `vidgen manifest check`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from vidgen_dist import engine as engines
from vidgen_dist.engine import get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.families import known_fields, needed_columns
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.ledger import check_passthrough
from vidgen_dist.manifest import (
    CheckReport,
    Manifest,
    ProbeError,
    check,
    create_bad_rows_file,
    describe_problems,
    open_manifest,
)
from vidgen_dist.media import MediaError, read_image, read_video
from vidgen_dist.preflight.row_loras import RowLoras
from vidgen_dist.preflight.sampling import check_sampling, sampling_defaults
from vidgen_dist.request import RenderRequest, ResolvedRequest, sources_of
from vidgen_dist.spec import RunSpec, spec_from_flags
from vidgen_dist.storage.folder import open_export
from vidgen_dist.storage.listing import would_find
from vidgen_dist.storage.uris import redact

_log = logging.getLogger(__name__)


def open_run_manifest(spec: RunSpec, rules: Rules[Any] | None) -> Manifest:
    """Open a run's manifest and check its columns; its rows are not checked yet.

    Args:
        spec: Which manifest, and which columns are passed through.
        rules: What the model takes; if it is not known, all columns that any model takes are read.

    Raises:
        Refused: As `open_manifest`; or a column cannot be passed through.
    """
    manifest = open_manifest(
        spec.manifest.uri,
        passthrough=spec.manifest.passthrough,
        fields=known_fields() if rules is None else rules.declared,
        required=() if rules is None else rules.required_columns,
        one_of=needed_columns() if rules is None else (),
        ignored=() if rules is None else rules.ignored,
    )
    check_passthrough(manifest.extra_schema)
    if rules is not None:
        for name in manifest.ignored_columns:
            said = f"column {name!r} is ignored: {rules.family} {rules.task} does not take it"
            _log.warning("%s: %s", redact(manifest.uri), said)
    return manifest


def check_bad_rows(spec: RunSpec, report: CheckReport) -> None:
    """Refuse bad rows; if the run makes dead letters of them, only those without an id to know them by."""
    if report.ok:
        return
    if spec.faults.bad_rows == "refuse":
        problems = describe_problems(report.problems, report.num_problems)
        if not report.id_problems:
            problems += "\n`--bad-rows fail` makes dead letters of them, and renders the others"
        raise Refused(problems)
    if report.id_problems:
        problems = describe_problems(report.id_problems, report.counts["id"])
        why = "ids are refused with `--bad-rows fail`, too: dead letters are known by them"
        raise Refused(f"{problems}\n{why}")


def check_manifest(uri: str, flags: Mapping[str, Any], export: str | None = None) -> CheckReport:
    """Check every row of a manifest, its images and clips too, without a model.

    Args:
        uri: The manifest.
        flags: Dotted keys of a spec. With `model.id`, rows are also checked against what that model can do.
        export: A Parquet file to list all bad rows in, see `manifest.create_bad_rows_file`.

    Raises:
        Refused: What is wrong with the manifest as a whole, or with the flags.
    """
    spec = spec_from_flags({"model.id": "none", **flags, "manifest.uri": uri, "output.uri": "none"})
    check_sampling(spec)
    rules: Rules[Any] | None = None
    resolve: Callable[[RenderRequest], ResolvedRequest] | None = None
    if "model.id" in flags:
        model = get_engine(engines.ENGINE).open_model(spec.model, "cpu")
        rules = model.rules
        resolve = RowLoras.of_run(model, spec).resolve
        rules.check_defaults(spec.sampling)
        engines.check_tokenizers(spec.model)
    manifest = open_run_manifest(spec, rules)
    check_rows = functools.partial(
        check,
        manifest,
        defaults=sampling_defaults(spec, rules),
        resolve=resolve,
        probe=functools.partial(_read_media, rules=rules),
    )
    if export is None:
        return check_rows()
    place, name = open_export(export)
    if would_find(uri, place.uri(name)) or place.uri(name) in {file.uri for file in manifest.files}:
        raise Refused(f"--export {redact(export)}: lies in the manifest {redact(uri)}; give another place")
    # Reading all images may take hours: first make sure that the result can be stored.
    place.check_writable()
    try:
        with create_bad_rows_file(place, name) as on_bad:
            return check_rows(on_bad=on_bad)
    except OSError as error:
        raise Refused(f"--export: {error}") from None


def _read_media(request: RenderRequest | ResolvedRequest, rules: Rules[Any] | None) -> None:
    """Read a row's images and clips; raises ProbeError where that fails or a clip has the wrong length."""
    fields = known_fields() if rules is None else rules.declared
    for name, source in sources_of(request.values(), fields).items():
        try:
            frames = read_video(source.value) if source.is_clip else [read_image(source.value)]
        except (MediaError, OSError) as error:
            raise ProbeError(name.partition("[")[0], str(error)) from error
        if source.is_clip and rules is not None:
            rules.of_task.check_clip(request, len(frames))
