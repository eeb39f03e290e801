"""The options of the output: where videos and ledger are written, and how frames are encoded."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from vidgen_dist.quality import FLAGS
from vidgen_dist.spec.option import Option, Part
from vidgen_dist.spec.values import Format, Named, NonEmptyText, Producer, QualityFlag


class OutputOptions(Part):
    """Where videos and ledger are written, and how frames are encoded.

    `reject`, `aigc_producer` and `checkpoint_every` do not change pixels: rows that are done stay done.
    The declarations say what the fields are.
    """

    GROUP: ClassVar = "Output"

    uri: Annotated[
        NonEmptyText, Option("Folder for videos, ledger and run.yaml.", argument="OUTPUT", usual=True)
    ]
    format: Annotated[
        Format,
        Option(
            "Format of the files: mp4, gif, png or npy.",
            flag="--format",
            details="`mp4` is H.264 in yuv420p, `png` a folder of frames for each row, `npy` uint8 frames "
            "without loss.",
            usual=True,
        ),
    ] = "mp4"
    fps: Annotated[
        Annotated[float, Field(ge=0.01, le=1000, strict=True)] | None,
        Option(
            "Frames per second for rows that have no fps of their own.",
            flag="--fps",
            unset="the model's",
            details="For Stable Video Diffusion it applies to the file alone, for all rows without a "
            "`file_fps`, whatever `fps` the model is given.",
            usual=True,
        ),
    ] = None
    crf: Annotated[
        int,
        Field(ge=0, le=51, strict=True),
        Option("Quality of mp4, from 0 (lossless) to 51 (worst).", flag="--crf", usual=True),
    ] = 18
    reject: Annotated[
        tuple[QualityFlag, ...],
        Named("a list of flags"),
        Option(
            f"Videos with these flags count as failures: {', '.join(FLAGS)}, with commas between.",
            flag="--reject",
            metavar="FLAG,...",
            values=FLAGS,
            unset="none: flagged videos are kept",
        ),
    ] = ()
    aigc_producer: Annotated[
        Producer | None,
        Option(
            "The provider's name or code, for the label of GB 45438-2025 in each file.",
            flag="--aigc-producer",
            metavar="NAME",
            unset="no label",
        ),
    ] = None
    checkpoint_every: Annotated[
        Annotated[int, Field(ge=1, strict=True)] | None,
        Option(
            "Save each rendering every K denoising steps, to resume from there.",
            flag="--checkpoint-every",
            metavar="K",
            unset="never",
            details="It is saved in `OUTPUT/scratch/`.",
        ),
    ] = None
