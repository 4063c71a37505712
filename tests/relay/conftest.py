"""Real chain data, read once, and a workshop that makes chains."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sealift.crypto import account_of, sha256, sign
from sealift.relay import (
    FLAG_ABSENT,
    FLAG_COMMIT,
    FLAG_NIL,
    NO_EVIDENCE_HASH,
    BlockId,
    ChainRelay,
    Commit,
    CommitSig,
    ConsensusVersion,
    Header,
    LightBlock,
    PartSetHeader,
    RelayRules,
    SignedHeader,
    Timestamp,
    TrustRoot,
    Validator,
    ValidatorSet,
    data_hash,
    header_hash,
    results_hash,
    validators_hash,
    vote_sign_bytes,
)
from sealift.relay.rpc import (
    COMMIT,
    COMMIT_RESULT,
    HEADER,
    VALIDATOR_SET,
    VALIDATORS,
    parse_reply,
)


@pytest.fixture(scope="session")
def tendermint_rs(vectors: Path) -> Path:
    return vectors / "cometbft" / "informalsystems-tendermint-rs"


@pytest.fixture(scope="session")
def celestia(vectors: Path) -> Path:
    return vectors / "cometbft" / "succinctlabs-tendermintx"


@pytest.fixture(scope="session")
def mainnet_block(celestia: Path) -> LightBlock:
    """Celestia mainnet, height 3001, 100 validators."""
    folder = celestia / "celestia" / "3001"
    commit = COMMIT_RESULT.parse(
        parse_reply((folder / "commit.json").read_bytes()).open()
    )
    page = VALIDATORS.parse(
        parse_reply((folder / "validators_1.json").read_bytes()).open()
    )
    return LightBlock(signed_header=commit.signed_header, validators=page.validators)


@pytest.fixture(scope="session")
def mocha(celestia: Path) -> Callable[[int], LightBlock]:
    """Celestia's testnet mocha-4 by height."""

    def load(height: int) -> LightBlock:
        data = json.loads(
            (celestia / "mocha-4" / str(height) / "signed_block.json").read_bytes()
        )
        data = data.get("result", data)
        return LightBlock(
            signed_header=SignedHeader(
                header=HEADER.parse(data["header"]), commit=COMMIT.parse(data["commit"])
            ),
            validators=VALIDATOR_SET.parse(data["validator_set"]["validators"]),
        )

    return load


class Workshop:
    """Makes valid chains, and blocks with one thing wrong."""

    CHAIN = "test-chain"

    def __init__(self, count: int = 4, power: int = 10) -> None:
        self.secrets = {
            account_of(secret): secret
            for secret in (sha256(b"validator %d" % n) for n in range(count))
        }
        self.validators = ValidatorSet.sorted(
            tuple(Validator(public_key=key, power=power) for key in self.secrets)
        )

    def others(self, label: str, count: int, power: int = 10) -> ValidatorSet:
        """Another set, whose secrets are kept too."""
        made = [sha256(f"{label} {n}".encode()) for n in range(count)]
        self.secrets |= {account_of(secret): secret for secret in made}
        return ValidatorSet.sorted(
            tuple(Validator(public_key=account_of(one), power=power) for one in made)
        )

    def header(self, height: int = 1, **changes: Any) -> Header:
        fields: dict[str, Any] = {
            "version": ConsensusVersion(app=1),
            "chain_id": self.CHAIN,
            "height": height,
            "time": Timestamp(seconds=1_700_000_000 + height),
            "last_commit_hash": sha256(b"commit"),
            "data_hash": data_hash(()),
            "validators_hash": validators_hash(self.validators),
            "next_validators_hash": validators_hash(self.validators),
            "consensus_hash": sha256(b"params"),
            "app_hash": sha256(b"state"),
            "last_results_hash": results_hash(()),
            "evidence_hash": NO_EVIDENCE_HASH,
            "proposer_address": self.validators.validators[0].address,
        }
        return Header(**(fields | changes))

    def sign(
        self,
        header: Header,
        validators: ValidatorSet | None = None,
        *,
        silent: int = 0,
        against: int = 0,
        chain_id: str | None = None,
        round_: int = 0,
    ) -> LightBlock:
        """A light block; the last ``silent`` are absent, before them some say nil."""
        validators = validators or self.validators
        count = len(validators.validators)
        bare = Commit(
            height=header.height,
            round=round_,
            block_id=BlockId(
                hash=header_hash(header),
                parts=PartSetHeader(total=1, hash=sha256(b"parts")),
            ),
        )
        sigs: list[CommitSig] = []
        for n, one in enumerate(validators.validators):
            if n >= count - silent:
                sigs.append(CommitSig(flag=FLAG_ABSENT))
                continue
            sig = CommitSig(
                flag=FLAG_NIL if n >= count - silent - against else FLAG_COMMIT,
                validator_address=one.address,
                timestamp=header.time.plus(nanos=1000 + n),
            )
            data = vote_sign_bytes(chain_id or header.chain_id, bare, sig)
            sigs.append(
                replace(sig, signature=sign(self.secrets[one.public_key], data))
            )
        return LightBlock(
            signed_header=SignedHeader(
                header=header, commit=replace(bare, signatures=tuple(sigs))
            ),
            validators=validators,
        )

    def after(self, block: LightBlock, **changes: Any) -> Header:
        """A header that follows a block."""
        return self.header(
            block.header.height + 1,
            **(
                {
                    "last_block_id": block.commit.block_id,
                    "time": block.header.time.plus(seconds=1),
                }
                | changes
            ),
        )

    def chain(self, length: int) -> list[LightBlock]:
        """Blocks 1 … length."""
        blocks = [self.sign(self.header(1))]
        while len(blocks) < length:
            blocks.append(self.sign(self.after(blocks[-1])))
        return blocks

    def root(self, block: LightBlock) -> TrustRoot:
        return TrustRoot(
            chain_id=block.header.chain_id,
            height=block.header.height,
            header_hash=header_hash(block.header),
        )

    def relay(self, block: LightBlock, **options: Any) -> ChainRelay:
        return ChainRelay.bootstrap(
            self.root(block), block, rules=self.rules, now=None, **options
        )

    @property
    def rules(self) -> RelayRules:
        return RelayRules(trusting_period=86_400)

    @staticmethod
    def with_commit(block: LightBlock, **changes: Any) -> LightBlock:
        commit = replace(block.commit, **changes)
        return replace(block, signed_header=replace(block.signed_header, commit=commit))

    @classmethod
    def with_sig(cls, block: LightBlock, index: int, **changes: Any) -> LightBlock:
        sigs = list(block.commit.signatures)
        sigs[index] = replace(sigs[index], **changes)
        return cls.with_commit(block, signatures=tuple(sigs))


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    return Workshop()
