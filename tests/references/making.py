"""What the scripts that make references share. Runs where torch and diffusers are installed, never in tests.

A reference is a tiny checkpoint with random weights, rendered by diffusers. Two things make comparison
possible: noise that NumPy can draw too, and weights none of which can be left out without a visible
    difference.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

CLIPPED_AT_MOST = 0.2

PROMPT = "A red fox runs through the snow while a violin plays at night."
SENTENCES = """
A red fox runs through the snow while the sun sets behind the mountains.
Waves roll over a quiet beach; a dog chases a ball along the water.
An old train crosses a bridge in the rain, steam rising over the river.
A street musician plays the violin at night under yellow lamps.
Time lapse of clouds over a city, cars like ribbons of light.
A panda sits on a small wooden stool in a bamboo forest and plays a guitar.
Close up of a hummingbird drinking from a purple flower, slow motion.
blurry, low quality, watermark, distorted hands, jpeg artifacts
The camera pans from left to right across a field of sunflowers.
Two children fly a kite shaped like a dragon; its tail is green and gold.
""".strip().splitlines()


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Gives every parameter a random value that changes the module's output.

    Matrices and kernels are normal with variance 1 / fan-in, so that no branch vanishes next to its
    residual; scales and biases, which usually start at 1 and 0, are jittered around these.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in embeddings:
                parameter.copy_(noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.2 * noise)


def sentencepiece_model(vocabulary: int = 300) -> bytes:
    """A unigram model with T5's special tokens: pad 0, end of sequence 1, unknown 2."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=out,
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        # The default rule's table alone has 240 kB.
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


def t5_tokenizer(kind: type, **settings: Any) -> Any:
    """A tokenizer of one of T5's classes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spiece.model"
        path.write_bytes(sentencepiece_model())
        return kind(str(path), **settings)


def t5_encoder(tokenizer: Any) -> torch.nn.Module:
    """A tiny T5 v1.1, whose weights are not random yet (`randomise`)."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer) + 4,
            d_model=32,
            # Three heads of 12 are 36, not d_model: a layer that confuses the two does not load.
            d_kv=12,
            num_heads=3,
            d_ff=40,
            num_layers=2,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )


def clip_tokenizer() -> Any:
    """Bytes, a few pairs of letters, and the two special tokens, whose ids are the highest."""
    from transformers import CLIPTokenizer
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    pairs = ["t h", "th e</w>", "i n", "in g</w>", "r o", "a n", "an d</w>", "s n", "sn o", "sno w</w>"]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *(p.replace(" ", "") for p in pairs)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        words, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        words.write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8")
        merges.write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
        return CLIPTokenizer(str(words), str(merges), model_max_length=77)


@contextlib.contextmanager
def numpy_noise(seed: int) -> Iterator[None]:
    """Let diffusers draw its noise from NumPy's PCG64, in its own order.

    It draws with its own `randn_tensor`, which most modules import by name, and in some places with torch's
    `randn` and `randn_like`.
    """
    rng = np.random.Generator(np.random.PCG64(seed))

    def draw(shape: Any, *_: Any, dtype: Any = None, **__: Any) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(tuple(shape))).to(dtype or torch.float32)

    def draw_like(tensor: torch.Tensor, **_: Any) -> torch.Tensor:
        return draw(tensor.shape, dtype=tensor.dtype)

    places = [
        (module, "randn_tensor", draw)
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "diffusers"
        and hasattr(module, "__dict__")
        and "randn_tensor" in vars(module)
    ]
    places += [(torch, "randn", draw), (torch, "randn_like", draw_like)]
    originals = [getattr(module, name) for module, name, _ in places]
    for module, name, drawing in places:
        setattr(module, name, drawing)
    try:
        yield
    finally:
        for (module, name, _), original in zip(places, originals, strict=True):
            setattr(module, name, original)


@contextlib.contextmanager
def recorded(target: Any, method: str, keep: Callable[..., None]) -> Iterator[None]:
    """Call `keep(result, *args, **kwargs)` after each call of `target.method`."""
    original = getattr(target, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        keep(result, *args, **kwargs)
        return result

    setattr(target, method, call)
    try:
        yield
    finally:
        delattr(target, method)


def picture(seed: int, height: int, width: int) -> Image.Image:
    """A smooth colour picture with a few hard edges, so that resizing and encoding are both visible."""
    return Image.fromarray(clip(seed, 1, height, width)[0])


def clip(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """uint8 frames (F, H, W, 3): drifting waves and a moving square."""
    rng = np.random.Generator(np.random.PCG64(seed))
    phase = rng.uniform(0, 2 * np.pi, 3)
    speed = rng.uniform(0.2, 0.6, 3)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(0.21 * y + 0.17 * (c + 1) * x + phase[c] + speed[c] * t) for c in range(3)]
    video = np.stack(waves, axis=-1) * 100 + 128
    for frame in range(frames):
        top, left = height // 4 + frame, width // 3 + frame
        video[frame, top : top + height // 4, left : left + width // 4] = (235, 40, 90)
    return video.round().clip(0, 255).astype(np.uint8)


def numbers(value: torch.Tensor) -> np.ndarray:
    """A contiguous copy, because safetensors writes memory as it is."""
    return np.ascontiguousarray(value.detach().cpu().numpy())


def first_and_last(
    steps: list[tuple[Any, dict[str, Any]]], *keys: str, model: str = "transformer"
) -> dict[str, np.ndarray]:
    """The model's inputs and output at the first and the last step."""
    pieces = {}
    for name, (output, inputs) in (("first", steps[0]), ("last", steps[-1])):
        for key in keys:
            if inputs.get(key) is not None:
                pieces[f"{model}.{name}.{key}"] = numbers(inputs[key])
        pieces[f"{model}.{name}.output"] = numbers(output)
    return pieces


class VaePieces:
    """A VAE's results for random latents and for clips.

    Attributes:
        pieces: For decoding `vae.<name>.{input,output}`, for encoding `vae.<name>.{input,mean,logvar}`.
    """

    def __init__(self, vae: Any, seed: int) -> None:
        self.pieces: dict[str, np.ndarray] = {}
        self._vae, self._seed = vae, seed
        self._rng = np.random.Generator(np.random.PCG64(seed))

    @torch.no_grad()
    def decode(self, name: str, *shape: int) -> None:
        latents = torch.from_numpy(self._rng.standard_normal(shape).astype(np.float32))
        self.pieces[f"vae.{name}.input"] = numbers(latents)
        self.pieces[f"vae.{name}.output"] = numbers(self._vae.decode(latents).sample)

    @torch.no_grad()
    def encode(self, name: str, batch: int, frames: int, height: int, width: int) -> None:
        clips = np.stack([clip(self._seed + b, frames, height, width) for b in range(batch)])
        video = torch.from_numpy(clips.astype(np.float32) / 127.5 - 1).permute(0, 4, 1, 2, 3).contiguous()
        distribution = self._vae.encode(video).latent_dist
        self.pieces[f"vae.{name}.input"] = numbers(video)
        self.pieces[f"vae.{name}.mean"] = numbers(distribution.mean)
        self.pieces[f"vae.{name}.logvar"] = numbers(distribution.logvar)


class ImageVaePieces(VaePieces):
    """Results of an image autoencoder, to which diffusers passes the frames of a video as a batch."""

    @torch.no_grad()
    def decode(self, name: str, *shape: int) -> None:
        latents = torch.from_numpy(self._rng.standard_normal(shape).astype(np.float32))
        self.pieces[f"vae.{name}.input"] = numbers(latents)
        self.pieces[f"vae.{name}.output"] = numbers(_as_video(self.decoded(_as_images(latents))))

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Frames (F, 3, H, W) of latents (F, Z, h, w)."""
        return self._vae.decode(latents).sample

    @torch.no_grad()
    def encode(self, name: str, batch: int, frames: int, height: int, width: int) -> None:
        assert batch == 1
        video = torch.from_numpy(clip(self._seed, frames, height, width).astype(np.float32) / 127.5 - 1)
        video = video.permute(3, 0, 1, 2)[None].contiguous()
        distribution = self._vae.encode(_as_images(video)).latent_dist
        self.pieces[f"vae.{name}.input"] = numbers(video)
        self.pieces[f"vae.{name}.mean"] = numbers(_as_video(distribution.mean))
        self.pieces[f"vae.{name}.logvar"] = numbers(_as_video(distribution.logvar))


def _as_images(video: torch.Tensor) -> torch.Tensor:
    """(1, C, F, H, W) to (F, C, H, W)."""
    return video[0].transpose(0, 1)


def _as_video(images: torch.Tensor) -> torch.Tensor:
    """(F, C, H, W) to (1, C, F, H, W)."""
    return images.transpose(0, 1)[None]


def main(make: Callable[[str, Any], None], cases: dict[str, Any]) -> None:
    """Makes the cases that the command line names, or all."""
    import diffusers

    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    for name in sys.argv[1:] or cases:
        make(name, cases[name])


def save_reference(
    folder: Path,
    *,
    task: str,
    variant: str | None,
    requests: list[dict[str, Any]],
    videos: list[np.ndarray],
    pieces: dict[str, np.ndarray],
    media: dict[str, np.ndarray],
    checkpoint: str = "checkpoint",
    options: dict[str, Any] | None = None,
    further_predictions: int = 0,
) -> None:
    """Writes what `tests.references.Case` reads, next to the checkpoint.

    `media` maps a file name, which a request names, to the uint8 frames (F, H, W, 3) saved under it. The
    checkpoint's folder is relative to `folder`. `options` are further arguments of `load_pipeline`:
    `scheduler`, and `adapter`, a folder relative to `folder`. `further_predictions` are those that the
    sampler makes in addition to one per step.
    """
    import diffusers
    import transformers

    clipped = []
    for k, video in enumerate(videos):
        np.save(folder / f"frames.{k}.npy", video)
        clipped.append(round(float(np.mean((video <= 0) | (video >= 1))), 4))
        level = f"mean {video.mean():.3f}, std {video.std():.3f}, clipped {clipped[-1]}"
        print(f"{folder.name} {k}: {video.shape}, {level}")
    if max(clipped) > CLIPPED_AT_MOST:
        share = f"{max(clipped):.0%}"
        raise SystemExit(f"{folder.name}: a clipped pixel hides errors, and {share} of them are clipped")
    save_file(pieces, folder / "pieces.safetensors")
    for name, frames in media.items():
        if name.endswith(".png"):
            Image.fromarray(frames[0]).save(folder / name, optimize=True)
        else:
            np.savez_compressed(folder / name, frames=frames)
    write_json(folder / "request.json", requests)
    facts = {
        "task": task,
        "variant": variant,
        "checkpoint": checkpoint,
        "options": options or {},
        "further_predictions": further_predictions,
        "clipped_share": clipped,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    write_json(folder / "case.json", facts)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
