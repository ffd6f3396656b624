"""Every month that the reports are tried on."""

import pytest
from reportworld import SCENES, Scene


@pytest.fixture(params=sorted(SCENES))
def any_scene(request: pytest.FixtureRequest) -> Scene:
    return SCENES[request.param]
