"""Quantised weights, which are not supported: how to recognise them by configs, files and tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from vidgen_dist.errors import Refused, shortened

_UNNAMED = "a method that the checkpoint does not name"
_BITSANDBYTES = "bitsandbytes"
_GPTQ, _AWQ = "GPTQ", "AWQ"

_METHOD_KEYS = ("quant_method", "quant_type", "quant_algo", "method")
_OF_BITSANDBYTES = re.compile(r"load_in_\d+bit|bnb_|llm_int8|bits_?and_?bytes", re.IGNORECASE)
# The convolutions next to a VAE's latents have this word in their names, too.
_METHODS = r"gptq|awq|torchao|quanto|hqq|eetq|aqlm|gguf|marlin|nf4|mxfp\d+|(?:fp|int|float)[48](?=_|$)"
_KEYS = re.compile(
    r"quant(?!_conv)|bits_?and_?bytes|load_in_\d+bit|^bnb_|^llm_int8|^w?_?bits$|compression_config|"
    + _METHODS,
    re.IGNORECASE,
)
_FILES = {
    "quantize_config.json": _GPTQ,
    "quant_config.json": _AWQ,
    "hf_quant_config.json": "ModelOpt",
    "quanto_qmap.json": "quanto",
    "quantization_map.json": "quanto",
    "quant_model_description.json": "msModelSlim",
}
_TENSORS = {
    "bitsandbytes in 4 bits": (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"),
    "bitsandbytes in 8 bits": (".SCB", ".weight_format"),
    "SVDQuant": (".wscales", ".smooth_factor", ".wtscale"),
    _GPTQ: (".g_idx",),
    f"{_AWQ} or {_GPTQ}": (".qweight", ".qzeros"),
    "quanto": ("._data", "._scale", "._shift"),
    "HQQ": (".W_q",),
    "AQLM": (".codes",),
    "MLX": (".biases",),
    "torchao": (".weight:qdata", ".weight_qdata", ".weight_int_data", ":_data"),
    "ComfyUI's scaled float8": (".scale_weight", ".scale_input", "scaled_fp8", ".comfy_quant"),
    "ModelOpt": ("._amax", "_quantizer._scale"),
    "msModelSlim": (".deq_scale", ".quant_bias", ".weight_offset"),
    "EETQ": (".weight_scales",),
    "compressed-tensors": (".weight_packed", ".weight_shape", ".weight_zero_point"),
    "float8 in blocks": (".weight_scale_inv",),
    "scales beside the weights": (".weight_scale", ".input_scale", ".output_scale", ".weight_scale_2"),
}
"""Method -> how its tensors' names end; the surest first."""

_WEIGHTS = (".weight", ".bias")


def refuse_config(place: Any, raw: Mapping[str, Any]) -> None:
    """Refuse a config that says that weights are quantised.

    Args:
        place: The file, for messages.
        raw: Its keys.

    Raises:
        Refused: The message names the file, the key, its value and the method.
    """
    for key, value in raw.items():
        if value and _KEYS.search(key):
            shown = shortened(repr(value), 80)
            raise Refused(f"{place}: {key} is {shown}: {_explained(_method(key, value))}")
        if isinstance(value, Mapping):
            refuse_config(place, value)


def refuse_files(folder: Any, names: Iterable[str]) -> None:
    """Refuse a folder with files that a quantisation method writes beside the weights.

    Args:
        folder: The folder, for messages.
        names: Its files.

    Raises:
        Refused: The message names the file and the method.
    """
    for name in names:
        plain = re.sub(r"_w\d+a\d+\w*(?=\.json$)", "", name)
        if plain in _FILES:
            raise Refused(f"{folder}: {name}: {_explained(_FILES[plain])}")


def refuse_tensors(place: Any, dtypes: Mapping[str, Any]) -> None:
    """Refuse tensors that are quantised weights, whatever a config says.

    Args:
        place: Their file or folder, for messages.
        dtypes: Key -> NumPy dtype.

    Raises:
        Refused: The message names a tensor and, if the names show it, the method.
    """
    found = _of_names(dtypes)
    if found is not None:
        key, method = found
        raise Refused(f"{place}: {key}: {_explained(method)}")
    for key, dtype in dtypes.items():
        whole = dtype.kind in "iu" and dtype.itemsize == 1
        if whole or (dtype.kind in "iub" and key.endswith(_WEIGHTS)):
            raise Refused(f"{place}: {key} is {dtype}, not real numbers: {_explained(_UNNAMED)}")


def _of_names(keys: Collection[str]) -> tuple[str, str] | None:
    for key in keys:
        if ".quant_state." in key:
            return key, "bitsandbytes in 4 bits"
    for method, ends in _TENSORS.items():
        for key in keys:
            if key.endswith(ends):
                return key, method
    return None


def _method(key: str, value: Any) -> str:
    """The quantisation method that a key's value names."""
    if isinstance(value, Mapping):
        named = next((value[name] for name in _METHOD_KEYS if isinstance(value.get(name), str)), None)
        if named is None:
            return _BITSANDBYTES if any(map(_OF_BITSANDBYTES.search, value)) else _UNNAMED
        return _BITSANDBYTES if _OF_BITSANDBYTES.search(named) else named
    if _OF_BITSANDBYTES.search(key):
        return _BITSANDBYTES
    if isinstance(value, str):
        return value
    named_by_key = re.search(_METHODS, key, re.IGNORECASE)
    return named_by_key.group().lower() if named_by_key else _UNNAMED


def _explained(method: str) -> str:
    return (
        f"the weights are quantised ({method}); allowed are float32, float16 and bfloat16, and float8 "
        "without scales: use the model's unquantised weights, or another repository, revision or --variant"
    )
