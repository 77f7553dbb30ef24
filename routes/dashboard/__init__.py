"""The pages for people. A module per page; each registers its views on the one blueprint."""

from routes.dashboard import consents as consents
from routes.dashboard import conversations as conversations
from routes.dashboard import filters as filters
from routes.dashboard import login as login
from routes.dashboard import messages as messages
from routes.dashboard import new_send as new_send
from routes.dashboard import overview as overview
from routes.dashboard import people as people
from routes.dashboard import records as records
from routes.dashboard import sends as sends
from routes.dashboard import settings as settings
