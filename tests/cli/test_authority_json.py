"""Authority documents: what is written is what is read, and every fault has a place."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.base import decode, encode
from sealift.cli._authority import describe_authority
from sealift.cli._authority_json import (
    AuthorityDocumentError,
    authority_tree,
    parse_authority,
    render_authority,
)
from sealift.cli._rules import unanimity
from sealift.protocol import (
    MAX_DEPTH,
    MAX_MEMBERS,
    AllOf,
    AnyOf,
    Authority,
    Ratio,
    SignerAuthority,
    StakeAuthority,
    SudoAuthority,
    WorkersAuthority,
    leaves,
)

KEY = "ab" * 32


def ratios() -> st.SearchStrategy[Ratio]:
    whole = st.integers(1, 1_000_000)
    return whole.flatmap(
        lambda d: st.integers(0, d).map(lambda n: Ratio(numerator=n, denominator=d))
    )


IDS = st.binary(min_size=32, max_size=32)
BLOCKS, PERIODS = st.integers(0, 100_000_000), st.integers(1, 100_000_000)
LEAVES = st.one_of(
    st.builds(SudoAuthority, key=IDS),
    st.builds(WorkersAuthority, threshold=ratios(), seat_age=BLOCKS, period=PERIODS),
    st.builds(
        StakeAuthority,
        threshold=ratios(),
        quorum=ratios(),
        stake_age=PERIODS,
        period=PERIODS,
        min_voters=st.integers(0, 2**31 - 1),
        deposit=st.integers(0, 2**63 - 1),
    ),
    st.builds(
        SignerAuthority,
        mr_signer=IDS,
        prod_id=st.integers(0, 0xFFFF),
        min_svn=st.integers(0, 0xFFFF),
    ),
)


def trees(depth: int = MAX_DEPTH) -> st.SearchStrategy[Authority]:
    if not depth:
        return LEAVES
    members = st.lists(trees(depth - 1), min_size=1, max_size=3).map(tuple)
    return st.one_of(
        LEAVES, st.builds(AnyOf, members=members), st.builds(AllOf, members=members)
    )


@given(trees().filter(lambda tree: len(list(leaves(tree))) <= MAX_MEMBERS))
def test_what_is_written_is_what_is_read(authority: Authority) -> None:
    assert parse_authority(render_authority(authority)) == authority
    assert decode(Authority, encode(authority)) == authority  # within its bounds
    assert describe_authority(authority)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sudo", "stake", "any-of", "threshold", "period", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(ANY_JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=64))
def test_any_bytes_give_an_authority_or_a_refusal_with_a_place(data: bytes) -> None:
    found = refusal = None
    try:
        found = parse_authority(data)
    except AuthorityDocumentError as error:
        refusal = error
    if found is None:
        assert refusal is not None
        assert refusal.place.startswith("$")
        assert "\n" not in str(refusal)
        return
    assert parse_authority(render_authority(found)) == found


STAKE = {"threshold": "1/2", "quorum": "1/10", "stake_age": 20, "period": 20}


def faulty(**changes: object) -> dict[str, object]:
    return {"any-of": [{"sudo": KEY}, {"stake": {**STAKE, **changes}}]}


@pytest.mark.parametrize(
    ("tree", "place", "words"),
    [
        ({}, "$", "one form"),
        ({"sudo": KEY, "stake": {}}, "$", "one form"),
        ({"king": KEY}, "$", "no such form"),
        ({"sudo": "ab"}, "$.sudo", "wrong length"),
        ({"sudo": 7}, "$.sudo", "not hexadecimal"),
        ({"sudo": "zz" * 32}, "$.sudo", "not hexadecimal"),
        ({"any-of": []}, "$.any-of", "not a list of members"),
        ({"any-of": [{"sudo": KEY}] * 9}, "$.any-of", "9 members"),
        ({"any-of": {"sudo": KEY}}, "$.any-of", "not a list"),
        (faulty(threshold="3/2"), "$.any-of[1].stake.threshold", "at most all"),
        (faulty(quorum="1/0"), "$.any-of[1].stake.quorum", "at most all"),
        (faulty(quorum=0.5), "$.any-of[1].stake.quorum", "share such as"),
        (faulty(period=0), "$.any-of[1].stake.period", ">= 1"),
        (faulty(period=True), "$.any-of[1].stake.period", "whole number"),
        (faulty(deposit=-1), "$.any-of[1].stake.deposit", ""),
        (faulty(stake_age="20"), "$.any-of[1].stake.stake_age", "whole number"),
        (faulty(majority="1/2"), "$.any-of[1].stake", "no such field"),
        ({"workers": {"threshold": "1/2"}}, "$.workers", "missing"),
        ({"workers": []}, "$.workers", "not an object"),
        ({"signer": {"mr_signer": KEY, "prod_id": 65_536}}, "$.signer.prod_id", ""),
    ],
)
def test_a_fault_is_named_with_its_place(tree: object, place: str, words: str) -> None:
    with pytest.raises(AuthorityDocumentError) as caught:
        parse_authority(json.dumps(tree).encode())
    assert caught.value.place == place
    assert words in str(caught.value)


def test_a_name_that_stands_twice_hides_nothing() -> None:
    """Reviewers read the first, programs the last."""
    with pytest.raises(AuthorityDocumentError, match="twice"):
        parse_authority(b'{"sudo": "%s", "sudo": "%s"}' % (b"aa" * 32, b"bb" * 32))


def test_documents_that_are_too_deep_or_too_large() -> None:
    deep: Any = {"sudo": KEY}
    for _ in range(MAX_DEPTH + 1):
        deep = {"all-of": [deep]}
    for data in (
        json.dumps(deep).encode(),
        b"[" * 30_000,
        b" " * 70_000,
        json.dumps({"all-of": [{"any-of": [{"sudo": KEY}] * 5}] * 2}).encode(),
    ):
        with pytest.raises(AuthorityDocumentError):
            parse_authority(data)


def test_terminal_commands_in_a_document_are_shown_not_obeyed() -> None:
    with pytest.raises(AuthorityDocumentError) as caught:
        parse_authority(json.dumps({"\x1b[2Jsudo": KEY}).encode())
    assert "\x1b" not in str(caught.value)


def test_who_must_agree_to_other_rules() -> None:
    one, other = SudoAuthority(key=bytes(32)), SudoAuthority(key=b"\1" * 32)
    assert not unanimity(one)
    assert not unanimity(AllOf(members=(one, other)))
    assert unanimity(AllOf(members=(AnyOf(members=(one, other)),)))
    assert authority_tree(one) == {"sudo": "00" * 32}


# --- at the command line ---


def test_a_shard_is_governed_by_a_document(
    world: Any, tiny_bundle: Path, tmp_path: Path, sealift: Any
) -> None:
    document, pause = tmp_path / "authority.json", tmp_path / "pause.json"
    document.write_text(json.dumps({
        "any-of": [{"sudo": KEY}, {"stake": STAKE}],
    }))  # fmt: skip
    pause.write_text(json.dumps({"sudo": "cd" * 32}))
    words = (
        "shard", "create", "--rpc", world.url, "--payer", world.key("payer"),
        "--authority-json", document, "--emergency-json", pause,
        "--bundle", tiny_bundle, "--effects-quorum", 1, "--rotation-quorum", 2,
        "--grace", 9, "--rules-notice", 40,
        "--handover", "shielding=pass,root=re-derive",
        "--emergency-floor", 2, "--emergency-notice", 3,
        "--genesis", tmp_path / "genesis.bin", "--card", tmp_path / "new.json",
        "--json",
    )  # fmt: skip
    said = sealift(*words)
    assert said.code == 0, said
    assert "one platform alone pays out" in said.err
    assert "any of" in said.json["authority"]
    blob = msgspec.msgpack.decode((tmp_path / "genesis.bin").read_bytes())
    assert blob["sudo"] == {"key": bytes.fromhex(KEY)}


@pytest.mark.parametrize(
    "fault",
    [
        (("--handover", "shielding=keep"), 2, "shielding"),
        (("--emergency-notice", 5), 1, "emergency"),
        (("--authority", "none.json"), 2, "Who decides"),
    ],
)
def test_rules_that_no_shard_lives_by_are_refused_before_anything_is_paid(
    world: Any,
    tiny_bundle: Path,
    tmp_path: Path,
    sealift: Any,
    fault: tuple[tuple[object, ...], int, str],
) -> None:
    more, code, words = fault
    document = tmp_path / "authority.json"
    document.write_text(json.dumps({"sudo": KEY}))
    said = sealift(
        "shard", "create", "--rpc", world.url, "--payer", world.key("payer"),
        "--authority-json", document, "--bundle", tiny_bundle, *more,
        "--genesis", tmp_path / "genesis.bin", "--card", tmp_path / "new.json",
    )  # fmt: skip
    assert said.code == code, said
    assert words in said.err
    assert not (tmp_path / "genesis.bin").exists()
