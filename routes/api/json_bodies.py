"""JSON that callers send, read strictly.

flask-openapi asks for it silently: of a body that cannot be read it would say only that it is no object.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from flask import Request

from utils.errors import InvalidInput

# Beyond any that a route knows. Each unknown one becomes an error that is told, larger than the field itself.
MOST_FIELDS = 100
# Half a surrogate pair may hide behind an escape, or in UTF-16. Most bodies hold neither and cost one search.
_MAY_HOLD_HALF_A_PAIR = re.compile(rb"\\u[dD]|\0")


class StrictJsonRequest(Request):
    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Raises InvalidInput for a body that says it is JSON and is not, or that no store could keep."""
        try:
            may_be_absent = silent and not (self.is_json and self.get_data())
            found = super().get_json(force=force, silent=may_be_absent, cache=cache)
            if isinstance(found, dict) and len(found) > MOST_FIELDS:
                _refuse(f"The body has more than {MOST_FIELDS} fields")
            if self.is_json and _MAY_HOLD_HALF_A_PAIR.search(self.get_data()):
                json.dumps(found, ensure_ascii=False).encode()
        except RecursionError:
            _refuse("The body is nested too deeply")
        except UnicodeEncodeError:
            _refuse("The body holds half of a surrogate pair, which is no character")
        return found

    def on_json_loading_failed(self, e: ValueError | None) -> NoReturn:
        _refuse("The body is not valid JSON in UTF-8" if e else "The body must be JSON: application/json")


def _refuse(sentence: str) -> NoReturn:
    raise InvalidInput(sentence, code="invalid_request")
