"""A checkpoint in diffusers' folder layout, in a folder or on the Hugging Face hub.

model_index.json                  the pipeline's class, and a library and class for every component
transformer/config.json           a component's settings
transformer/diffusion_pytorch_model.safetensors
tokenizer/spiece.model
...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.storage.uris import is_local, local_path, scheme_of
from vidgen_dist.threads import map_ahead
from vidgen_dist.weights import hub, naming
from vidgen_dist.weights.checkpoint_files import (
    describe_unread_weights,
    is_folder,
    is_there,
    names_in,
    read_json,
)
from vidgen_dist.weights.contract import CONTRACT, SamplingContract
from vidgen_dist.weights.digests import digest_of, file_digest
from vidgen_dist.weights.lora.files import LoraFile
from vidgen_dist.weights.quantised import refuse_config, refuse_files
from vidgen_dist.weights.repository import CONFIG, ComponentRepository
from vidgen_dist.weights.tensors import TensorFiles, read_index

INDEX = "model_index.json"
_HASHING = 8
"""How many files are hashed at a time."""

_CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
# Configs and vocabularies; all other files that publishers add (images, code, .bin, ONNX) are left out.
_TEXTS = (".json", ".txt", ".model")
_PEFT = "adapter_config.json"
_TOKENIZERS = ("Tokenizer", "TokenizerFast", "TokenizersBackend")
_VOCABULARIES = (".model", "vocab.json", "vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class ComponentOverride:
    """A component's class and settings, in place of those in its files.

    Args:
        class_name: Its class.
        config: Its settings.
    """

    class_name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine's disk.

    Args:
        model: Hub id or folder, as the user named it.
        revision: The commit of a hub id; None for a folder.
        folder: The folder with its files.
        variant: Variant of the weight files; components that lack it use their plain files.
        model_index: Content of `model_index.json`.
        components: Names of the components that were opened.
        separate: Components in a repository of their own, by name.
        overrides: Components that differ from their files, by name.
        loras: LoRAs that are added to the weights, in this order.
        contract: How it is to be sampled, by its own file and those of its LoRAs.

    The digest depends on none of the last three.
    """

    model: str
    revision: str | None
    folder: Path
    variant: str | None
    model_index: dict[str, Any]
    components: tuple[str, ...]
    separate: Mapping[str, ComponentRepository] = field(default_factory=dict)
    overrides: Mapping[str, ComponentOverride] = field(default_factory=dict)
    loras: tuple[LoraFile, ...] = ()
    contract: SamplingContract | None = None

    def has_component(self, component: str) -> bool:
        """Whether it has a component of this name."""
        return component in self.separate or component in _classes(self.model_index)

    def class_name(self, component: str) -> str:
        """A component's class as `model_index.json` names it, e.g. `AutoencoderKLCogVideoX`.

        Raises:
            Refused: The checkpoint has no such component.
        """
        if component in self.overrides:
            return self.overrides[component].class_name
        if component in self.separate:
            return self.separate[component].class_name
        classes = _classes(self.model_index)
        if component not in classes:
            raise Refused(
                f"{self.folder / INDEX}: no component {component!r}; it has {', '.join(sorted(classes))}"
            )
        return classes[component]

    def names_class_of(self, component: str) -> Path:
        """The file that names a component's class."""
        single = self.separate.get(component)
        return self.folder / INDEX if single is None else single.folder / CONFIG

    def component_folder(self, component: str) -> Path:
        """A component's folder.

        Raises:
            Refused: The checkpoint has no such component, or its folder is missing.
        """
        class_name = self.class_name(component)
        if component in self.separate:
            return self.separate[component].folder
        folder = self.folder / component
        if not is_folder(folder):
            raise Refused(f"{folder}: the folder of the component {component} ({class_name}) is missing")
        return folder

    def config(self, component: str) -> dict[str, Any]:
        """A component's settings: `config.json`, `scheduler_config.json` or the file of its kind.

        Raises:
            Refused: The component or the file is missing, or the file is not a JSON object (with the line).
        """
        if component in self.overrides:
            return dict(self.overrides[component].config)
        return read_json(self.config_file(component))

    def config_file(self, component: str) -> Path:
        """The file with a component's settings.

        Raises:
            Refused: The component or the file is missing.
        """
        folder = self.component_folder(component)
        for name in _CONFIGS:
            if is_there(folder / name):
                return folder / name
        raise Refused(f"{folder}: {component} has no config; allowed are {', '.join(_CONFIGS)}")

    def weight_files(self, component: str) -> tuple[Path, ...]:
        """A component's safetensors files, sorted; empty if it has no weights."""
        folder = self.component_folder(component)
        chosen = naming.choose(names_in(folder), self.variant)
        return tuple(folder / name for name in chosen.files) if chosen else ()

    def has_weights(self, component: str) -> bool:
        """Whether a component's weights are all on disk: those of a hub id may not be downloaded yet."""
        folder = self.component_folder(component)
        chosen = naming.choose(names_in(folder), self.variant)
        if chosen is None:
            return False
        names = read_index(folder / chosen.entry).values() if chosen.sharded else chosen.files
        return all((folder / name).is_file() for name in names)

    def digest(self) -> str:
        """SHA-256, as hex, of everything that decides the model.

        For a hub id: of the commit and the variant. For a folder: of the relative names and the contents of
        `model_index.json` and of the components' configs, vocabularies and weights of the variant. It does
        not depend on the folder's path, nor on other files in it. Components in a repository of their own
        have their own digests.
        """
        if self.revision is not None:
            parts = {"revision": self.revision, "variant": self.variant or ""}
        else:
            names = needed_files(_listing(self.folder, self.components), self.components, self.variant)
            # Hashing releases the interpreter's lock: files are read in parallel, each in small chunks.
            contents = map_ahead(file_digest, (self.folder / name for name in names), threads=_HASHING)
            parts = dict(zip(names, contents, strict=True))
        return digest_of(parts)


def open_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    components: Sequence[str] | None = None,
    ignores: Callable[[Mapping[str, Any]], Collection[str]] = lambda _: (),
    weights: bool = True,
) -> Checkpoint:
    """Open a checkpoint, downloading from the hub what is not yet in the cache.

    Args:
        model: A folder, or a hub id such as `zai-org/CogVideoX-5b`.
        revision: Branch, tag or commit of a hub id; by default its main branch.
        variant: Variant of the weight files, e.g. `fp16`.
        components: The components that are needed; by default all in `model_index.json`.
        ignores: Takes the content of `model_index.json`, returns the components that are not needed after
            all.
        weights: False to download only configs and vocabularies, which `config` and tokenizers need.

    Raises:
        Refused: Neither a folder nor a hub id; not found, gated, or neither reachable nor in the cache; no
            `model_index.json`; invalid JSON; a component without its folder or vocabulary; a variant that no
            component has; weights that are missing, cut short or not safetensors.
    """
    model = str(model)

    def choose(index: Mapping[str, Any]) -> Collection[str]:
        return set(_classes(index)) - set(ignores(index)) if components is None else components

    folder = hub.folder_of("model", model, "revision", revision, _ALLOWED)
    if folder is not None:
        return _open_folder(model, folder, variant, choose)
    return _open_hub(model, revision, variant, choose, weights)


def is_checkpoint(place: str, revision: str | None = None) -> bool:
    """Whether a hub id, folder, path or URI is a checkpoint in diffusers' layout; nothing is downloaded.

    Args:
        place: What a user named, which may be anything else.
        revision: Branch, tag or commit of a hub id; by default its main branch.

    Raises:
        Refused: Nothing is there: neither a path, nor a URI, nor a repository of the hub or its local cache.
    """
    if scheme_of(place) and not is_local(place):
        return False
    path = Path(local_path(place) if is_local(place) else place)
    if is_there(path):
        return is_folder(path) and is_there(path / INDEX)
    allowed = "a checkpoint or a LoRA: hub id, folder, path or URI"
    hub.folder_of("PLACE", place, "its revision", revision, allowed)
    with hub.refusals("PLACE", place, revision, "nothing in it", allowed):
        try:
            return INDEX in hub.list_files(place, revision)
        except OSError:
            cached = hub.cached_revision(place, revision)
            if cached is None:
                raise
            return is_there(cached[1] / INDEX)


_ALLOWED = f"a folder that holds {INDEX}, or a hub id such as zai-org/CogVideoX-5b"


def needed_files(
    names: Iterable[str], components: Sequence[str], variant: str | None, weights: bool = True
) -> list[str]:
    """The file names of a checkpoint that decide what the components compute, sorted.

    Args:
        names: Paths relative to the checkpoint, with forward slashes.
        components: The components that are needed.
        variant: Variant of the weights.
        weights: False to leave the weights out.
    """
    names = list(names)
    by_component = _by_component(names, components)
    needed = [INDEX, *({CONTRACT} & set(names))]
    for component, files in by_component.items():
        chosen = naming.choose(files, variant) if weights else None
        texts = [name for name in files if name.endswith(_TEXTS) and ".index." not in name]
        needed += [f"{component}/{name}" for name in {*texts, *(chosen.all if chosen else ())}]
    return sorted(needed)


_Chooser = Callable[[Mapping[str, Any]], Collection[str]]
"""Takes the content of `model_index.json`, returns the components to open."""


def _open_folder(model: str, folder: Path, variant: str | None, choose: _Chooser) -> Checkpoint:
    if not is_there(folder / INDEX):
        raise Refused(f"{folder}: no {INDEX} in it{hub.single_file(names_in(folder))}; allowed: {_ALLOWED}")
    checkpoint = _described(model, None, folder, variant, choose)
    names = _listing(folder, checkpoint.components)
    _check_names(checkpoint, names, str(folder))
    _check_configs(checkpoint)
    _check_weights(checkpoint)
    return checkpoint


def _described(
    model: str, revision: str | None, folder: Path, variant: str | None, choose: _Chooser
) -> Checkpoint:
    model_index = read_json(folder / INDEX)
    listed, wanted = _classes(model_index), set(choose(model_index))
    unknown = sorted(wanted - listed.keys())
    if unknown:
        raise Refused(
            f"{folder / INDEX}: no component {', '.join(unknown)}; it has {', '.join(sorted(listed))}"
        )
    components = tuple(sorted(wanted))
    return Checkpoint(model, revision, folder, variant, model_index, components)


def _classes(model_index: Mapping[str, Any]) -> dict[str, str]:
    """The class by component. Optional components that are missing are [null, null] in the file."""
    return {
        name: value[1]
        for name, value in model_index.items()
        if not name.startswith("_")
        and isinstance(value, list)
        and len(value) == 2
        and all(isinstance(part, str) for part in value)
    }


def _listing(folder: Path, components: Iterable[str]) -> list[str]:
    """The files of the components, relative to the folder; other files are ignored."""
    folders = [folder / component for component in components if is_folder(folder / component)]
    return [f"{sub.name}/{name}" for sub in folders for name in names_in(sub)]


def _by_component(names: Iterable[str], components: Iterable[str]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {component: [] for component in components}
    for path in map(PurePosixPath, names):
        if len(path.parts) == 2 and path.parts[0] in files:
            files[path.parts[0]].append(path.name)
    return files


def _check_names(checkpoint: Checkpoint, names: Iterable[str], where: str) -> None:
    """Refuse a component without files, weights or vocabulary, and a variant that no component has."""
    by_component = _by_component(names, checkpoint.components)
    for component, files in by_component.items():
        class_name = checkpoint.class_name(component)
        if not files:
            raise Refused(
                f"{where}: {INDEX} lists {component} ({class_name}), but there is no such folder, "
                "or nothing in it"
            )
        refuse_files(f"{where}: {component}", files)
        if _PEFT in files:
            raise Refused(
                f"{where}: {component} holds {_PEFT}: transformers would apply that adapter to the model, "
                "but it is not read here; merge it into the weights, or remove it"
            )
        if class_name.endswith(_TOKENIZERS) and not any(name.endswith(_VOCABULARIES) for name in files):
            raise Refused(f"{where}: {component} ({class_name}) has no vocabulary, such as spiece.model")
    variants = {component: naming.variants(files) for component, files in by_component.items()}
    known = sorted(set().union(*variants.values()))
    if checkpoint.variant is not None and checkpoint.variant not in known:
        has = f"it has {', '.join(known)}" if known else "it has only the plain files: leave the variant out"
        raise Refused(f"{where}: no weights of the variant {checkpoint.variant!r}; {has}")
    for component, files in by_component.items():
        if "config.json" in files and naming.choose(files, checkpoint.variant) is None:
            hint = f" without a variant; it has {', '.join(sorted(variants[component]))}"
            told = hint if variants[component] else describe_unread_weights(files)
            raise Refused(f"{where}: {component} has no safetensors weights{told}")


def _check_configs(checkpoint: Checkpoint) -> None:
    """Refuse configs that say that weights are quantised."""
    refuse_config(checkpoint.folder / INDEX, checkpoint.model_index)
    for component in checkpoint.components:
        config = checkpoint.folder / component / CONFIG
        if is_there(config):
            refuse_config(config, read_json(config))


def _check_weights(checkpoint: Checkpoint, those_there: bool = False) -> None:
    """Refuse weights whose headers show that they cannot be read: shards, lengths, dtypes.

    Args:
        checkpoint: The checkpoint.
        those_there: Whether weights may be missing, because a hub id is not downloaded yet.
    """
    for component in checkpoint.components:
        if those_there and not checkpoint.has_weights(component):
            continue
        if checkpoint.weight_files(component) or is_there(checkpoint.folder / component / CONFIG):
            TensorFiles.open(checkpoint.component_folder(component), variant=checkpoint.variant)


def _open_hub(
    model: str,
    revision: str | None,
    variant: str | None,
    choose: _Chooser,
    weights: bool,
) -> Checkpoint:
    with hub.refusals(
        "model", model, revision, f"no {INDEX} in it, so it is not in diffusers' layout", _ALLOWED
    ):
        commit, folder = hub.locate(model, revision, INDEX)
        checkpoint = _described(model, commit, folder, variant, choose)
        try:
            names = hub.list_files(model, commit)
        except OSError as error:  # from huggingface_hub, also in offline mode
            return _open_cached(checkpoint, weights, error)
        _check_names(checkpoint, names, f"{model} at {commit}")
        hub.download(model, commit, folder, needed_files(names, checkpoint.components, variant, weights))
    _check_configs(checkpoint)
    _check_weights(checkpoint, those_there=not weights)
    return checkpoint


def _open_cached(checkpoint: Checkpoint, weights: bool, why: Exception) -> Checkpoint:
    """The checkpoint as the cache has it, if all that is needed is there."""
    names = _listing(checkpoint.folder, checkpoint.components)
    with hub.cached_only(checkpoint.model, why):
        for component in checkpoint.components:
            checkpoint.component_folder(component)
        _check_configs(checkpoint)
        if weights:
            _check_names(checkpoint, names, str(checkpoint.folder))
        _check_weights(checkpoint, those_there=not weights)
    return checkpoint
