"""Your own answers to texts: add functions here. docs/replies.md tells the rest.

    @on_keyword("BAL", "BALANCE")
    def balance(message: Inbound) -> str:
        account = message.rest or message.sender
        return f"The balance of {account} is KES 100."

    @on_message
    def keep(message: Inbound) -> None:
        tickets.add(message.id, message.sender, message.text)

A text that nothing here takes is answered by the setting REPLY_TEMPLATE.
"""

from messaging.reply_handlers import Inbound, on_keyword


@on_keyword("DEMO")
def demonstrate(message: Inbound) -> str:
    return f'This answer comes from replies.py. You wrote "{message.rest}" after {message.keyword}.'
