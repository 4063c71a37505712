"""One instance of a home: what is said of it is of the life that it has."""

from types import SimpleNamespace
from typing import Any

from sealift.base import Fingerprint
from sealift.worker._beside import Instance


def test_an_enclave_that_comes_up_again_has_no_state_of_the_life_before() -> None:
    """Or a state that fell back with a kill would be told as if it had not."""
    config: Any = SimpleNamespace()
    worker: Any = SimpleNamespace(hello=SimpleNamespace(app_version="2.0"))
    inner: Any = None
    one = Instance(Fingerprint(b"\x01" * 32), config)
    one.state_height, one.has_keys, one.inner_url = 41, True, "http://127.0.0.1:1"
    one.up(worker, inner)
    assert one.is_up()
    assert (one.state_height, one.has_keys, one.inner_url) == (None, False, "")
    assert one.version == "2.0"
