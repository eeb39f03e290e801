"""RunSpec: what a run is. Plain data, from `run.yaml` and flags, checked once and then frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from vidgen_dist import yaml_core
from vidgen_dist.errors import Refused
from vidgen_dist.spec.explanations import refused
from vidgen_dist.spec.faults import FaultsOptions
from vidgen_dist.spec.manifest import ManifestOptions
from vidgen_dist.spec.model import ModelOptions
from vidgen_dist.spec.option import EVERYWHERE, Option, Part, declared_options, plain_types
from vidgen_dist.spec.output import OutputOptions
from vidgen_dist.spec.topology import TopologyOptions
from vidgen_dist.spec.values import Named

COMMAND_LINE = "command line"
"""What errors call the place of a value that a flag gave."""


class RunSpec(Part):
    """What a run is. The declarations and the parts' classes say what the fields are."""

    GROUP: ClassVar = "Sampling"

    model: ModelOptions
    manifest: ManifestOptions
    output: OutputOptions
    topology: TopologyOptions = TopologyOptions()
    faults: FaultsOptions = FaultsOptions()
    sampling: Annotated[
        dict[str, Any],
        Named("a mapping of fields to values"),
        Option(
            "A sampling default by its column's name, such as num_frames=49; rows may override it.",
            flag="--set",
            unset="the model's",
            details="Repeat it for each field. What the model cannot do is refused.",
            commands=EVERYWHERE,
        ),
    ] = Field(default_factory=dict)
    seed: Annotated[
        int,
        Field(ge=0, le=2**63 - 1, strict=True),
        Named("a whole number from 0 to 2^63 - 1"),
        Option("Decides, with a row's id, the seed of rows that have none.", flag="--seed", usual=True),
    ] = 0

    def to_yaml(self) -> str:
        """The spec as YAML that `parse_spec` reads back; fields that are None are left out."""
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
        raise refused(error, RunSpec, name, lines) from None


_MAPPINGS = tuple(
    declared.key for declared in declared_options(RunSpec) if dict in plain_types(declared.field.annotation)
)
"""Keys of mappings whose own keys a spec does not declare; each of these is one name, dots and all."""


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
                raise Refused(f"{COMMAND_LINE}: {key}: unknown key; {step} is a value and has no keys")
        inner[name] = value
    return data
