"""What people's own `replies.py` imports. An address of its own, so that it stays when modules move."""

from messaging.conversations.handlers import Inbound, on_keyword, on_message

__all__ = ["Inbound", "on_keyword", "on_message"]
