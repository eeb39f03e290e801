"""A checkpoint in diffusers' folder layout, from a folder or from the Hugging Face hub.

model_index.json                  the pipeline's class, and a library and class for every component
transformer/config.json           a component's settings
transformer/diffusion_pytorch_model.safetensors
tokenizer/spiece.model
...
"""

from __future__ import annotations

import glob
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.spec import Model
from vidgen_dist.threads import map_ahead
from vidgen_dist.weights import naming
from vidgen_dist.weights.tensors import TensorFiles, read_index, read_json

INDEX = "model_index.json"
_HASHING = 8
"""Files that are hashed side by side."""

_CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
# Configs and vocabularies; every other file that publishers add (images, code, .bin, ONNX) is left out.
_TEXTS = (".json", ".txt", ".model")
_TOKENIZERS = ("Tokenizer", "TokenizerFast")
_VOCABULARIES = (".model", "vocab.json", "vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine's disk.

    Args:
        model: Hub id or folder, as it was asked for.
        revision: The commit of a hub id; None for a folder.
        folder: Where the files are.
        variant: Variant of the weight files; components that lack it use their plain files.
        model_index: Content of `model_index.json`.
        components: Names of the components that it was opened with.
    """

    model: str
    revision: str | None
    folder: Path
    variant: str | None
    model_index: dict[str, Any]
    components: tuple[str, ...]

    def has_component(self, component: str) -> bool:
        """Whether it has a component of that name."""
        return component in _classes(self.model_index)

    def class_name(self, component: str) -> str:
        """The class of a component as `model_index.json` names it, e.g. `AutoencoderKLCogVideoX`.

        Raises:
            Refused: The checkpoint has no such component.
        """
        classes = _classes(self.model_index)
        if component not in classes:
            raise Refused(
                f"{self.folder / INDEX}: no component {component!r}; it has {', '.join(sorted(classes))}"
            )
        return classes[component]

    def component_folder(self, component: str) -> Path:
        """The folder of a component.

        Raises:
            Refused: The checkpoint has no such component, or its folder is missing.
        """
        class_name = self.class_name(component)
        folder = self.folder / component
        if not folder.is_dir():
            raise Refused(f"{folder}: the folder of the component {component} ({class_name}) is missing")
        return folder

    def config(self, component: str) -> dict[str, Any]:
        """The settings of a component: `config.json`, `scheduler_config.json` or what its kind has.

        Raises:
            Refused: The component or the file is missing, or the file is no JSON object (names the line).
        """
        folder = self.component_folder(component)
        for name in _CONFIGS:
            if (folder / name).is_file():
                return read_json(folder / name)
        raise Refused(f"{folder}: {component} has no config; allowed are {', '.join(_CONFIGS)}")

    def weight_files(self, component: str) -> tuple[Path, ...]:
        """The safetensors files of a component, sorted; empty for one without weights."""
        folder = self.component_folder(component)
        chosen = naming.choose((path.name for path in folder.iterdir()), self.variant)
        return tuple(folder / name for name in chosen.files) if chosen else ()

    def has_weights(self, component: str) -> bool:
        """Whether all weights of a component are on this machine's disk: of a hub id they may not be yet."""
        folder = self.component_folder(component)
        chosen = naming.choose((path.name for path in folder.iterdir()), self.variant)
        if chosen is None:
            return False
        names = read_index(folder / chosen.entry).values() if chosen.sharded else chosen.files
        return all((folder / name).is_file() for name in names)

    def digest(self) -> str:
        """SHA-256, as hex, of all that decides the model.

        For a hub id of its commit and the variant. For a folder of the names, relative to it, and the
        contents of `model_index.json` and of the components' configs, vocabularies and weights of the
        variant: the same wherever the folder lies and whatever else lies in it.
        """
        if self.revision is not None:
            parts = {"revision": self.revision, "variant": self.variant or ""}
        else:
            names = needed_files(_listing(self.folder, self.components), self.components, self.variant)
            # Hashing releases the interpreter's lock: files are read side by side, each in small chunks.
            contents = map_ahead(_file_digest, (self.folder / name for name in names), threads=_HASHING)
            parts = dict(zip(names, contents, strict=True))
        lines = "".join(f"{name}\0{value}\n" for name, value in sorted(parts.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def checkpoint_of(options: Model, *, weights: bool = True) -> Checkpoint:
    """`open_checkpoint` of what a run's options name.

    Args:
        options: Which one, and of which revision and variant.
        weights: As `open_checkpoint` has it.
    """
    return open_checkpoint(options.id, revision=options.revision, variant=options.variant, weights=weights)


def open_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    components: Sequence[str] | None = None,
    weights: bool = True,
) -> Checkpoint:
    """Open a checkpoint, downloading from the hub what is not yet in the cache.

    Args:
        model: A folder, or a hub id such as `zai-org/CogVideoX-5b`.
        revision: Branch, tag or commit of a hub id; by default its main branch.
        variant: Variant of the weight files, e.g. `fp16`.
        components: The components that are needed; by default all of `model_index.json`.
        weights: False to download configs and vocabularies only, which `config` and tokenizers need.

    Raises:
        Refused: Neither a folder nor a hub id; not found, gated, or out of reach and not in the cache; no
            `model_index.json`; JSON that does not parse; a component without its folder or vocabulary; a
            variant that no component has; weights that are missing, cut short or no safetensors.
    """
    model = str(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise Refused(f"revision {revision!r}: {model} is a folder, which has none; leave it out")
        return _open_folder(model, folder.resolve(), variant, components)
    if folder.exists():
        raise Refused(f"model {model!r} is a file; allowed: {_ALLOWED}")
    if not _is_hub_id(model):
        raise Refused(f"model {model!r} is neither a folder that exists nor a hub id; allowed: {_ALLOWED}")
    return _open_hub(model, revision, variant, components, weights)


_ALLOWED = f"a folder that holds {INDEX}, or a hub id such as zai-org/CogVideoX-5b"


def needed_files(
    names: Iterable[str], components: Sequence[str], variant: str | None, weights: bool = True
) -> list[str]:
    """Those of a checkpoint's file names that decide what the components compute, sorted.

    Args:
        names: Paths relative to the checkpoint, with forward slashes.
        components: The components that are needed.
        variant: Variant of the weights.
        weights: False to leave the weights out.
    """
    by_component = _by_component(names, components)
    needed = [INDEX]
    for component, files in by_component.items():
        chosen = naming.choose(files, variant) if weights else None
        texts = [name for name in files if name.endswith(_TEXTS) and ".index." not in name]
        needed += [f"{component}/{name}" for name in {*texts, *(chosen.all if chosen else ())}]
    return sorted(needed)


def _open_folder(
    model: str, folder: Path, variant: str | None, components: Sequence[str] | None
) -> Checkpoint:
    if not (folder / INDEX).is_file():
        raise Refused(f"{folder}: no {INDEX} in it; allowed: {_ALLOWED}")
    checkpoint = _described(model, None, folder, variant, components)
    names = _listing(folder, checkpoint.components)
    _check_names(checkpoint, names, str(folder))
    _check_weights(checkpoint)
    return checkpoint


def _described(
    model: str, revision: str | None, folder: Path, variant: str | None, components: Sequence[str] | None
) -> Checkpoint:
    model_index = read_json(folder / INDEX)
    listed = _classes(model_index)
    unknown = sorted(set(components or ()) - listed.keys())
    if unknown:
        raise Refused(
            f"{folder / INDEX}: no component {', '.join(unknown)}; it has {', '.join(sorted(listed))}"
        )
    wanted = tuple(sorted(listed if components is None else set(components)))
    return Checkpoint(model, revision, folder, variant, model_index, wanted)


def _classes(model_index: Mapping[str, Any]) -> dict[str, str]:
    """The class by component. Optional components that a checkpoint lacks are [null, null] there."""
    return {
        name: value[1]
        for name, value in model_index.items()
        if not name.startswith("_")
        and isinstance(value, list)
        and len(value) == 2
        and all(isinstance(part, str) for part in value)
    }


def _listing(folder: Path, components: Iterable[str]) -> list[str]:
    """The files of the components, relative to the folder; what else lies in it is not looked at."""
    folders = [folder / component for component in components if (folder / component).is_dir()]
    return [f"{sub.name}/{path.name}" for sub in folders for path in sub.iterdir() if path.is_file()]


def _by_component(names: Iterable[str], components: Iterable[str]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {component: [] for component in components}
    for path in map(PurePosixPath, names):
        if len(path.parts) == 2 and path.parts[0] in files:
            files[path.parts[0]].append(path.name)
    return files


def _check_names(checkpoint: Checkpoint, names: Iterable[str], where: str) -> None:
    """Refuse a component without files, weights or vocabulary, and a variant that nothing has."""
    by_component = _by_component(names, checkpoint.components)
    for component, files in by_component.items():
        class_name = checkpoint.class_name(component)
        if not files:
            raise Refused(
                f"{where}: {INDEX} lists {component} ({class_name}), but there is no such folder, "
                "or nothing in it"
            )
        if class_name.endswith(_TOKENIZERS) and not any(name.endswith(_VOCABULARIES) for name in files):
            raise Refused(f"{where}: {component} ({class_name}) has no vocabulary, such as spiece.model")
    variants = {component: naming.variants(files) for component, files in by_component.items()}
    known = sorted(set().union(*variants.values()))
    if checkpoint.variant is not None and checkpoint.variant not in known:
        has = f"it has {', '.join(known)}" if known else "it has the plain files only: leave the variant out"
        raise Refused(f"{where}: no weights of the variant {checkpoint.variant!r}; {has}")
    for component, files in by_component.items():
        if "config.json" in files and naming.choose(files, checkpoint.variant) is None:
            hint = f" without a variant; it has {', '.join(sorted(variants[component]))}"
            raise Refused(
                f"{where}: {component} has no safetensors weights{hint if variants[component] else ''}"
            )


def _check_weights(checkpoint: Checkpoint) -> None:
    """Refuse weights that cannot be read, from the files' headers: shards, lengths, dtypes."""
    for component in checkpoint.components:
        if checkpoint.weight_files(component) or (checkpoint.folder / component / "config.json").is_file():
            TensorFiles.open(checkpoint.component_folder(component), checkpoint.variant)


def _is_hub_id(model: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return "/" in model


def _open_hub(
    model: str,
    revision: str | None,
    variant: str | None,
    components: Sequence[str] | None,
    weights: bool,
) -> Checkpoint:
    # Not at the top: a folder needs nothing of it, and it takes a while to import.
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    try:
        # Asks the hub which commit the revision is; without a connection, the cache.
        with _attempts_untold():
            index = Path(hf_hub_download(model, INDEX, revision=revision))
        commit, folder = index.parent.name, index.parent
        checkpoint = _described(model, commit, folder, variant, components)
        try:
            siblings = HfApi().model_info(model, revision=commit).siblings or []
        except OSError as error:  # what requests and huggingface_hub raise, offline mode included
            return _open_cached(checkpoint, weights, error)
        names = [file.rfilename for file in siblings]
        _check_names(checkpoint, names, f"{model} at {commit}")
        needed = needed_files(names, checkpoint.components, variant, weights)
        snapshot_download(model, revision=commit, allow_patterns=[glob.escape(name) for name in needed])
        # Where the connection is lost on the way, snapshot_download returns what there is.
        lacking = [name for name in needed if not (folder / name).is_file()]
        if lacking:
            raise Refused(f"{model} at {commit}: the download broke off before {', '.join(lacking)}")
    except (OSError, RuntimeError) as error:
        raise Refused(_hub_error(model, revision, error)) from error
    if weights:
        _check_weights(checkpoint)
    return checkpoint


@contextmanager
def _attempts_untold() -> Iterator[None]:
    """Keep huggingface_hub from printing what each attempt failed of: `_hub_error` says it, once."""
    log = logging.getLogger("huggingface_hub.utils._http")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _open_cached(checkpoint: Checkpoint, weights: bool, why: Exception) -> Checkpoint:
    """The checkpoint as it is in the cache, if what is needed of it is there."""
    where = (
        f"{checkpoint.model}: the hub cannot be asked ({_first_line(why)}) and the cached copy is not whole"
    )
    names = _listing(checkpoint.folder, checkpoint.components)
    try:
        for component in checkpoint.components:
            checkpoint.component_folder(component)
        if weights:
            _check_names(checkpoint, names, str(checkpoint.folder))
            _check_weights(checkpoint)
    except Refused as error:
        raise Refused(f"{where}: {error}") from why
    return checkpoint


def _hub_error(model: str, revision: str | None, error: Exception) -> str:
    """What a person can do about a failed download."""
    from huggingface_hub import constants, errors

    tried = f"model {model!r}: no such folder, and the hub at {constants.ENDPOINT}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"model {model!r} is gated: accept its conditions at {constants.ENDPOINT}/{model}, then log in "
            f"with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"model {model!r}: the hub has no revision {revision!r} of it; allowed: a branch, tag or commit"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{tried} has no such model, or it is private and needs `hf auth login`; allowed: {_ALLOWED}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        at = f" at revision {revision!r}" if revision else ""
        return (
            f"{tried} cannot be reached ({_first_line(error.__cause__ or error)}); it is not in the cache "
            f"{constants.HF_HUB_CACHE} either{at}; allowed: {_ALLOWED}"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"model {model!r}: no {INDEX} in it, so it is not in diffusers' layout; allowed: {_ALLOWED}"
    return f"{tried} did not deliver it: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    # requests quotes all that urllib3 says around the reason why it has no connection.
    reasons = [getattr(inner, "reason", None) for inner in error.args]
    error = next((reason for reason in reasons if isinstance(reason, Exception)), error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from error
