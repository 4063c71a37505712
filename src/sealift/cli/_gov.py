"""``sealift gov``: what the upgrade authority decides, and what is on record."""

import click

from ._gov_files import sign, submit
from ._gov_orders import (
    cancel,
    postpone,
    rehearsals,
    rotate_keys,
    rules,
    schedule,
    withdraw,
)
from ._gov_review import forecast_command, review
from ._gov_status import history, status
from ._gov_votes import propose, tally, vote


@click.group()
def gov() -> None:
    r"""Decide what code runs next, and see what was decided.

    \b
    Example:
      sealift gov schedule --card card.json --authority boss.json \
        --bundle auction-v2.bundle --at +60
    """


for _command in (
    schedule,
    cancel,
    postpone,
    rules,
    rehearsals,
    withdraw,
    rotate_keys,
    status,
    history,
    sign,
    submit,
    propose,
    vote,
    tally,
    forecast_command,
    review,
):
    gov.add_command(_command)
