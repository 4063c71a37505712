"""``--explorer-states N``: how many states each exploration of sessions visits."""

import pytest

#: What CI visits from each beginning.
STATES = 3_000


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("explorer")
    group.addoption("--explorer-states", type=int, default=STATES)


@pytest.fixture
def states(request: pytest.FixtureRequest) -> int:
    # Its default stands where this file was found too late to add the option.
    wanted: int = request.config.getoption("--explorer-states", default=STATES)
    return wanted
