"""Train the demo's CogVideoX checkpoint on drawn clips.

    python -m tests.demo_model.train vae WORK
    python -m tests.demo_model.train whiten WORK
    python -m tests.demo_model.train transformer WORK
    python -m tests.demo_model.train export WORK vidgen_dist/demo/model
    python -m tests.demo_model.train start WORK vidgen_dist/demo/model --step 10900

It needs an environment of its own (`requirements.txt` beside this file). `vae` and `transformer` save their
state in the folder WORK every few minutes; the same command goes on from it. What a step draws depends on its
number alone, so an interrupted training sees the same data as one that was not. `whiten` changes what the
VAE's latents are, and nothing of its frames. `export` writes the averaged weights of the states in the
published layout, in float16; it may be called while a training runs. `start` makes states of an exported
checkpoint, so that training can go on from it where the states are lost.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import sentencepiece
import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from tests.demo_model.clips import FRAMES, SIZE, Clip, all_clips, draw, trained_clips
from tests.demo_model.muon import MuonAndAdam

SEED = 0
TEXT_TOKENS = 16
SAVE_SECONDS = 180.0
BFLOAT16 = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
"""Whether bfloat16 is faster than float32: without AVX-512 it is many times slower."""

VAE_STEPS = 4200
VAE_FULL_FRAMES_FROM = 0.75
"""Before this part of its steps the VAE sees crops around the shape, where the edges are."""
VAE_CROP = 32

TRANSFORMER_STEPS = 10900
CLIPS = 6000
BATCH = 24
MUON_FROM = 96
"""The shortest side of matrices that Muon trains: the transformer's and the text encoder's products. After
120 steps from one state its loss was 0.266, AdamW's 0.283, on the same clips."""
TEXT_DROPPED = 0.1
TOWARDS_NOISE = 2.0
"""First parameter of the beta distribution of timesteps: what the text says is decided where there is much
noise, an outline where there is less. The first 5,450 steps had 3."""
SHAPE_FROM = 2.0
"""Length of the difference to the ground's latent from which a place is the shape's."""
SHAPE_WEIGHT = 4.0
"""How much more an error counts on the shape than on the ground, which has four fifths of the latents. The
first 5,450 steps had 1."""
SHAPE_SHARES = {"circle": 1.0, "square": 3.0, "triangle": 2.0, "cross": 5.0}
"""How often a clip of a shape is drawn, beside the others: the more often, the less it was learnt. The first
6,871 steps drew all alike."""

VAE_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("CogVideoXDownBlock3D",) * 3,
    "up_block_types": ("CogVideoXUpBlock3D",) * 3,
    "block_out_channels": (24, 32, 48),
    "latent_channels": 8,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "temporal_compression_ratio": 4,
    "sample_height": SIZE,
    "sample_width": SIZE,
}
TRANSFORMER_CONFIG: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "in_channels": 8,
    "out_channels": 8,
    "time_embed_dim": 64,
    "text_embed_dim": 96,
    "num_layers": 7,
    "sample_width": SIZE // 4,
    "sample_height": SIZE // 4,
    "sample_frames": FRAMES,
    "patch_size": 2,
    "temporal_compression_ratio": 4,
    "max_text_seq_length": TEXT_TOKENS,
    "use_rotary_positional_embeddings": True,
}
TEXT_ENCODER_CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 96,
    "d_kv": 24,
    "d_ff": 192,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 32,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
}


@dataclass
class Training:
    """Weights that are being trained, their running average, and the state on disk.

    Args:
        name: Of the state's file.
        parameters: The weights.
        steps: How many steps it takes in all.
        rate: The highest rate.
        decay: Of the running average.
        work: The folder of the state.
        smallest_matrix: Matrices that have no shorter side are trained by Muon; None for AdamW alone.
    """

    name: str
    parameters: list[torch.nn.Parameter]
    steps: int
    rate: float
    decay: float
    work: Path
    smallest_matrix: int | None = None

    def __post_init__(self) -> None:
        adam = {"betas": (0.9, 0.99), "weight_decay": 0.01, "fused": True}
        self.optimizer: Any = (
            torch.optim.AdamW(self.parameters, lr=self.rate, **adam)
            if self.smallest_matrix is None
            else MuonAndAdam(self.parameters, self.rate, self.smallest_matrix, **adam)
        )
        self.average_anew()
        self.step, self.seconds = 0, 0.0
        self._path = self.work / f"{self.name}.pt"
        if self._path.exists():
            state = torch.load(self._path, weights_only=False)
            self.step, self.seconds = state["step"], state["seconds"]
            self.optimizer.load_state_dict(state["optimizer"])
            for target, source in ((self.parameters, state["parameters"]), (self.average, state["average"])):
                for t, s in zip(target, source, strict=True):
                    t.data.copy_(s)

    def run(self, loss_of: Callable[[int, np.random.Generator], torch.Tensor]) -> None:
        """Take the steps that are left."""
        started = saved = time.monotonic()
        before = self.seconds
        smooth = None
        while self.step < self.steps:
            warm = min(1.0, (self.step + 1) / 150)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * warm * (0.5 * (1 + np.cos(np.pi * self.step / self.steps)) + 0.01)
            torch.manual_seed(SEED * 1_000_003 + self.step)
            loss = loss_of(self.step, np.random.default_rng((SEED, self.step)))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
            value = loss.item()
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - started
            if self.step % 50 == 0:
                print(
                    f"{self.name} {self.step}/{self.steps} loss {smooth:.4f} {self.seconds:.0f} s", flush=True
                )
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()

    def save(self) -> None:
        state = {
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
            "optimizer": self.optimizer.state_dict(),
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average,
        }
        fresh = self._path.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, self._path)

    def average_anew(self) -> None:
        """Let the average begin with the weights that are in the model."""
        self.average = [p.detach().clone() for p in self.parameters]

    def use_average(self) -> None:
        """Put the averaged weights into the model."""
        with torch.no_grad():
            for parameter, averaged in zip(self.parameters, self.average, strict=True):
                parameter.copy_(averaged)


def vae_training(work: Path, steps: int) -> tuple[diffusers.AutoencoderKLCogVideoX, Training]:
    torch.manual_seed(SEED)
    vae = diffusers.AutoencoderKLCogVideoX(**VAE_CONFIG)
    return vae, Training("vae", list(vae.parameters()), steps, rate=1.5e-3, decay=0.995, work=work)


def train_vae(work: Path, steps: int) -> None:
    vae, training = vae_training(work, steps)
    clips = trained_clips()

    def loss_of(step: int, generator: np.random.Generator) -> torch.Tensor:
        full = step >= VAE_FULL_FRAMES_FROM * steps
        drawn = [draw(clip, generator) for clip in _chosen(clips, generator, 4 if full else 8)]
        x = _video(drawn if full else [_crop(frames, generator) for frames in drawn])
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample.float()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return (y - x).abs().mean() + 2 * (y - x).pow(2).mean() + 3e-4 * divergence

    training.run(loss_of)
    training.use_average()
    print(f"vae: {_decibels(vae):.1f} dB on 32 clips that it never saw, {training.seconds:.0f} s")


def _decibels(vae: diffusers.AutoencoderKLCogVideoX) -> float:
    generator = np.random.default_rng(1)
    errors = []
    with torch.no_grad():
        for clip in [clip for clip in all_clips() if clip.held_out][:32]:
            x = _video([draw(clip, generator)])
            y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            errors.append((y - x).pow(2).mean().item() / 4)
    return float(-10 * np.log10(np.mean(errors)))


def whiten(work: Path) -> None:
    """Give the VAE's latents the mean 0 and the covariance 1 by another basis of their channels.

    As they are trained, colours have nearly all of their variance, and outlines and motions a hundredth:
    noise hides those first, and a loss hardly counts them. The change of basis goes into the encoder's last
    convolution, and its inverse into all of the decoder's that read latents. It is exact but for what the
    decoder's first convolution sees in its padding.
    """
    vae, state = vae_training(work, VAE_STEPS)
    state.use_average()
    before = _decibels(vae)
    spectrum = _change_basis(vae, *_latents_and_variance(vae))
    state.average_anew()
    state.save()
    print(f"spectrum {spectrum.numpy().round(4)}; {before:.2f} dB before, {_decibels(vae):.2f} dB after")


@torch.no_grad()
def _latents_and_variance(vae: diffusers.AutoencoderKLCogVideoX) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (C, N) of 240 clips, and the average variance (C,) of their posteriors."""
    generator = np.random.default_rng((SEED, 3))
    clips = trained_clips()
    means, variances = [], []
    for _ in range(20):
        chosen = _chosen(clips, generator, 12)
        posterior = vae.encode(_video([draw(clip, generator) for clip in chosen])).latent_dist
        means.append(posterior.mean.transpose(0, 1).flatten(1).double())
        variances.append(posterior.var.transpose(0, 1).flatten(1).double())
    return torch.cat(means, 1), torch.cat(variances, 1).mean(1)


@torch.no_grad()
def _change_basis(
    vae: diffusers.AutoencoderKLCogVideoX, latents: torch.Tensor, variance: torch.Tensor
) -> torch.Tensor:
    """Whiten the VAE's latents, of which these are some; returns the spectrum (C,) of their covariance."""
    mean = latents.mean(1)
    spectrum, basis = torch.linalg.eigh(torch.cov(latents))
    to, back = spectrum.rsqrt()[:, None] * basis.T, basis * spectrum.sqrt()
    last = vae.encoder.conv_out.conv
    old = last.weight.double().chunk(2)[0]
    last.weight.copy_(torch.cat([torch.einsum("ij,jcthw->icthw", to, old), torch.zeros_like(old)]))
    # Convolutions compute the logarithms of a posterior's variances, which have no linear map to the new
    # basis: they become constants, the variances' averages there.
    logvar = (to.square() @ variance).log()
    last.bias.copy_(torch.cat([to @ (last.bias.double().chunk(2)[0] - mean), logvar]))
    reading = [vae.decoder.conv_in]
    for norm in vae.decoder.modules():
        if isinstance(norm, CogVideoXSpatialNorm3D):
            reading += [norm.conv_y, norm.conv_b]
    for conv in (causal.conv for causal in reading):
        weight = conv.weight.double()
        conv.bias.add_(torch.einsum("ojthw,j->o", weight, mean))
        conv.weight.copy_(torch.einsum("ojthw,ji->oithw", weight, back))
    return spectrum


def _chosen(clips: Sequence[Clip], generator: np.random.Generator, count: int) -> list[Clip]:
    return [clips[i] for i in generator.integers(len(clips), size=count)]


def _video(drawn: Sequence[np.ndarray]) -> torch.Tensor:
    """Drawn frames, each (F, H, W, 3) in 0 to 1, as the VAE takes them: (B, 3, F, H, W) in -1 to 1."""
    return torch.from_numpy(np.stack(drawn)).permute(0, 4, 1, 2, 3) * 2 - 1


def _crop(frames: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A crop of clip frames (F, H, W, 3) near a pixel that changes or is not the ground's."""
    ground = frames[0, 0, 0]
    _, rows, columns = np.nonzero(np.abs(frames - ground).sum(-1) > 0.1)
    pick = generator.integers(len(rows))
    top, left = (
        int(np.clip(at - VAE_CROP // 2 + generator.integers(-8, 9), 0, SIZE - VAE_CROP)) // 4 * 4
        for at in (rows[pick], columns[pick])
    )
    return frames[:, top : top + VAE_CROP, left : left + VAE_CROP]


def make_tokenizer(folder: Path) -> transformers.T5Tokenizer:
    """A tokenizer of whole words, in lower case."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spiece.model"
    if not path.exists():
        # Not into a file at once: the model would keep its path.
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([clip.prompt for clip in all_clips()]),
            model_writer=model,
            vocab_size=TEXT_ENCODER_CONFIG["vocab_size"],
            model_type="word",
            normalization_rule_name="nmt_nfkc_cf",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        path.write_bytes(model.getvalue())
    return transformers.T5Tokenizer(str(path), extra_ids=0, legacy=True)


def token_ids(tokenizer: transformers.T5Tokenizer, prompts: list[str]) -> torch.Tensor:
    """Ids (B, TEXT_TOKENS), padded as the pipeline pads them."""
    encoded = tokenizer(
        prompts, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def transformer_training(
    work: Path, steps: int
) -> tuple[diffusers.CogVideoXTransformer3DModel, transformers.T5EncoderModel, Training]:
    torch.manual_seed(SEED + 1)
    text_encoder = transformers.T5EncoderModel(transformers.T5Config(**TEXT_ENCODER_CONFIG))
    transformer = diffusers.CogVideoXTransformer3DModel(**TRANSFORMER_CONFIG)
    parameters = [*transformer.parameters(), *text_encoder.parameters()]
    return (
        transformer,
        text_encoder,
        Training(
            "transformer", parameters, steps, rate=1.3e-3, decay=0.998, work=work, smallest_matrix=MUON_FROM
        ),
    )


def latents_of_clips(
    work: Path, vae: diffusers.AutoencoderKLCogVideoX
) -> tuple[torch.Tensor, list[str], float]:
    """Latents (CLIPS, T, C, H, W) of clips, their prompts, and the factor that made their deviation 1."""
    path = work / "latents.pt"
    if not path.exists():
        generator = np.random.default_rng((SEED, 2))
        clips = trained_clips()
        latents, prompts = [], []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            for _ in range(CLIPS // 12):
                chosen = _chosen(clips, generator, 12)
                mode = vae.encode(_video([draw(clip, generator) for clip in chosen])).latent_dist.mode()
                latents.append(mode.float().permute(0, 2, 1, 3, 4))
                prompts += [clip.prompt for clip in chosen]
        together = torch.cat(latents)
        factor = 1 / together.std().item()
        torch.save(
            {"latents": together * factor, "prompts": prompts, "factor": factor}, path.with_suffix(".new")
        )
        os.replace(path.with_suffix(".new"), path)
    saved = torch.load(path, weights_only=False)
    return saved["latents"], saved["prompts"], saved["factor"]


def weights_of(latents: torch.Tensor) -> torch.Tensor:
    """How much errors count (N, T, 1, H, W), on average 1: latents (N, T, C, H, W) of a shape count more."""
    ground = latents.flatten(3).median(dim=3).values[..., None, None]
    on_shape = (latents - ground).square().sum(dim=2, keepdim=True).sqrt() > SHAPE_FROM
    weights = 1 + (SHAPE_WEIGHT - 1) * on_shape
    return weights / weights.mean()


def train_transformer(work: Path, steps: int) -> None:
    vae, vae_state = vae_training(work, VAE_STEPS)
    vae_state.use_average()
    latents, prompts, factor = latents_of_clips(work, vae)
    tokenizer = make_tokenizer(work / "tokenizer")
    ids, empty = token_ids(tokenizer, prompts), token_ids(tokenizer, [""])
    weights = weights_of(latents)
    shares = np.array([SHAPE_SHARES[prompt.split()[2]] for prompt in prompts])
    shares /= shares.sum()
    transformer, text_encoder, training = transformer_training(work, steps)
    scheduler = diffusers.CogVideoXDDIMScheduler(**SCHEDULER_CONFIG)
    grid, length = SIZE // 8, latents.shape[1]
    rotary = get_3d_rotary_pos_embed(
        embed_dim=TRANSFORMER_CONFIG["attention_head_dim"],
        crops_coords=((0, 0), (grid, grid)),
        grid_size=(grid, grid),
        temporal_size=length,
    )
    # Compiling takes two minutes, and gains a fifth of a step in bfloat16, nothing in float32.
    compiled = torch.compile(transformer) if BFLOAT16 else transformer
    print(f"latents {tuple(latents.shape)}, factor {factor:.3f}", flush=True)

    def loss_of(_: int, generator: np.random.Generator) -> torch.Tensor:
        chosen = torch.from_numpy(generator.choice(len(latents), BATCH, p=shares))
        x, text = latents[chosen], ids[chosen].clone()
        text[torch.from_numpy(generator.random(BATCH) < TEXT_DROPPED)] = empty
        times = torch.from_numpy((1000 * generator.beta(TOWARDS_NOISE, 1.0, BATCH)).astype(np.int64)).clamp(
            0, 999
        )
        noise = torch.randn_like(x)
        noised, target = scheduler.add_noise(x, noise, times), scheduler.get_velocity(x, noise, times)
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            predicted = compiled(
                hidden_states=noised,
                encoder_hidden_states=text_encoder(text)[0],
                timestep=times,
                image_rotary_emb=rotary,
                return_dict=False,
            )[0]
        return (weights[chosen] * (predicted.float() - target).pow(2)).mean()

    training.run(loss_of)
    print(f"transformer: {training.seconds:.0f} s")


def export(work: Path, target: Path) -> None:
    """Write the averaged weights of both trainings as a checkpoint, in float16."""
    vae, vae_state = vae_training(work, VAE_STEPS)
    transformer, text_encoder, state = transformer_training(work, TRANSFORMER_STEPS)
    vae_state.use_average()
    state.use_average()
    vae.register_to_config(scaling_factor=torch.load(work / "latents.pt", weights_only=False)["factor"])
    tokenizer = make_tokenizer(work / "tokenizer")
    scheduler = diffusers.CogVideoXDDIMScheduler(**SCHEDULER_CONFIG)
    for name, part in _parts(vae, transformer, text_encoder, tokenizer, scheduler):
        shutil.rmtree(target / name, ignore_errors=True)
        if isinstance(part, torch.nn.Module):
            part.half()
        part.save_pretrained(target / name)
    index = {
        "_class_name": "CogVideoXPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"{target}: VAE of step {vae_state.step}, transformer of step {state.step}")


def start(work: Path, checkpoint: Path, step: int) -> None:
    """Make states of a checkpoint's weights, the transformer's after so many steps; optimizers begin anew."""
    vae, vae_state = vae_training(work, VAE_STEPS)
    transformer, text_encoder, state = transformer_training(work, TRANSFORMER_STEPS)
    vae.load_state_dict(vae.from_pretrained(checkpoint / "vae").state_dict())
    transformer.load_state_dict(transformer.from_pretrained(checkpoint / "transformer").state_dict())
    text_encoder.load_state_dict(text_encoder.from_pretrained(checkpoint / "text_encoder").state_dict())
    for training, steps in ((vae_state, VAE_STEPS), (state, step)):
        training.average_anew()
        training.step = steps
        training.save()
    shutil.copytree(checkpoint / "tokenizer", work / "tokenizer")


def _parts(
    vae: Any, transformer: Any, text_encoder: Any, tokenizer: Any, scheduler: Any
) -> Iterator[tuple[str, Any]]:
    yield "vae", vae
    yield "transformer", transformer
    yield "text_encoder", text_encoder
    yield "tokenizer", tokenizer
    yield "scheduler", scheduler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, steps in (("vae", VAE_STEPS), ("transformer", TRANSFORMER_STEPS)):
        command = commands.add_parser(name)
        command.add_argument("work", type=Path)
        command.add_argument("--steps", type=int, default=steps)
    command = commands.add_parser("whiten")
    command.add_argument("work", type=Path)
    command = commands.add_parser("export")
    command.add_argument("work", type=Path)
    command.add_argument("target", type=Path)
    command = commands.add_parser("start")
    command.add_argument("work", type=Path)
    command.add_argument("checkpoint", type=Path)
    command.add_argument("--step", type=int, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.command == "start":
        start(arguments.work, arguments.checkpoint, arguments.step)
    elif arguments.command == "whiten":
        whiten(arguments.work)
    elif arguments.command == "vae":
        train_vae(arguments.work, arguments.steps)
    elif arguments.command == "transformer":
        train_transformer(arguments.work, arguments.steps)
    else:
        export(arguments.work, arguments.target)


if __name__ == "__main__":
    main()
