"""Effects outlive the generation that executed them (DESIGN §10.9, ADR 0020)."""

from collections.abc import Callable

from story import Story

from sealift.protocol import EffectsFact, effects_root
from sealift.protocol.ecall import EffectsSpoken, SpeakEffects
from sealift.testing import WorldWorker


def speak(story: Story, worker: WorldWorker) -> list[int]:
    """What an instance has to say again is brought to L1 by somebody."""
    spoken = worker.call(SpeakEffects(after=0), EffectsSpoken)
    for block in spoken.blocks:
        story.world.act(
            "carrier",
            "enclave_bridge.post_effects",
            statement=block.statement,
            signature=block.signature,
            effects=block.effects,
        )
    return [block.statement.height for block in spoken.blocks]


def withdraw(story: Story, amount: int) -> None:
    world = story.world
    world.act(
        "alice",
        "enclave_bridge.shield_funds",
        shard=world.shard,
        beneficiary=story.alice.account,
        amount=amount,
    )
    story.business(2)
    call = story.alice.call(
        "balances.unshield", beneficiary=world.account("bob"), amount=amount
    )
    story.business(3)
    assert call.receipt().outcome == "ok"


def test_what_the_old_generation_left_unsaid_is_paid_all_the_same(
    new_story: Callable[..., Story],
) -> None:
    """One platform ran the block; two must say so; then the one is gone."""
    story = new_story(rules={"effects_quorum": 2})
    world = story.world
    before = world.balance("bob")
    withdraw(story, 500)
    assert world.balance("bob") == before
    entry = story.schedule()
    news = [story.join(entry, name=name) for name in ("new", "newer")]
    story.business_until(entry.upgrade_at + 2)
    story.settle()
    world.act(
        story.old.operator,
        "teerex.unregister_enclave",
        signing_key=story.old.signing_key,
    )
    story.business(2)
    (said,) = (speak(story, each) for each in news[:1])
    assert len(said) == 1
    assert world.balance("bob") == before
    assert speak(story, news[1]) == said
    assert world.balance("bob") - before == 500
    story.settle()
    assert speak(story, news[0]) == []  # L1 has done it, and the state forgets it
    withdraw(story, 70)
    for each in news:
        speak(story, each)
    assert world.balance("bob") - before == 570
    story.settle()
    story.check_calls()
    story.check_roots_agree()


def test_a_state_that_is_not_confirmed_says_nothing(
    new_story: Callable[..., Story],
) -> None:
    story = new_story(rules={"effects_quorum": 2})
    story.old.mute = True
    world = story.world
    frontier = world.frontier().confirmed
    withdraw(story, 500)
    assert world.frontier().confirmed == frontier
    spoken = story.old.call(SpeakEffects(after=0), EffectsSpoken)
    assert spoken.blocks == ()


def test_a_confirmation_names_what_its_blocks_do(
    new_story: Callable[..., Story],
) -> None:
    story = new_story(rules={"effects_quorum": 2})
    withdraw(story, 500)
    said = [one for one in story.old.signed if one.effects]
    assert len(said) == 1
    confirmation = said[0].confirmation
    assert confirmation is not None
    assert isinstance(said[0].effects[0], EffectsFact)
    assert effects_root(said[0].effects) == confirmation.effects_root
