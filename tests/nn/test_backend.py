"""The choice of device: once, named, refused with what is allowed."""

import subprocess
import sys

import pytest

from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.nn import backend


def test_without_an_npu_auto_is_the_cpu():
    nn.set_device("auto", threads=backend.current().threads)
    assert nn.device() == "cpu"


def test_devices_that_are_not():
    with pytest.raises(Refused, match=r"'cuda'.*cpu, ascend, auto"):
        nn.set_device("cuda")
    with pytest.raises(Refused, match="no Ascend NPU"):
        nn.set_device("ascend")
    with pytest.raises(Refused, match="threads: 0"):
        nn.set_device("cpu", threads=0)


def test_a_process_keeps_its_device():
    with pytest.raises(Refused, match="already runs"):
        nn.set_device("cpu", threads=backend.current().threads + 1)


def test_dtypes():
    assert nn.dtype("fp32") == nn.dtype("float32") == nn.float32
    assert nn.dtype("bf16") == nn.bfloat16
    assert nn.dtype("float16") == nn.float16
    with pytest.raises(Refused, match=r"'int8'.*bfloat16"):
        nn.dtype("int8")


@pytest.mark.parametrize("first", ["nn.zeros((2, 2))", "nn.Linear(1, 1)"])
def test_the_first_use_may_come_before_the_choice(first):
    script = f"from vidgen_dist import nn; x = {first}; print(nn.device())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("cpu\n", "")


def test_threads_follow_the_affinity_and_blas_runs_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    script = """
import os
import threading
core = min(os.sched_getaffinity(0))

def compute():
    os.sched_setaffinity(0, {core})
    import ctypes
    import numpy as np
    from vidgen_dist import nn
    from vidgen_dist.nn import backend
    nn.set_device("cpu")
    library = ctypes.CDLL(np.core._multiarray_umath.__file__)
    print(backend.current().threads, library.openblas_get_num_threads64_())
    before = set(os.listdir("/proc/self/task"))
    x, weight = nn.ones((1, 16, 9, 64, 64)), nn.ones((16, 16, 3, 3, 3))
    nn.conv3d(x, weight, padding=1)
    new = set(os.listdir("/proc/self/task")) - before
    print(*{tuple(os.sched_getaffinity(int(thread))) == (core,) for thread in new})
    nn.set_device("cpu")

# As in a worker: a thread of its own, after the process began with all cores.
thread = threading.Thread(target=compute)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "True"]


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), (" 2,1", 2)])
def test_threads_follow_the_environment(monkeypatch, wanted, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    script = "from vidgen_dist import nn; nn.set_device('cpu'); print(nn.backend.current().threads)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads)]


@pytest.mark.parametrize("wanted", ["0", "many", "-1"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    with pytest.raises(Refused, match=f"OMP_NUM_THREADS: '{wanted}' is not allowed; 1 or more"):
        nn.set_device("cpu")


def test_openvino_sends_nothing_home():
    script = """
import socket, sys
def refuse(*_): raise AssertionError("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
from vidgen_dist import nn
nn.set_device("cpu", threads=1)
assert "openvino" in sys.modules
print([name for name in sys.modules if "telemetry" in name])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]


def test_numpy_2_is_named(monkeypatch):
    monkeypatch.setattr(backend.np, "__version__", "2.4.6")
    with pytest.raises(Refused, match=r"NumPy 2\.4\.6: .*pip install 'numpy<2'"):
        nn.set_device("cpu")
