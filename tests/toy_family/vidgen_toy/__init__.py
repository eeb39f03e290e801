"""A toy family in a package of its own: it animates an image, without text."""

from __future__ import annotations

from vidgen_toy.config import DenoiserConfig, ToyConfigs, VaeConfig
from vidgen_toy.rules import FIELDS, task_rules
from vidgen_toy.sampler import TwoStepConfig, TwoStepScheduler

from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO
from vidgen_dist.families.family import Component, Family, Lazy, ModelClass, PipelineClass, SchedulerClass

_DENOISER = ModelClass(DenoiserConfig, Lazy("vidgen_toy.networks:Denoiser"))
_VAE = ModelClass(VaeConfig, Lazy("vidgen_toy.networks:Autoencoder"))

FAMILY = Family(
    name="Toy",
    key="toy",
    pipelines=(PipelineClass("ToyPipeline", IMAGE_TO_VIDEO, Lazy("vidgen_toy.pipeline:ToyPipeline")),),
    components=(
        Component("denoiser", (_DENOISER,)),
        Component("denoiser_2", (_DENOISER,)),
        Component("vae", (_VAE,)),
        Component("scheduler", (SchedulerClass(TwoStepConfig, TwoStepScheduler),)),
    ),
    configs=ToyConfigs,
    rules=task_rules,
    costs=Lazy("vidgen_toy.costs:COSTS"),
    fields=FIELDS,
)
