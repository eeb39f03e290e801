"""The options of the topology: where rendering runs, and how long a gang may be silent."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from vidgen_dist.spec.option import PLANNED, Option, Part
from vidgen_dist.spec.values import (
    AUTO,
    WHOLE_PART,
    Degree,
    DeviceChoice,
    NonEmptyText,
    Replicas,
    Size,
    WatchdogSeconds,
)

_BY_DEVICE = "by the device"


class WatchdogOptions(Part):
    """Seconds without a sign of life after which a gang counts as dead and is replaced.

    The defaults depend on the device, see `vidgen_dist.runtime.watchdog.LIMITS`.
    """

    GROUP: ClassVar = "Watchdog"

    load: Annotated[
        WatchdogSeconds | None,
        Option(
            "Seconds from the start to the loaded model.",
            unset=_BY_DEVICE,
            details="This includes the download of a hub id's weights.",
        ),
    ] = None
    encode: Annotated[
        WatchdogSeconds | None,
        Option("Seconds to fetch and encode prompt, image and clip.", unset=_BY_DEVICE),
    ] = None
    denoise: Annotated[
        WatchdogSeconds | None,
        Option("Seconds of one denoising step.", unset=_BY_DEVICE),
    ] = None
    decode: Annotated[
        WatchdogSeconds | None,
        Option(
            "Seconds to decode a video's frames.",
            unset=_BY_DEVICE,
            details="For models that report the decoding's steps, the seconds of one step.",
        ),
    ] = None
    write: Annotated[
        WatchdogSeconds | None,
        Option("Seconds to encode and store the file and the ledger's part.", unset=_BY_DEVICE),
    ] = None


class TopologyOptions(Part):
    """Where rendering runs; it does not change pixels. The declarations say what the fields are."""

    GROUP: ClassVar = "Topology"

    device: Annotated[
        DeviceChoice,
        Option(
            "Device to render on: cpu, ascend, or auto (Ascend where there are NPUs).",
            flag="--device",
            commands=("render", "encode"),
            usual=True,
        ),
    ] = "auto"
    replicas: Annotated[
        Replicas,
        Option(
            "Gangs that render at the same time, one video each; auto: the fastest split of the NPUs.",
            flag="--replicas",
            details="`auto` takes the split that `vidgen plan` puts first.",
            commands=PLANNED,
            usual=True,
        ),
    ] = 1
    ulysses: Annotated[
        Degree,
        Option(
            "Ranks of a gang that share a video's attention heads, or its frames.",
            flag="--ulysses",
            commands=PLANNED,
            usual=True,
        ),
    ] = 1
    ring: Annotated[
        Degree,
        Option("Ranks of a gang that pass keys and values around a ring.", flag="--ring", commands=PLANNED),
    ] = 1
    cfg: Annotated[
        int,
        Field(ge=1, le=2, strict=True),
        Option(
            "2: the two halves of guidance run on separate ranks.", flag="--cfg", commands=PLANNED, usual=True
        ),
    ] = 1
    gang: Annotated[
        Degree | None,
        Option(
            "Ranks of a gang, one NPU each: ulysses * ring * cfg.",
            flag="--gang",
            unset="the product of the three degrees",
            details="It is checked against that product. On CPU the ranks share the cores.",
            commands=PLANNED,
        ),
    ] = None
    memory: Annotated[
        Size | None,
        Option(
            "Memory of an NPU, such as 64GB.",
            flag="--memory",
            unset="the device's",
            details="85 % of it count as available to the model. A model that does not fit is refused before "
            "the start, and `--replicas auto` takes it into account.",
            commands=PLANNED,
        ),
    ] = None
    npus: Annotated[
        Annotated[int, Field(ge=1, strict=True)] | None,
        Option(
            "NPUs that the run may use.",
            flag="--npus",
            unset="all that there are; vidgen plan: one host's",
            details="On a cluster that grows, the run grows up to this number. `vidgen plan` divides them; "
            "without it, those that the run's replicas take.",
            commands=PLANNED,
        ),
    ] = None
    address: Annotated[
        NonEmptyText | None,
        Option(
            "A running Ray cluster to attach to: HOST:PORT of its head, or auto.",
            flag="--address",
            unset="a local Ray, stopped at the end",
            details="It must have the same Ray and Python.",
            commands=("render", "encode"),
        ),
    ] = None
    shard_size: Annotated[
        int,
        Field(ge=1, le=10_000, strict=True),
        Option(
            "Rows handed to a gang at once, at most.",
            flag="--shard-size",
            details="A gang gets more than 8 only if it renders them within a second.",
        ),
    ] = 64
    watchdog: WatchdogOptions = WatchdogOptions()

    @property
    def ranks(self) -> int:
        """Ranks of a gang."""
        return self.ulysses * self.ring * self.cfg

    @model_validator(mode="after")
    def _check_degrees(self) -> TopologyOptions:
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
            raise PydanticCustomError(WHOLE_PART, "{told}", {"told": told})
        return self


def nearest_degrees(gang: int, ulysses: int, ring: int, cfg: int) -> tuple[int, int, int]:
    """The degrees (ulysses, ring, cfg) of a gang of that many ranks that are nearest to those given."""

    given = (ulysses, ring, cfg)

    def distance(degrees: tuple[int, int, int]) -> tuple[float, int]:
        pairs = list(zip(degrees, given, strict=True))
        logarithmic = sum(abs(math.log(new / old)) for new, old in pairs)
        # Of those that are equally near, one that keeps more of what was given.
        return round(logarithmic, 6), sum(new != old for new, old in pairs)

    possible = [
        (gang // halves // around, around, halves)
        for halves in (1, 2)
        if gang % halves == 0
        for around in range(1, gang // halves + 1)
        if gang // halves % around == 0
    ]
    return min(possible, key=distance)
