"""RunSpec: what a run is, and the options that it has, each declared once beside its field.

A module a part: `model`, `manifest`, `output`, `topology`, `faults`, and `run` for the whole. The flags
(`vidgen_dist.cli.flags`), messages (`explanations`) and the documentation's table (`documentation`) follow
from the declarations (`option`). Whether a model can do what `sampling` asks for, the model's rules say.
"""

from vidgen_dist.spec.faults import FaultsOptions
from vidgen_dist.spec.lora import LoraOptions
from vidgen_dist.spec.manifest import ManifestOptions
from vidgen_dist.spec.model import ModelOptions, make_model
from vidgen_dist.spec.option import Command, Option, Part
from vidgen_dist.spec.output import OutputOptions
from vidgen_dist.spec.parsing import parse_spec
from vidgen_dist.spec.run import COMMAND_LINE, RunSpec, make_spec, spec_from_flags
from vidgen_dist.spec.topology import TopologyOptions, WatchdogOptions, nearest_degrees
from vidgen_dist.spec.values import AUTO, Task, parse_bytes, parse_seconds

__all__ = [
    "AUTO",
    "COMMAND_LINE",
    "Command",
    "FaultsOptions",
    "LoraOptions",
    "ManifestOptions",
    "ModelOptions",
    "Option",
    "OutputOptions",
    "Part",
    "RunSpec",
    "Task",
    "TopologyOptions",
    "WatchdogOptions",
    "make_model",
    "make_spec",
    "nearest_degrees",
    "parse_bytes",
    "parse_seconds",
    "parse_spec",
    "spec_from_flags",
]
