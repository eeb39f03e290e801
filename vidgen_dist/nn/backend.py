"""Where the models run: this process's device, its compute threads, and the dtypes.

A process has one device for life. The CPU functions (`vidgen_dist.nn.cpu`) compute on OpenVINO's threads,
which respect the CPU affinity of the thread that computes first. NumPy's OpenBLAS, which other parts use, is
limited to one thread per call.
"""

from __future__ import annotations

import ctypes
import glob
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import mindspore as ms
import numpy as np

from vidgen_dist.errors import Refused

float32 = ms.float32
float16 = ms.float16
bfloat16 = ms.bfloat16
int32 = ms.int32
int64 = ms.int64

_DTYPES = {
    "fp32": float32,
    "float32": float32,
    "fp16": float16,
    "float16": float16,
    "bf16": bfloat16,
    "bfloat16": bfloat16,
}
_DEVICES = ("cpu", "ascend", "auto")


@dataclass(frozen=True)
class _Backend:
    device: str
    threads: int
    body: ModuleType


_backend: _Backend | None = None


def set_device(device: str = "auto", threads: int | None = None) -> None:
    """Choose this process's device; call it once, before any tensor is made.

    Args:
        device: "cpu", "ascend", or "auto": Ascend where there is an NPU, otherwise the CPU.
        threads: Compute threads on the CPU; by default OMP_NUM_THREADS, or as many as the CPUs that the
            process may run on.

    Raises:
        Refused: An unknown device or number of threads, or the process already has another one.
    """
    global _backend
    if device not in _DEVICES:
        raise Refused(f"device: {device!r} is not allowed; one of {', '.join(_DEVICES)}")
    if threads is not None and threads < 1:
        raise Refused(f"threads: {threads!r} is not allowed; 1 or more")
    if device == "auto":
        device = "ascend" if _ascend_available() else "cpu"
    elif device == "ascend" and not _ascend_available():
        raise Refused("device: 'ascend' is not allowed; MindSpore finds no Ascend NPU on this host")
    if int(np.__version__.split(".")[0]) > 1:
        # Installing another package can bring NumPy 2, and MindSpore's error then names neither of them.
        raise Refused(f"NumPy {np.__version__}: MindSpore 2.10 computes with 1.26; pip install 'numpy<2'")
    threads = threads or _default_threads()
    if _backend is not None:
        if (_backend.device, _backend.threads) != (device, threads):
            raise Refused(
                f"device: {device!r} with {threads} threads is not allowed; this process already runs on "
                f"{_backend.device!r} with {_backend.threads}"
            )
        return
    _backend = _start_cpu(threads) if device == "cpu" else _start_ascend(threads)


def device() -> str:
    """ "cpu" or "ascend": this process's device, chosen now if `set_device` was not called."""
    return current().device


def dtype(name: str) -> Any:
    """The dtype called fp32, float32, fp16, float16, bf16 or bfloat16.

    Raises:
        Refused: An unknown name.
    """
    if name not in _DTYPES:
        raise Refused(f"dtype: {name!r} is not allowed; one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def current() -> _Backend:
    """This process's backend; that of "auto" if none was chosen."""
    if _backend is None:
        set_device("auto")
    assert _backend is not None
    return _backend


def _default_threads() -> int:
    wanted = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not wanted:
        return len(os.sched_getaffinity(0))
    # OpenMP allows a list, a number for each level of nested loops.
    first = wanted.partition(",")[0].strip()
    if not first.isdigit() or not int(first):
        raise Refused(f"OMP_NUM_THREADS: {wanted!r} is not allowed; 1 or more")
    return int(first)


def _ascend_available() -> bool:
    # Look for device files first: on a host without them MindSpore prints three warnings.
    return bool(glob.glob("/dev/davinci[0-9]*")) and bool(ms.hal.is_available("Ascend"))


def _start_cpu(threads: int) -> _Backend:
    from vidgen_dist.nn import cpu, cpu_graphs

    ms.set_device("CPU")
    # Asynchronous dispatch threads spin and take the cores that we compute on.
    ms.runtime.launch_blocking()
    _single_threaded_blas()
    cpu_graphs.set_threads(threads)
    return _Backend("cpu", threads, cpu)


def _start_ascend(threads: int) -> _Backend:
    from vidgen_dist.nn import ascend

    # Pass 0 explicitly: otherwise MindSpore takes the local rank, which is wrong where each process sees one
    # device only (ASCEND_RT_VISIBLE_DEVICES).
    ms.set_device("Ascend", 0)
    return _Backend("ascend", threads, ascend)


def _single_threaded_blas() -> None:
    """Limit NumPy's OpenBLAS to one thread per call; NumPy built with another BLAS is left as it is."""
    library = ctypes.CDLL(np.core._multiarray_umath.__file__)
    for symbol in ("openblas_set_num_threads64_", "openblas_set_num_threads"):
        setter = getattr(library, symbol, None)
        if setter is not None:
            setter(1)
            return
