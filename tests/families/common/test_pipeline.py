"""The denoising loop of all families: what it refuses, and what it saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vidgen_dist import nn
from vidgen_dist.families.common.guidance import Guidance, Halves, constant
from vidgen_dist.families.common.pipeline import DiffusionPipeline, Parts, Start
from vidgen_dist.families.common.rendering import ResumeState
from vidgen_dist.families.common.tasks import Rules, TaskRules
from vidgen_dist.families.family import Configs
from vidgen_dist.request import RenderRequest, ResolvedRequest
from vidgen_dist.schedulers.schedule import Memory, Schedule

STEPS = 3
REQUEST = RenderRequest()
DEFAULTS = {"height": 4, "width": 4, "num_inference_steps": STEPS, "fps": 8.0}


@dataclass(frozen=True)
class Condition:
    """What the fake model is conditioned on."""

    value: np.ndarray


@dataclass(frozen=True, eq=False)
class RememberingSchedule(Schedule):
    """Adds predictions up; remembers the latest one under a name."""

    name: str = "slope"

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        assert memory.keys() == (set() if i == 0 else {self.name})
        return sample + prediction, {self.name: prediction}


def start_of(
    weights: Guidance | None = None,
    halves: Halves[Condition] | None = None,
    left_out: frozenset[int] = frozenset(),
    name: str = "slope",
) -> Start[Condition]:
    return Start(
        latents=np.zeros((1, 3, 1, 4, 4), np.float32),
        halves=halves or Halves(Condition(np.ones((1, 1), np.float32))),
        schedule=RememberingSchedule(np.arange(STEPS), name),
        guidance=weights or constant(None, STEPS),
        carried="float32",
        left_out=left_out,
    )


@dataclass
class Told:
    """The calls of the fake model."""

    predicted: list[int] = field(default_factory=list)


class Fake(DiffusionPipeline[ResolvedRequest, Condition, Start[Condition]]):
    """Predicts the step's number plus one, everywhere."""

    def __init__(self, start: Start[Condition]) -> None:
        of_task: TaskRules[Any] = TaskRules(request=ResolvedRequest, defaults=DEFAULTS)
        super().__init__(Parts(Rules("Fake", "none", ("none",), of_task), Configs(), {}, "float32"))
        self.start, self.told = start, Told()

    def encode(self, r: ResolvedRequest) -> Halves[Condition]:
        return self.start.halves

    def prepare(
        self, r: ResolvedRequest, halves: Halves[Condition], rng: np.random.Generator
    ) -> Start[Condition]:
        return self.start

    def predict(
        self, r: ResolvedRequest, start: Start[Condition], latents: np.ndarray, condition: Condition, i: int
    ) -> nn.Tensor:
        self.told.predicted.append(i)
        return nn.from_numpy(np.full_like(latents, i + 1))

    def decode(
        self, r: ResolvedRequest, start: Start[Condition], latents: np.ndarray, rng: np.random.Generator
    ) -> nn.Tensor:
        return nn.from_numpy(latents / 10)


def test_the_first_step_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"^left_out: contains step 0"):
        start_of(left_out=frozenset({0, 2}))


def test_guided_steps_need_an_unconditional_half() -> None:
    with pytest.raises(ValueError, match=r"^halves: unconditional is None, but a step has a weight"):
        start_of(weights=Guidance([None, 2.0, None]))
    seen = Condition(np.ones((1, 1), np.float32))
    start_of(weights=Guidance([None, 2.0, None]), halves=Halves(seen, seen))


@pytest.mark.parametrize(
    ("name", "left_out"), [("latents", frozenset()), ("latents", {2}), ("prediction", {2})]
)
def test_a_sampler_must_not_use_the_loops_names(name: str, left_out: frozenset[int]) -> None:
    pipeline = Fake(start_of(name=name, left_out=frozenset(left_out)))
    with pytest.raises(ValueError, match=rf"^RememberingSchedule\.step: remembers an array named '{name}'"):
        pipeline.render(REQUEST)
    assert pipeline.told.predicted == [0]


def test_a_step_that_is_left_out_goes_on_from_a_saved_state() -> None:
    start = start_of(left_out=frozenset({1}), name="slope")
    states: list[ResumeState] = []
    whole = Fake(start).render(REQUEST, on_state=states.append)
    assert [set(state.arrays) for state in states] == [{"latents", "prediction", "slope"}] * STEPS
    # 1, and 1 again instead of 2, and 3.
    np.testing.assert_array_equal(states[-1].arrays["latents"], 5)
    for state, predicted in zip(states, ([2], [2], []), strict=True):
        pipeline = Fake(start)
        frames = pipeline.render(REQUEST, resume=state).frames
        assert pipeline.told.predicted == predicted
        np.testing.assert_array_equal(frames, whole.frames)


def test_a_sampler_may_use_the_name_of_what_is_not_saved() -> None:
    states: list[ResumeState] = []
    Fake(start_of(name="prediction")).render(REQUEST, on_state=states.append)
    assert set(states[0].arrays) == {"latents", "prediction"}
