"""The pages for people. A module per page; each registers its views on the one blueprint."""

from routes.dashboard import filters as filters
from routes.dashboard import login as login
from routes.dashboard import settings as settings
