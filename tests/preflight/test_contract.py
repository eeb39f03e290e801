"""Sampling contracts of LoRAs and checkpoints: defaults, contradictions, schedulers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import references
from tests.preflight.plans import rows_of
from vidgen_dist.engine import ENGINE, open_model
from vidgen_dist.errors import Refused
from vidgen_dist.preflight.manifest_check import check_manifest
from vidgen_dist.preflight.plan import Plan, make_plan, open_run
from vidgen_dist.spec import RunSpec
from vidgen_dist.weights.contract import SamplingContract, merged_contract, read_contract

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]

FAST = "sampling: {num_inference_steps: 4, guidance_scale: 1}\n"
LCM = "scheduler: {_class_name: LCMScheduler}\n"
ROW = {"prompt": "a fox"}
CASES = {"animatediff": "v1-5-2", "cogvideox": "5b", "ltx": "0.9.1", "mochi": "odd"}


@pytest.fixture
def make_lora(tmp_path: Path) -> Callable[..., str]:
    """Write a LoRA in a folder of its own, with a contract."""

    def make(name: str, contract: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        save_file({"x.diff": np.ones((2, 2), np.float32)}, folder / "lora.safetensors")
        (folder / "vidgen.yaml").write_text(contract)
        return str(folder)

    return make


@pytest.fixture
def plan(make_spec: MakeSpec, make_manifest: MakeManifest) -> Callable[..., Plan]:
    """The plan of a run."""

    def make(*rows: dict[str, Any], family: str = "cogvideox", **flags: Any) -> Plan:
        case = references.case(CASES[family], family)
        given = {name: value for name, value in case.options.items() if name == "adapter"}
        model = {"model__id": str(case.checkpoint), **{f"model__{k}": v for k, v in given.items()}}
        named = [{"id": str(k), **ROW, **row} for k, row in enumerate(rows)]
        columns = {name for row in named for name in row}
        manifest = make_manifest(*({name: row.get(name) for name in columns} for row in named))
        return make_plan(*open_run(make_spec(manifest, **model, **flags)), device="cpu", engine=ENGINE)

    return make


def test_the_order_of_defaults(plan: Callable[..., Plan], make_lora: Callable[..., str]) -> None:
    lora = make_lora("fast", FAST)
    (row,) = rows_of(plan({}, model__loras=[lora]))
    assert (row.request.num_inference_steps, row.request.guidance_scale) == (4, 1.0)
    (row,) = rows_of(plan({}, model__loras=[lora], model__contract="warn", sampling__num_inference_steps=9))
    assert (row.request.num_inference_steps, row.request.guidance_scale) == (9, 1.0)
    (row,) = rows_of(plan({"guidance_scale": 5.0}, model__loras=[lora], model__contract="warn"))
    assert (row.request.num_inference_steps, row.request.guidance_scale) == (4, 5.0)


def test_contradictions_are_refused(plan: Callable[..., Plan], make_lora: Callable[..., str]) -> None:
    lora = make_lora("fast", FAST)
    told = r"num_inference_steps: 9 is not allowed; .*fast/vidgen.yaml asks for 4: .*--contract warn"
    with pytest.raises(Refused, match=f"sampling.{told}"):
        plan({}, model__loras=[lora], sampling__num_inference_steps=9)
    with pytest.raises(Refused, match=rf"row 1 \(id '1'\): {told}"):
        plan({}, {"num_inference_steps": 9}, model__loras=[lora])


@pytest.mark.parametrize(
    ("family", "sampler"),
    [
        ("animatediff", "_class_name: EulerDiscreteScheduler, timesteps: [999, 759, 499, 259]"),
        ("animatediff", "_class_name: LCMScheduler, timesteps: [999, 759, 499, 259]"),
        ("ltx", "timesteps: [1000, 993, 725, 0.03]"),
        ("mochi", "timesteps: [1000, 993, 725, 0.03]"),
    ],
)
def test_a_list_of_timesteps(
    plan: Callable[..., Plan], make_lora: Callable[..., str], family: str, sampler: str
) -> None:
    lora = make_lora("fast", f"sampling: {{num_inference_steps: 4}}\nscheduler: {{{sampler}}}\n")
    (row,) = rows_of(plan({}, family=family, model__loras=[lora]))
    assert row.request.num_inference_steps == 4
    lora = make_lora("forgotten", f"scheduler: {{{sampler}}}\n")
    with pytest.raises(Refused, match=r"num_inference_steps: 5 is not allowed; 4, .*timesteps"):
        plan({"num_inference_steps": 5}, family=family, model__loras=[lora])


def test_only_rows_with_the_lora_have_its_contract(
    plan: Callable[..., Plan], make_lora: Callable[..., str]
) -> None:
    lora = make_lora("fast", FAST)
    plain, fast = rows_of(plan({}, {"lora": lora}))
    assert (plain.request.num_inference_steps, fast.request.num_inference_steps) == (50, 4)
    with pytest.raises(Refused, match=r"row 1 \(id '1'\): num_inference_steps: 9 .*fast/vidgen.yaml"):
        plan({"num_inference_steps": 9}, {"num_inference_steps": 9, "lora": lora})


def test_a_contradiction_may_be_a_warning(
    plan: Callable[..., Plan], make_lora: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    lora = make_lora("fast-warn", FAST)
    with caplog.at_level(logging.WARNING):
        (row,) = rows_of(plan({"num_inference_steps": 9, "lora": lora}, model__contract="warn"))
    assert row.request.num_inference_steps == 9
    assert any("fast-warn/vidgen.yaml asks for 4" in message for message in caplog.messages)


def test_a_scheduler_of_a_runs_lora(plan: Callable[..., Plan], make_lora: Callable[..., str]) -> None:
    lora = make_lora("lcm", FAST + LCM)
    whole = plan({}, family="animatediff", model__loras=[lora])
    assert whole.model.scheduler == {"_class_name": "LCMScheduler"}
    same = {"model__scheduler": {"_class_name": "LCMScheduler"}}
    assert plan({}, family="animatediff", model__loras=[lora], **same).identity == whole.identity
    other = {"model__scheduler": {"_class_name": "DDIMScheduler"}}
    with pytest.raises(Refused, match=r"model.scheduler: .*DDIMScheduler.*lcm/vidgen.yaml asks for .*LCM"):
        plan({}, family="animatediff", model__loras=[lora], **other)
    warned = plan({}, family="animatediff", model__loras=[lora], model__contract="warn", **other)
    assert warned.model.scheduler == {"_class_name": "DDIMScheduler"}


def test_a_scheduler_of_a_rows_lora(plan: Callable[..., Plan], make_lora: Callable[..., str]) -> None:
    lora = make_lora("lcm", LCM)
    with pytest.raises(Refused, match=r"row 0 .*: lora: .*asks for the scheduler .*LCM.* model.scheduler"):
        plan({"lora": lora}, family="animatediff")
    same = {"model__scheduler": {"_class_name": "LCMScheduler"}}
    assert len(rows_of(plan({"lora": lora}, family="animatediff", **same))) == 1


def test_contracts_that_disagree(plan: Callable[..., Plan], make_lora: Callable[..., str]) -> None:
    four, eight = make_lora("four", FAST), make_lora("eight", "sampling: {num_inference_steps: 8}\n")
    told = r"eight/vidgen.yaml: sampling.num_inference_steps is 8, but 4 in .*four/vidgen.yaml"
    with pytest.raises(Refused, match=told):
        plan({}, model__loras=[four, eight])
    with pytest.raises(Refused, match=rf"row 0 .*lora: .*{told}"):
        plan({"lora": eight}, model__loras=[four])


def test_a_contract_of_a_checkpoint(tmp_path: Path, make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    folder = references.case("5b").copy_checkpoint(tmp_path)
    before = open_model(make_spec("m", model__id=str(folder)).model, "cpu")
    # A run file as it is.
    (folder / "vidgen.yaml").write_text(f"model: {{id: x}}\nseed: 3\n{FAST}")
    model = open_model(make_spec("m", model__id=str(folder)).model, "cpu")
    assert (model.rules.defaults["num_inference_steps"], model.digest) == (4, before.digest)
    bad = make_manifest({"prompt": "x", "guidance_scale": 6.0})
    report = check_manifest(bad, {"model.id": str(folder)})
    assert "vidgen.yaml asks for 1.0" in report.problems[0].message
    assert check_manifest(bad, {"model.id": str(folder), "model.contract": "warn"}).ok


def test_a_faulty_contract_of_a_rows_lora_is_that_columns_fault(
    plan: Callable[..., Plan], make_lora: Callable[..., str]
) -> None:
    lora = make_lora("bad", "sampling: {motion_bucket_id: 3}")
    with pytest.raises(Refused, match=r"row 0 .*: lora: .*bad/vidgen.yaml: sampling.motion_bucket_id"):
        plan({"lora": lora})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sampling: [", "vidgen.yaml: not YAML"),
        ("[1]", "must hold a mapping with the keys sampling, scheduler"),
        ("steps: 4", "steps: unknown key; allowed: sampling, scheduler, or those of a run file"),
        ("sampling: 4", "sampling: 4 is not allowed"),
        ("scheduler: 4", "scheduler"),
        ("sampling: {num_inference_steps: few}", r"sampling.num_inference_steps: 'few' is not allowed"),
        (
            "sampling: {motion_bucket_id: 3}",
            "sampling.motion_bucket_id: CogVideoX text-to-video does not",
        ),
        ("sampling: {prompt: x}", r"sampling.prompt: .* does not take it from a contract"),
    ],
)
def test_a_contract_that_cannot_be_is_refused(
    plan: Callable[..., Plan], make_lora: Callable[..., str], text: str, told: str
) -> None:
    with pytest.raises(Refused, match=told):
        plan({}, model__loras=[make_lora("bad", text)])


def test_contracts_add_up(tmp_path: Path) -> None:
    assert read_contract(tmp_path) is None
    assert merged_contract([None]) is None
    one, other = SamplingContract("a", {"x": 1}), SamplingContract("b", {"y": 2}, {"z": 3}, binding=False)
    assert merged_contract([None, one, None, other]) == SamplingContract(
        "a, b", {"x": 1, "y": 2}, {"z": 3}, binding=False
    )
