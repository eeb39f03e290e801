"""The public names of the package: the one list that the page of the API is made from.

What is not here may change between two releases without notice.
"""

from __future__ import annotations

from collections.abc import Mapping

_FAMILIES = "vidgen_dist.families"

PUBLIC: Mapping[str, tuple[str, ...]] = {
    "Render from Python": (
        "vidgen_dist.load_pipeline",
        "vidgen_dist.RenderRequest",
        "vidgen_dist.Refused",
        "vidgen_dist.RequestError",
    ),
    "Start runs from Python": (
        "vidgen_dist.render",
        "vidgen_dist.RunHandle",
        "vidgen_dist.background.handle.Progress",
    ),
    "Declare a family": (
        f"{_FAMILIES}.family.Family",
        f"{_FAMILIES}.family.PipelineClass",
        f"{_FAMILIES}.family.Component",
        f"{_FAMILIES}.family.ModelClass",
        f"{_FAMILIES}.family.ConfigClass",
        f"{_FAMILIES}.family.SchedulerClass",
        f"{_FAMILIES}.family.TokenizerClass",
        f"{_FAMILIES}.family.Lazy",
    ),
    "Configs": (
        "vidgen_dist.component_config.Config",
        "vidgen_dist.component_config.STRICT",
        "vidgen_dist.component_config.Positive",
        f"{_FAMILIES}.family.Configs",
        f"{_FAMILIES}.family.IndexConfig",
    ),
    "Rules": (
        f"{_FAMILIES}.common.tasks.TaskRules",
        f"{_FAMILIES}.common.tasks.TEXT_TO_VIDEO",
        f"{_FAMILIES}.common.tasks.IMAGE_TO_VIDEO",
        f"{_FAMILIES}.common.tasks.VIDEO_TO_VIDEO",
        "vidgen_dist.request.ResolvedRequest",
        "vidgen_dist.request.Field",
        "vidgen_dist.kinds.Text",
        "vidgen_dist.kinds.Flag",
        "vidgen_dist.kinds.Whole",
        "vidgen_dist.kinds.Number",
        "vidgen_dist.kinds.Image",
        "vidgen_dist.kinds.Clip",
    ),
    "Samplers": (
        "vidgen_dist.schedulers.schedule.Schedule",
        "vidgen_dist.schedulers.schedule.Memory",
    ),
    "Pipelines": (
        f"{_FAMILIES}.common.pipeline.DiffusionPipeline",
        f"{_FAMILIES}.common.prompts.PromptedPipeline",
        f"{_FAMILIES}.common.pipeline.Start",
        f"{_FAMILIES}.common.guidance.Halves",
        f"{_FAMILIES}.common.guidance.Guidance",
        f"{_FAMILIES}.common.rendering.draw_noise",
        f"{_FAMILIES}.common.rendering.round_to",
        f"{_FAMILIES}.common.rendering.to_pixels",
        "vidgen_dist.media.read_image",
    ),
    "Models": (
        f"{_FAMILIES}.common.autoencoder.VideoAutoencoder",
        f"{_FAMILIES}.common.autoencoder_layers.from_channels",
        f"{_FAMILIES}.common.autoencoder_layers.to_channels",
        "vidgen_dist.parallel.mesh.Mesh",
        "vidgen_dist.parallel.mesh.alone",
        "vidgen_dist.parallel.attention.attention",
        "vidgen_dist.parallel.blocks.run_blocks",
        "vidgen_dist.parallel.token_split.split_tokens",
        "vidgen_dist.parallel.token_split.TokenSplit",
        "vidgen_dist.parallel.frame_split.FrameSplit",
        "vidgen_dist.parallel.spatial_split.SpatialSplit",
    ),
    "Costs": (
        f"{_FAMILIES}.common.costs.Costs",
        f"{_FAMILIES}.common.costs.ModelSize",
        f"{_FAMILIES}.common.costs.Workload",
        f"{_FAMILIES}.common.costs.ParameterShapes",
        f"{_FAMILIES}.common.costs.Shapes",
        f"{_FAMILIES}.common.costs.network",
        f"{_FAMILIES}.common.costs.BlockStack",
        f"{_FAMILIES}.common.costs.autoencoder",
        f"{_FAMILIES}.common.costs.Convolution",
        f"{_FAMILIES}.common.costs.linear_weights",
    ),
}
"""Heading on the page -> its names, `package.module.name`, in the order of the page."""

MODULES: Mapping[str, str] = {
    "vidgen_dist.nn": "layers and functions that models are made of, for CPU and Ascend, named as in PyTorch",
}
"""Modules of which all that `__all__` has is public -> what is in them."""
