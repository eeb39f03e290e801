"""Component classes that several families use."""

from __future__ import annotations

from vidgen_dist.encoders.config import ClipImageProcessorConfig, ClipTextConfig, ClipVisionConfig, T5Config
from vidgen_dist.families.common.autoencoder_kl_config import AutoencoderKLConfig
from vidgen_dist.families.family import ConfigClass, Lazy, ModelClass, SchedulerClass, TokenizerClass
from vidgen_dist.schedulers.ddim import DDIMConfig, DDIMScheduler
from vidgen_dist.schedulers.dpm_solver import DPMSolverConfig, DPMSolverMultistepScheduler
from vidgen_dist.schedulers.euler import (
    EulerAncestralConfig,
    EulerAncestralDiscreteScheduler,
    EulerConfig,
    EulerDiscreteScheduler,
)
from vidgen_dist.schedulers.flow_match import FlowMatchConfig, FlowMatchEulerDiscreteScheduler
from vidgen_dist.schedulers.lcm import LCMConfig, LCMScheduler
from vidgen_dist.schedulers.pndm import PNDMConfig, PNDMScheduler
from vidgen_dist.schedulers.unipc import UniPCConfig, UniPCMultistepScheduler

# Of transformers 4 and 5; the file `tokenizer.json` describes these completely.
_OF_ONE_FILE = (TokenizerClass("PreTrainedTokenizerFast"), TokenizerClass("TokenizersBackend"))
T5_TOKENIZERS = (TokenizerClass("T5Tokenizer"), TokenizerClass("T5TokenizerFast"), *_OF_ONE_FILE)
CLIP_TOKENIZERS = (TokenizerClass("CLIPTokenizer"), TokenizerClass("CLIPTokenizerFast"), *_OF_ONE_FILE)
LLAMA_TOKENIZERS = (TokenizerClass("LlamaTokenizer"), TokenizerClass("LlamaTokenizerFast"), *_OF_ONE_FILE)

T5 = ModelClass(T5Config, Lazy("vidgen_dist.encoders.t5:T5Encoder"), divided=False)
CLIP_TEXT = ModelClass(ClipTextConfig, Lazy("vidgen_dist.encoders.clip:CLIPTextEncoder"), divided=False)
CLIP_VISION = ModelClass(
    ClipVisionConfig, Lazy("vidgen_dist.encoders.clip_vision:CLIPVisionModelWithProjection"), divided=False
)
AUTOENCODER_KL = ModelClass(
    AutoencoderKLConfig, Lazy("vidgen_dist.families.common.autoencoder_kl:AutoencoderKL")
)
CLIP_IMAGE_PROCESSORS = (
    ConfigClass(ClipImageProcessorConfig),
    # Names in different releases of transformers: resizing with PIL, with torch, and the name before these.
    *(
        ConfigClass(ClipImageProcessorConfig, named)
        for named in ("CLIPImageProcessorPil", "CLIPImageProcessorFast", "CLIPFeatureExtractor")
    ),
)

FLOW_MATCH_EULER = SchedulerClass(FlowMatchConfig, FlowMatchEulerDiscreteScheduler)
DDIM = SchedulerClass(DDIMConfig, DDIMScheduler)
EULER = SchedulerClass(EulerConfig, EulerDiscreteScheduler)
EULER_ANCESTRAL = SchedulerClass(EulerAncestralConfig, EulerAncestralDiscreteScheduler)
PNDM = SchedulerClass(PNDMConfig, PNDMScheduler)
LCM = SchedulerClass(LCMConfig, LCMScheduler)
DPM_SOLVER = SchedulerClass(DPMSolverConfig, DPMSolverMultistepScheduler)
UNIPC = SchedulerClass(UniPCConfig, UniPCMultistepScheduler)
