"""The peers of the probes on the path, and the support of the real servers."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))

from probe_peers import Authority, Pair, make_secrets

from smartmail.monitor.probes import SecretSource


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom the probes trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def good(authority: Authority) -> Pair:
    """A certificate with nothing wrong."""
    return authority.issue("good")


@pytest.fixture
def probe_secrets(tmp_path: Path) -> SecretSource:
    """The secret "probe"."""
    directory = tmp_path / "secrets"
    directory.mkdir(mode=0o700)
    return make_secrets(directory)
