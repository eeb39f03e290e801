"""RunSpec: what a run is. Plain data, from `run.yaml` and flags, checked once and then frozen.

Nothing here opens a file: `parse_spec` takes a text and the name to call it by. Whether a model can do
what `sampling` asks is for the model's rules to say.
"""

from __future__ import annotations

import difflib
import io
import math
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vidgen_dist import yaml_core
from vidgen_dist.errors import Refused, shortened
from vidgen_dist.provenance import check_producer
from vidgen_dist.quality import FLAGS

MAX_REPLICAS = 100_000
MAX_DEGREE = 1_024

AUTO: Literal["auto"] = "auto"
"""As `topology.replicas`: the split of the NPUs that is expected to be the fastest."""


def parse_bytes(text: str) -> int:
    """Bytes of a size with its unit: `64GB` is 64 times 10**9, `64GiB` 64 times 2**30.

    Raises:
        ValueError: It is no such text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B", text.strip(), re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is not allowed; it should be a size with its unit, such as 64GB or 60GiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("KMGT".index(match[2].upper()) + 1))


def parse_seconds(text: str) -> float:
    """Seconds of a span with its unit: `30s`, `10m`, `2h`.

    Raises:
        ValueError: It is no such text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not allowed; it should be a span with its unit, such as 30s or 10m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _is_span(text: str) -> str:
    try:
        parse_seconds(text)
    except ValueError:
        raise PydanticCustomError(
            "span", "it should be a span with its unit, s, m or h, such as 30s or 10m"
        ) from None
    return text


def _is_failures(value: Any) -> Any:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip()) if isinstance(value, str) else None
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not whole and (match is None or float(match[1]) > 100):
        raise PydanticCustomError(
            "failures", "it should be a number of rows, or a share of them from 0% to 100%"
        )
    return value


def _is_size(text: str) -> str:
    try:
        parse_bytes(text)
    except ValueError:
        raise PydanticCustomError("size", "it should be a size with its unit, such as 64GB") from None
    return text


def _is_retry(text: str) -> str:
    if re.fullmatch(r"failed(:\S+)?", text) is None:
        raise PydanticCustomError("retry", "it should be failed or failed:CLASS, such as failed:MediaError")
    return text


def _is_flag(text: str) -> str:
    if text not in FLAGS:
        raise PydanticCustomError("flag", "it should be one of {flags}", {"flags": ", ".join(FLAGS)})
    return text


def _is_producer(text: str) -> str:
    try:
        return check_producer(text)
    except Refused as error:
        allowed = str(error).rpartition("allowed: ")[2]
        raise PydanticCustomError("producer", "it should be {allowed}", {"allowed": allowed}) from None


def _is_settings(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings of a config file, in one form for one meaning: none is None, 3.0 is 3."""
    for key, held in value.items():
        if not _is_setting(held):
            raise PydanticCustomError(
                _WHOLE_PART,
                "{key}: {value} is not allowed; it should be a finite number, a text, true, false, null or a "
                "list of these",
                {"key": key, "value": repr(held)[:100]},
            )
    return {key: _one_form(held) for key, held in value.items()} or None


def _is_setting(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_setting(inner) and not isinstance(inner, list | tuple) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _one_form(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_one_form(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _replicas(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    # Of a union pydantic tells what is wrong with each of its members, one error each.
    try:
        return check(value)
    except ValidationError:
        allowed = f"it should be an integer from 1 to {MAX_REPLICAS}, or {AUTO}"
        raise PydanticCustomError("replicas", "{allowed}", {"allowed": allowed}) from None


Text = Annotated[str, StringConstraints(min_length=1, strict=True)]
Size = Annotated[Text, AfterValidator(_is_size)]
Retry = Annotated[Text, AfterValidator(_is_retry)]
Flag = Annotated[Text, AfterValidator(_is_flag)]
Producer = Annotated[Text, AfterValidator(_is_producer)]
Settings = Annotated[dict[Text, Any], AfterValidator(_is_settings)]
Span = Annotated[Text, AfterValidator(_is_span)]
Failures = Annotated[int | str, BeforeValidator(_is_failures)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86_400, strict=True)]
Degree = Annotated[int, Field(ge=1, le=MAX_DEGREE, strict=True)]
Replicas = Annotated[
    Annotated[int, Field(ge=1, le=MAX_REPLICAS, strict=True)] | Literal["auto"], WrapValidator(_replicas)
]
Device = Literal["auto", "cpu", "ascend"]
Format = Literal["mp4", "gif", "png", "npy"]
Task = Literal["text-to-video", "image-to-video", "video-to-video"]

COMMAND_LINE = "command line"
"""What errors call the place of a value that a flag gave."""


Command = Literal["render", "plan", "manifest check"]


@dataclass(frozen=True)
class Option:
    """Declares that a field of a part is an option that people choose; written beside the field's type.

    Args:
        flag: Its flag. A field that is true or false also has `--no-FLAG`.
        help: What the flag's help says.
        docs: What README's table of flags says, where that is more than the help.
        pixels: Whether fingerprints count it, by the field's name, where it is not left at its default.
            False also for what decides pixels and is counted as a part of something else: of the
            checkpoint's digest, the task or the dtype.
        commands: Which have the flag.
    """

    flag: str
    help: str
    docs: str | None = None
    pixels: bool = False
    commands: tuple[Command, ...] = ("render", "plan")


class Part(BaseModel):
    """One part of a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The fields that are options, with their declarations."""
        return {
            name: declared
            for name, field in cls.model_fields.items()
            for declared in field.metadata
            if isinstance(declared, Option)
        }


_ALL: tuple[Command, ...] = ("render", "plan", "manifest check")


class ModelOptions(Part):
    """Which checkpoint renders, and how it is read: the options of models, each declared here alone.

    This value goes as it is to whatever opens, builds and loads a checkpoint.

    Args:
        digest, adapter_digest: What a run writes down of folders, to know them again elsewhere; they ask for
            nothing. What the other fields are, their declarations say.
    """

    id: Annotated[
        Text,
        Option(
            "--model",
            "Hub id or folder of the checkpoint.",
            docs="hub id or folder, in diffusers' layout",
            commands=_ALL,
        ),
    ]
    task: Annotated[
        Task | None,
        Option(
            "--task",
            "text-to-video, image-to-video or video-to-video.",
            docs="`text-to-video`, `image-to-video`, `video-to-video`; by default what the checkpoint says",
            commands=_ALL,
        ),
    ] = None
    revision: Annotated[
        Text | None,
        Option(
            "--revision",
            "Branch, tag or commit of a hub id.",
            docs="branch, tag or commit of a hub id; recorded as a commit",
            commands=_ALL,
        ),
    ] = None
    variant: Annotated[
        Text | None,
        Option(
            "--variant",
            "Variant of the weight files, such as fp16.",
            docs="variant of the weight files, such as `fp16`",
            commands=_ALL,
        ),
    ] = None
    dtype: Annotated[
        Text | None,
        Option(
            "--dtype",
            "float32, float16 or bfloat16.",
            docs="`float32`, `float16`, `bfloat16`; by default bfloat16 on Ascend, float32 on CPU (which "
            "knows no other)",
        ),
    ] = None
    adapter: Annotated[
        Text | None,
        Option(
            "--adapter",
            "AnimateDiff's motion adapter: hub id or folder.",
            docs="AnimateDiff's motion adapter: hub id or folder, such as "
            "`guoyww/animatediff-motion-adapter-v1-5-2`; other families refuse it",
            commands=_ALL,
        ),
    ] = None
    adapter_revision: Annotated[
        Text | None,
        Option(
            "--adapter-revision",
            "Branch, tag or commit of the adapter's hub id.",
            docs="branch, tag or commit of the adapter's hub id; recorded as a commit",
            commands=_ALL,
        ),
    ] = None
    scheduler: Annotated[
        Settings | None,
        Option(
            "--scheduler",
            "A setting put over the checkpoint's scheduler config; _class_name for another class.",
            docs="a setting put over the checkpoint's scheduler config, as KEY=VALUE, such as "
            "`--scheduler _class_name=DDIMScheduler --scheduler clip_sample=false`; in a run.yaml a mapping, "
            "which the flags are put over key by key",
            pixels=True,
            commands=_ALL,
        ),
    ] = None
    vae_tiling: Annotated[
        bool,
        Field(strict=True),
        Option(
            "--vae-tiling",
            "VAE in blended tiles: less memory, not quite the same pixels.",
            docs="put frames that are larger than a tile through the VAE in blended tiles: less memory, not "
            "quite the same pixels (off; `--no-vae-tiling` overrules a run.yaml)",
            pixels=True,
        ),
    ] = False
    digest: Text | None = None
    adapter_digest: Text | None = None

    def pixel_options(self) -> dict[str, Any]:
        """The options that fingerprints count and that are set, as JSON has their values."""
        names = {name for name, option in self.options().items() if option.pixels}
        return self.model_dump(mode="json", include=names, exclude_defaults=True)


class ManifestOptions(Part):
    """Which rows are rendered.

    Args:
        uri: A Parquet file, a folder or a glob of them.
        passthrough: Columns that are no request field and are copied to the ledger.
        retry: `failed`: only the rows that were given up and are not done since; `failed:CLASS`: of these
            the ones with that error class. Good for one run, not kept in `run.yaml`.
        fields: What a run writes down of the columns that it reads for a family of another package, to know
            its rows again without the model; it asks for nothing.
    """

    uri: Text
    passthrough: tuple[Text, ...] = ()
    retry: Retry | None = None
    fields: tuple[Text, ...] | None = None


class OutputOptions(Part):
    """Where videos and ledger go, and how frames are encoded.

    Args:
        uri: Folder for `videos/`, `ledger/` and `run.yaml`.
        format: `mp4`, `gif`, `png` (a folder of frames a row) or `npy` (uint8 frames, lossless).
        fps: Frames per second of rows that do not say; by default the model's. Where the model is told a
            row's `fps`, this is the file's alone.
        crf: Quality of mp4, 0 (lossless) to 51 (worst).
        reject: Flags, of `quality.FLAGS`, of videos that are failures. It decides nothing about the pixels: a
            row that is done stays so.
        aigc_producer: Name or code of who provides the generating service: each file gets the label of
            GB 45438-2025, see `vidgen_dist.provenance`. It decides nothing about the pixels either.
        checkpoint_every: Denoising steps after which a rendering is saved in `scratch/`, to be gone on from;
            by default it is not. Nor does this decide anything about the pixels.
    """

    uri: Text
    format: Format = "mp4"
    fps: Annotated[float, Field(ge=0.01, le=1000, strict=True)] | None = None
    crf: Annotated[int, Field(ge=0, le=51, strict=True)] = 18
    reject: tuple[Flag, ...] = ()
    aigc_producer: Producer | None = None
    checkpoint_every: Annotated[int, Field(ge=1, strict=True)] | None = None


class WatchdogOptions(Part):
    """Seconds without a sign of life after which a gang is taken for dead and replaced.

    What is left out is by the device, see `vidgen_dist.runtime.watchdog.LIMITS`.

    Args:
        load: From the start to the loaded model, with the download of a hub id's weights.
        encode: Prompt, image and clip, fetched and encoded.
        denoise: One step.
        decode: All of a video's frames, or a step of it where the model tells.
        write: The file encoded and stored, and the ledger's part.
    """

    load: Seconds | None = None
    encode: Seconds | None = None
    denoise: Seconds | None = None
    decode: Seconds | None = None
    write: Seconds | None = None


class TopologyOptions(Part):
    """Where rendering runs. Decides nothing about the pixels.

    Args:
        device: `ascend`, `cpu`, or `auto`: Ascend where there are NPUs.
        replicas: Gangs that render at the same time, each a video; `auto`: the fastest split of the NPUs.
        ulysses: Ranks that share a sample's attention heads.
        ring: Ranks around which keys and values travel.
        cfg: 2 gives each half of guidance its own ranks.
        gang: Ranks of a replica, one NPU each, on CPU the cores divided between all: the product of the
            three degrees, which it is checked against.
        memory: Memory of an NPU, such as `64GB`; most of it is the model's to use.
        npus: NPUs that the run may use, where a cluster has more, or may grow to; by default what it has.
        address: A running Ray cluster to attach to (`auto`, or `host:port` of its head); by default a local
            Ray is started, and stopped at the end.
        shard_size: Rows handed to a gang at once, at most; more than 8 only as far as it renders them in a
            second.
        watchdog: See its class.
    """

    device: Annotated[Device, Option("--device", "cpu, ascend or auto.", commands=("render",))] = "auto"
    replicas: Annotated[
        Replicas, Option("--replicas", "Gangs at the same time; auto: the fastest split of the NPUs.")
    ] = 1
    ulysses: Annotated[Degree, Option("--ulysses", "Ranks of a gang that share attention heads.")] = 1
    ring: Annotated[Degree, Option("--ring", "Ranks of a gang around which keys travel.")] = 1
    cfg: Annotated[
        int,
        Field(ge=1, le=2, strict=True),
        Option("--cfg", "2: each half of guidance has its own ranks."),
    ] = 1
    gang: Annotated[
        Degree | None, Option("--gang", "Ranks of a gang, one NPU each: ulysses * ring * cfg.")
    ] = None
    memory: Annotated[Size | None, Option("--memory", "Memory of an NPU, such as 64GB.")] = None
    npus: Annotated[
        Annotated[int, Field(ge=1, strict=True)] | None,
        Option("--npus", "NPUs to use; by default all there are."),
    ] = None
    address: Annotated[
        Text | None,
        Option(
            "--address",
            "A running Ray cluster; by default a local one is started.",
            commands=("render",),
        ),
    ] = None
    shard_size: Annotated[
        int,
        Field(ge=1, le=10_000, strict=True),
        Option("--shard-size", "Rows handed to a worker at once, at most.", commands=("render",)),
    ] = 64
    watchdog: WatchdogOptions = WatchdogOptions()

    @property
    def ranks(self) -> int:
        """Ranks of a gang."""
        return self.ulysses * self.ring * self.cfg

    @model_validator(mode="after")
    def _is_whole(self) -> TopologyOptions:
        told = None
        if self.replicas == AUTO and (self.ranks > 1 or self.gang is not None):
            told = f"replicas: {AUTO} chooses the gang as well; leave gang, ulysses, ring and cfg out"
        elif self.gang is not None and self.gang != self.ranks:
            ulysses, ring, cfg = nearest_degrees(self.gang, self.ulysses, self.ring, self.cfg)
            told = (
                f"gang: {self.gang} is not allowed; ulysses {self.ulysses} * ring {self.ring} * "
                f"cfg {self.cfg} are {self.ranks} ranks; the nearest degrees of {self.gang} are "
                f"ulysses {ulysses}, ring {ring}, cfg {cfg}"
            )
        if told is not None:
            raise PydanticCustomError(_WHOLE_PART, "{told}", {"told": told})
        return self


def nearest_degrees(gang: int, ulysses: int, ring: int, cfg: int) -> tuple[int, int, int]:
    """The degrees (ulysses, ring, cfg) of a gang of that many ranks that are nearest to those given."""

    given = (ulysses, ring, cfg)

    def away(degrees: tuple[int, int, int]) -> tuple[float, int]:
        pairs = list(zip(degrees, given, strict=True))
        distance = sum(abs(math.log(new / old)) for new, old in pairs)
        # Of those that are as near, one that keeps more of what was given.
        return round(distance, 6), sum(new != old for new, old in pairs)

    possible = [
        (gang // halves // around, around, halves)
        for halves in (1, 2)
        if gang % halves == 0
        for around in range(1, gang // halves + 1)
        if gang // halves % around == 0
    ]
    return min(possible, key=away)


class FaultsOptions(Part):
    """What a run puts up with. Decides nothing about the pixels.

    Args:
        max_attempts: Times that a row is tried before it is given up, when what it failed of may pass: its
            gang died, or memory was short. Other errors are final at once; storage has a patience of its own.
        max_failures: Failed rows, as a number or as a share such as `5%` of the rows that were tried, with
            which the run goes on; with one more it stops. A share counts from the 100th row that was tried
            on, or of all rows where there are fewer. Bad rows count, as a share of all rows: they are known
            before any is tried. By default it never stops for them.
        bad_rows: What becomes of rows that are known to be bad before any is rendered: with `refuse` the run
            does not start; with `fail` they are dead letters, and the others are rendered.
        grace: After SIGTERM, what rows that are being rendered may take to end, such as `30s` or `10m`; then
            they are given up and wait for the next run.
    """

    max_attempts: Annotated[int, Field(ge=1, le=100, strict=True)] = 3
    max_failures: Failures | None = None
    bad_rows: Literal["refuse", "fail"] = "refuse"
    grace: Span = "20s"

    def failures_allowed(self, tried: int, rows: int, bad: int = 0) -> float | Fraction:
        """Rows that may have failed, beside bad ones; less than none if those are too many.

        Args:
            tried: Rows that are done or failed so far, without bad ones.
            rows: Rows that the run is to render.
            bad: Bad rows beside them.
        """
        if self.max_failures is None:
            return math.inf
        if isinstance(self.max_failures, int):
            return self.max_failures - bad
        # Exactly: 29% of 100 rows are 29.
        share = Fraction(self.max_failures.strip().rstrip("% ")) / 100
        left = share * (rows + bad) - bad
        return left * max(tried, min(rows, 100)) / rows if rows else left


class RunSpec(Part):
    """What a run is.

    Args:
        model, manifest, output, topology, faults: See their classes.
        sampling: Values for `RenderRequest` fields that rows may override.
        seed: Decides, together with a row's id, the seed of rows that bring none.
    """

    model: ModelOptions
    manifest: ManifestOptions
    output: OutputOptions
    topology: TopologyOptions = TopologyOptions()
    faults: FaultsOptions = FaultsOptions()
    sampling: dict[str, Any] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)] = 0

    def to_yaml(self) -> str:
        """The spec as YAML that `parse_spec` reads back; fields left at None are left out."""
        return yaml_core.write(self.model_dump(mode="json", exclude_none=True))

    def override(self, flags: Mapping[str, Any]) -> RunSpec:
        """The spec with some values replaced.

        Args:
            flags: Dotted key (`topology.replicas`, `sampling.num_frames`) -> value.

        Raises:
            Refused: A key or value that is not allowed.
        """
        return make_spec(_with(self.model_dump(mode="json"), flags), COMMAND_LINE)


def spec_from_flags(flags: Mapping[str, Any]) -> RunSpec:
    """A spec from dotted keys alone, as `RunSpec.override` takes them."""
    return make_spec(_with({}, flags), COMMAND_LINE)


def parse_spec(text: str | bytes, name: str) -> RunSpec:
    """Read a spec from YAML.

    Args:
        text: The content of a run.yaml, UTF-8 where it is bytes.
        name: What errors call it: the file's path or URI.

    Raises:
        Refused: Names the file, the line and the key, and says what is allowed.
    """
    try:
        stream = io.StringIO(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
        node = yaml.compose(stream, yaml_core.Loader)
        lines = dict(_lines(node, name)) if node else {}
        stream.seek(0)
        data = yaml.load(stream, yaml_core.Loader)
    except UnicodeDecodeError as error:
        raise Refused(f"{name}: not a YAML text in UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refused(f"{name}, line {line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Refused(f"{name}: not YAML: {error}") from None
    if not isinstance(data, dict):
        allowed = ", ".join(RunSpec.model_fields)
        raise Refused(f"{name}: a run spec is a mapping with the keys {allowed}; see `vidgen render --help`")
    return make_spec(data, name, lines)


def make_spec(data: Mapping[Any, Any], name: str, lines: Mapping[tuple, int] | None = None) -> RunSpec:
    """A spec from nested mappings.

    Args:
        data: As in run.yaml.
        name: What errors call the place that the data comes from.
        lines: Path of keys -> line in that place.

    Raises:
        Refused: Every key and value that is not allowed, one a line.
    """
    try:
        return RunSpec.model_validate(data)
    except ValidationError as error:
        raise _refused(error, name, lines or {}) from None


def make_model(options: Mapping[str, Any], name: str) -> ModelOptions:
    """The options of a model alone.

    Args:
        options: As under `model` in run.yaml.
        name: What errors call the place that they come from.

    Raises:
        Refused: As `make_spec`.
    """
    try:
        return ModelOptions.model_validate(options)
    except ValidationError as error:
        raise _refused(error, name, {}, ("model",)) from None


_MAPPINGS = ("model.scheduler", "sampling")
"""Keys of mappings whose own keys a spec does not declare; each is one name, dots and all."""


def _with(data: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in flags.items():
        mapping = next((known for known in _MAPPINGS if key.startswith(f"{known}.")), None)
        path, _, name = key.rpartition(".") if mapping is None else (mapping, "", key[len(mapping) + 1 :])
        inner = data
        for step in path.split(".") if path else ():
            if mapping is not None and inner.get(step) is None:
                inner[step] = {}
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise Refused(f"{COMMAND_LINE}: {key} is no key of a run spec; {step} has no parts")
        inner[name] = value
    return data


def _lines(node: yaml.Node, name: str, path: tuple = ()) -> Iterator[tuple[tuple, int]]:
    """Path of keys -> line, for every key of a YAML document; a key given twice is refused."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, name, (*path, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise Refused(f"{name}, line {line}: a key is a text; put a value with braces in it into quotes")
        if key.value in seen:
            raise Refused(f"{name}, line {line}: {_dotted((*path, key.value))} is given twice")
        seen.add(key.value)
        inner = dict(_lines(value, name, (*path, key.value)))
        yield from {**inner, (*path, key.value): line}.items()


def _refused(error: ValidationError, name: str, lines: Mapping[tuple, int], under: tuple = ()) -> Refused:
    """All of pydantic's errors, of what is under that path, one a line."""
    told = (_explain(detail, (*under, *detail["loc"]), name, lines) for detail in error.errors())
    return Refused("\n".join(dict.fromkeys(told)))


def _explain(detail: Any, path: tuple, name: str, lines: Mapping[tuple, int]) -> str:
    """One of pydantic's errors as a person wants it: place, key, value, what is allowed."""
    # A union adds the name of its member to the path, which is no key of the file.
    fields = _fields_at(path[:-1])
    at = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    place = f"{name}, line {at}" if at is not None else name
    kind = detail["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), fields, 1)
        hint = f"did you mean {_dotted((*path[:-1], near[0]))}? " if near else ""
        return f"{place}: {_dotted(path)} is no key of a run spec; {hint}allowed: {', '.join(fields)}"
    if kind == "missing":
        return f"{place}: {_dotted(path)} is missing"
    shown = shortened(repr(detail["input"]), 100)
    if kind == _WHOLE_PART:
        return f"{place}: {_dotted(path)}.{detail['msg']}"
    message = _KINDS.get(kind) or detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{place}: {_dotted(path)}: {shown} is not allowed; {message}"


_WHOLE_PART = "whole_part"
"""The kind of an error that is between several keys of a part, and names them itself."""

# What pydantic calls by the names of Python's types.
_KINDS = {
    "tuple_type": "it should be a list",
    "dict_type": "it should be a mapping of keys to values",
    "model_type": "it should be a mapping of keys to values",
}


def _fields_at(path: tuple) -> list[str]:
    model: Any = RunSpec
    for step in path:
        field = getattr(model, "model_fields", {}).get(step)
        model = _plain(field.annotation) if field else None
    return list(getattr(model, "model_fields", {}))


def _plain(annotation: Any) -> Any:
    if get_origin(annotation) is types.UnionType:
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation


def _dotted(path: tuple) -> str:
    return ".".join(str(step) for step in path)
