"""The states of a batch, one word each. They are written to `batches.status` and appear in the API."""

RECEIVING, SCHEDULED, SENDING = "receiving", "scheduled", "sending"
PAUSED, CANCELLED, FINISHED = "paused", "cancelled", "finished"
# A message of such a batch may leave: a scheduled one once it is due.
MAY_SEND = (SENDING, SCHEDULED)
# Why one that finished never sent anything.
NO_VALID_ROWS = "no_valid_rows"
