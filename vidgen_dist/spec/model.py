"""The options of models: which checkpoint renders, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from vidgen_dist.spec.explanations import refused
from vidgen_dist.spec.lora import LoraOptions
from vidgen_dist.spec.option import EVERYWHERE, PLANNED, Option, Part
from vidgen_dist.spec.values import Named, NonEmptyText, Settings, Task


class ModelOptions(Part):
    """Which checkpoint renders, and how it is read.

    This value is handed as it is to whatever opens, builds and loads a checkpoint.

    Args:
        digest, adapter_digest: Digests of folders, which a run records to recognise them elsewhere; they are
            not options.
        row_loras: LoRAs that rows name, with their commits and digests, for workers; no option either. The
            declarations say what the other fields are.
    """

    GROUP: ClassVar = "Model"

    id: Annotated[
        NonEmptyText,
        Option(
            "Hub id or folder of the checkpoint.",
            flag="--model",
            details="A folder has diffusers' layout.",
            commands=EVERYWHERE,
            usual=True,
        ),
    ]
    task: Annotated[
        Task | None,
        Option(
            "What to render: text-to-video, image-to-video or video-to-video.",
            flag="--task",
            unset="what the checkpoint says",
            commands=EVERYWHERE,
            usual=True,
        ),
    ] = None
    revision: Annotated[
        NonEmptyText | None,
        Option(
            "Branch, tag or commit of a hub id.",
            flag="--revision",
            unset="main",
            details="`run.yaml` records the commit.",
            commands=EVERYWHERE,
        ),
    ] = None
    variant: Annotated[
        NonEmptyText | None,
        Option(
            "Variant of the weight files, such as fp16.",
            flag="--variant",
            unset="the files without a variant",
            commands=EVERYWHERE,
            usual=True,
        ),
    ] = None
    dtype: Annotated[
        NonEmptyText | None,
        Option(
            "Type in which the models compute: float32, float16 or bfloat16.",
            flag="--dtype",
            values=("float32", "float16", "bfloat16"),
            unset="bfloat16 on Ascend, float32 on CPU",
            details="The CPU allows only float32.",
            commands=PLANNED,
            usual=True,
        ),
    ] = None
    adapter: Annotated[
        NonEmptyText | None,
        Option(
            "AnimateDiff's motion adapter: hub id or folder.",
            flag="--adapter",
            details="For example `guoyww/animatediff-motion-adapter-v1-5-2`. Other families refuse it.",
            commands=EVERYWHERE,
            usual=True,
        ),
    ] = None
    adapter_revision: Annotated[
        NonEmptyText | None,
        Option(
            "Branch, tag or commit of the adapter's hub id.",
            flag="--adapter-revision",
            unset="main",
            details="`run.yaml` records the commit.",
            commands=EVERYWHERE,
        ),
    ] = None
    loras: Annotated[
        tuple[LoraOptions, ...],
        Named("a list of LoRAs"),
        Option(
            "A LoRA that is added to the weights: hub id, folder, path or URI, and :SCALE if not 1.",
            flag="--lora",
            metavar="PLACE[:SCALE]",
            details="Repeat it for several; they are added in this order. In `run.yaml` each is such a text, "
            "or a mapping of `id`, `scale`, `revision` and `weight_name`; commits and digests are recorded.",
            whole_texts=True,
            commands=EVERYWHERE,
            usual=True,
        ),
    ] = ()
    lora_ignore_unknown: Annotated[
        bool,
        Field(strict=True),
        Option(
            "Leave out keys of LoRAs that fit nothing in the model, instead of refusing them.",
            flag="--lora-ignore-unknown",
        ),
    ] = False
    contract: Annotated[
        Literal["refuse", "warn"],
        Option(
            "What to do about rows that contradict a LoRA's or checkpoint's sampling contract: refuse, warn.",
            flag="--contract",
            commands=EVERYWHERE,
        ),
    ] = "refuse"
    scheduler: Annotated[
        Settings | None,
        Option(
            "A setting that overrides the checkpoint's scheduler config; _class_name selects another class.",
            flag="--scheduler",
            unset="the checkpoint's config",
            details="Repeat it for each setting, such as `--scheduler _class_name=DDIMScheduler --scheduler "
            "clip_sample=false`. In `run.yaml` it is a mapping; the flags replace its keys one by one.",
            pixels=True,
            commands=EVERYWHERE,
            usual=True,
        ),
    ] = None
    prompt_cache: Annotated[
        NonEmptyText | None,
        Option(
            "Folder or URI that keeps encoded prompts: later runs over them need no text encoder.",
            flag="--prompt-cache",
            details="It may be shared by runs, models and hosts.",
            commands=("render", "encode"),
        ),
    ] = None
    vae_tiling: Annotated[
        bool,
        Field(strict=True),
        Option(
            "Run the VAE in blended tiles: less memory, slightly different pixels.",
            flag="--vae-tiling",
            details="Frames that fit into one tile stay the same. `--no-vae-tiling` overrides `run.yaml`.",
            pixels=True,
            commands=PLANNED,
        ),
    ] = False
    digest: NonEmptyText | None = None
    adapter_digest: NonEmptyText | None = None
    row_loras: tuple[LoraOptions, ...] | None = None

    def pixel_options(self) -> dict[str, Any]:
        """The options that fingerprints count and that are set, with their values as JSON has them."""
        names = {name for name, option in self.options().items() if option.pixels}
        return self.model_dump(mode="json", include=names, exclude_defaults=True)


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
        raise refused(error, ModelOptions, name, under=("model",)) from None
