"""A refusal goes to the host in clear: it must not tell what is sealed."""

import pytest
from notebook import SECRET, Indiscreet, runtime

from sealift.testing import RefusedError, World


def test_a_migration_check_that_names_what_it_saw_does_not_tell_the_host(
    world: World,
) -> None:
    old = world.workers["old"]
    world.user("alice").call("notebook.write", text=SECRET)
    world.blocks(2)
    v2 = world.release(runtime(Indiscreet, 2))
    entry = world.schedule(v2)
    world.run_until(entry.release_from)
    new = world.worker("new", v2, upstream=old)
    new.request_keys(old)
    world.run_until(entry.upgrade_at + 2)
    assert new.executions == []
    refused = [e for e in new.refusals if e.name == "MigrationCheckError"]
    assert "TellTaleError" in str(refused[-1]), "the check is named"
    assert all("4711" not in str(error) for error in new.refusals)


@pytest.mark.parametrize(
    ("getter", "code"),
    [
        ("notebook.search", "GetterFailedError"),
        ("notebook.nothing", "UnknownGetterError"),
        ("notebook.line", "UnknownGetterError"),
    ],
)
def test_a_host_does_not_learn_from_a_refused_read_what_was_asked(
    world: World, getter: str, code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        world.user("alice").read(getter, "4711")
    assert caught.value.name == code
    for told in (getter, "4711", b"4711".hex(), "TellTale"):
        assert told not in str(caught.value)


def test_a_host_does_not_learn_the_arguments_of_a_read_that_do_not_fit(
    world: World,
) -> None:
    """As after an upgrade that changed them: an honest reader's, still valid."""
    with pytest.raises(RefusedError) as caught:
        world.user("alice").read("notebook.search", "4711", "a word too many")
    assert caught.value.name == "GetterArgumentsError"
    assert b"4711".hex() not in str(caught.value)
