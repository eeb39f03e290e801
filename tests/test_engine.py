"""Engines have the functions that the runtime calls."""

import inspect

import pytest

from tests import fake_engine
from vidgen_dist import engine

CALLED = [
    name for name, member in vars(engine.Engine).items() if inspect.isfunction(member) and name[0] != "_"
]


def test_an_engine_has_seven_functions() -> None:
    assert len(CALLED) == 7


@pytest.mark.parametrize("module", [engine, fake_engine], ids=lambda module: module.__name__)
@pytest.mark.parametrize("name", CALLED)
def test_an_engine_has_the_functions_that_the_runtime_calls(module: object, name: str) -> None:
    """mypy checks the engine of the models; the tests' engine is not typed."""
    _, *expected = inspect.signature(getattr(engine.Engine, name)).parameters.values()
    signature = inspect.signature(getattr(module, name))
    signature.bind(*expected)
    signature.bind(*[parameter for parameter in expected if parameter.default is parameter.empty])
