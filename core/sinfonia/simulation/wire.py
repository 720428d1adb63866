"""Messages as the other side of a wire would see them: encoded, and decoded again."""

from sinfonia.protocol.messages import Replies, Requests
from sinfonia.transport.codec import (
    decode_replies,
    decode_requests,
    encode_replies,
    encode_requests,
)

Message = Requests | Replies


def through_the_wire(message: Message) -> Message:
    """``message``, encoded and decoded."""
    if isinstance(message, Requests):
        return decode_requests(encode_requests(message, large=True))
    return decode_replies(encode_replies(message))
