"""What a pallet says happened."""

from sealift.base import Message


class Event(Message, kw_only=True):
    """Base of what pallets tell the outside; kept only if the call succeeds."""
