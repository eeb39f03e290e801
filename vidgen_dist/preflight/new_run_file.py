"""A new run file for a checkpoint: its defaults, and in comments what else it takes, by the declarations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidgen_dist.families import find_family
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.family import Family
from vidgen_dist.families.rules import load_rules
from vidgen_dist.families.taken import TakenField, taken_fields
from vidgen_dist.preflight.sampling import check_sampling
from vidgen_dist.request import FPS
from vidgen_dist.spec import RunSpec, spec_from_flags
from vidgen_dist.spec.option import DeclaredOption, declared_options
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.yaml_core import in_line

_WIDTH = 110
_SAMPLING = "sampling"
_HOW_TO_CHANGE = 'A line such as "#crf: 18" is a default: remove the # to change it.'


@dataclass(frozen=True)
class _Entry:
    """A key of the file.

    Args:
        path: Its names, from the outermost.
        value: Its value; None is written as nothing.
        active: Whether it counts; otherwise it is a comment.
        about: What it is, in sentences.
    """

    path: tuple[str, ...]
    value: Any
    active: bool
    about: str


def new_run_file(options: Mapping[str, Any], place: str, *, brief: bool = False) -> str:
    """The text of a run file. Configs and LoRAs alone are downloaded; MindSpore is not imported.

    Args:
        options: What the file is to say, at least model, manifest and output: dotted keys of a spec and
            values, as `RunSpec.override` takes them.
        place: Path or URI that the file is to have.
        brief: Whether to leave out the options that few people change.

    Raises:
        Refused: As `open_model_checkpoint` and `load_rules`; a key or value that is not allowed, or that the
            model does not take.
    """
    spec = spec_from_flags(options)
    check_sampling(spec)
    checkpoint = open_model_checkpoint(spec.model, weights=False)
    rules = load_rules(checkpoint, spec.model.task, ring=spec.topology.ring)
    name = find_family(checkpoint).name
    title = [
        f"{spec.model.id} ({name}), {rules.task}: {describe_video(rules, spec)}.",
        "",
        f"  vidgen plan {place}",
        f"  vidgen render {place}",
    ]
    return run_file_of(checkpoint, rules, options, title, brief=brief)


def run_file_of(
    checkpoint: Checkpoint,
    rules: Rules[Any],
    options: Mapping[str, Any],
    title: Iterable[str],
    *,
    brief: bool = False,
) -> str:
    """As `new_run_file`, with the checkpoint already opened.

    Args:
        checkpoint: The opened checkpoint.
        rules: What it takes for its task.
        options, brief: As for `new_run_file`.
        title: Lines of the comment at its top.

    Raises:
        Refused: A value under `sampling` that the model does not take.
    """
    spec = spec_from_flags(options)
    rules.check_defaults(spec.sampling)
    entries = list(_entries(checkpoint, rules, spec, options, brief=brief))
    comment = [line for told in (*title, "", _HOW_TO_CHANGE) for line in _comment(told)]
    return "\n".join([*comment, *_lines(entries)]) + "\n"


def describe_video(rules: Rules[Any], spec: RunSpec) -> str:
    """The video of a row without values of its own, in words."""
    values = {**rules.defaults, **{k: v for k, v in spec.sampling.items() if v is not None}}
    frames = values.get("num_frames")
    length = "videos as long as the row's clip" if frames is None else f"{frames} frames"
    fps = spec.output.fps or _file_fps(rules)
    return f"{length} of {values['width']}x{values['height']} at {fps:g} frames per second"


def _file_fps(rules: Rules[Any]) -> float:
    """The model's frames per second for a file."""
    of_file = rules.defaults.get(rules.of_task.file_fps)
    return rules.defaults[FPS] if of_file is None else of_file


# --- entries -----------------------------------------------------------------------------------------


def _entries(
    checkpoint: Checkpoint, rules: Rules[Any], spec: RunSpec, given: Mapping[str, Any], *, brief: bool
) -> Iterator[_Entry]:
    family = find_family(checkpoint)
    useless = _useless(family, checkpoint)
    for declared in declared_options(RunSpec):
        if declared.key == _SAMPLING:
            yield from _sampling(rules, spec, brief=brief)
        elif declared.key not in useless:
            entry = _entry(declared, rules, family, spec, given)
            if entry.active or declared.option.usual or not brief:
                yield entry


def _useless(family: Family[Any], checkpoint: Checkpoint) -> set[str]:
    """Options that no run of this checkpoint may have."""
    useless = set[str]()
    if family.adapter is None or (
        checkpoint.has_component(family.adapter) and family.adapter not in checkpoint.separate
    ):
        useless |= {"model.adapter", "model.adapter_revision"}
    if not family.ring:
        useless.add("topology.ring")
    if not family.schedulers:
        useless.add("model.scheduler")
    return useless


def _entry(
    declared: DeclaredOption, rules: Rules[Any], family: Family[Any], spec: RunSpec, given: Mapping[str, Any]
) -> _Entry:
    key, about = declared.key, declared.option.help
    value = _value_at(spec, key)
    # What is given at its default is a setting too; what is given with its whole part shows by its value.
    active = any(f"{name}.".startswith(f"{key}.") for name in given) or value != _default(declared)
    if key == "model.task":
        value, active = rules.task, True
        about = f"What to render; this checkpoint can do {', '.join(rules.tasks)}."
    elif key == "model.scheduler":
        about += f" {family.name} takes {', '.join(family.schedulers)}."
    elif key == "output.fps" and not active:
        value, active = _file_fps(rules), True
    if not active and value in (None, [], {}):
        about += f" Default: {declared.default}."
    return _Entry(tuple(key.split(".")), value, active, about)


def _default(declared: DeclaredOption) -> Any:
    """What `_value_at` gives for an option that is left out."""
    value = None if declared.is_required else declared.field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


def _value_at(spec: RunSpec, key: str) -> Any:
    value: Any = spec.model_dump(mode="json", exclude_none=True)
    for step in key.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _sampling(rules: Rules[Any], spec: RunSpec, *, brief: bool) -> Iterator[_Entry]:
    for taken in taken_fields(rules):
        field = rules.declared[taken.name]
        is_told = taken.name == FPS and rules.of_task.file_fps != FPS
        if field.per_row or (field.not_sampling and not is_told):
            continue
        is_given = taken.name in spec.sampling
        value = spec.sampling[taken.name] if is_given else taken.default
        active = is_given or (field.usual and value not in (None, ""))
        if active or field.usual or not brief:
            yield _Entry((_SAMPLING, taken.name), value, active, _about(taken))


def _about(taken: TakenField) -> str:
    about = f"{taken.about[:1].upper()}{taken.about[1:]}."
    # Kinds without a range are seen from the value.
    if any(character.isdigit() for character in taken.takes):
        about += f" Allowed: {taken.takes}."
    return f"{about} Every row needs one, unless it is here." if taken.required else about


# --- text --------------------------------------------------------------------------------------------


def _lines(entries: Sequence[_Entry]) -> Iterator[str]:
    """The lines of the file. A part's own key always counts: with nothing in it, it has its defaults."""
    before: tuple[str, ...] = ()
    for entry in entries:
        part = entry.path[:-1]
        if part[:1] != before[:1] or not part:
            yield ""
        for depth in range(len(part)):
            if part[: depth + 1] != before[: depth + 1]:
                yield _key(part[: depth + 1], active=True)
        before = part
        indent = "  " * len(part)
        yield from _comment(entry.about, indent)
        yield from _written(entry.path, entry.value, entry.active)


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """A text as lines of a comment. One that begins with a space is a command, which stays whole."""
    whole = text.startswith(" ") or not text
    for line in [text] if whole else textwrap.wrap(text, _WIDTH - len(indent) - 2, break_on_hyphens=False):
        yield f"{indent}# {line}".rstrip()


def _written(path: tuple[str, ...], value: Any, active: bool) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield _key(path, active)
        for name, inner in value.items():
            yield from _written((*path, str(name)), inner, active)
    else:
        yield f"{_key(path, active)} {'' if value is None else in_line(value)}".rstrip()


def _key(path: tuple[str, ...], active: bool) -> str:
    return f"{'  ' * (len(path) - 1)}{'' if active else '#'}{in_line(path[-1])}:"
