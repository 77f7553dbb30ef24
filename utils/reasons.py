"""Why a message stands where it stands: the words that more than one module writes or reads."""

from typing import Final

OPTED_OUT: Final = "opted_out"
# Its `expires_at` passed before it left.
TOO_LATE: Final = "too_late"
# The recipient's network takes no promotional texts at this hour.
DO_NOT_DISTURB: Final = "do_not_disturb"
