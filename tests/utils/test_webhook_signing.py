from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from utils.webhook_signing import read_secret, signature_headers

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()
BODY = '{"text":"Habari ya asubuhi – ሰላም"}'.encode()


def headers(*secrets: str, age_seconds: int = 0) -> dict[str, str]:
    return dict(signature_headers(secrets, "evt_1", int(time.time()) - age_seconds, BODY))


def test_the_example_of_the_specification_has_its_signature() -> None:
    signed = signature_headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_published_library_verifies_what_we_sign() -> None:
    assert Webhook(SECRET).verify(BODY, headers(SECRET)) == {"text": "Habari ya asubuhi – ሰላም"}


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_changed_header_is_refused(name: str) -> None:
    changed = headers(SECRET)
    # Still of its form: another id, another second, another signature.
    changed[name] = {
        "webhook-id": "evt_2",
        "webhook-timestamp": str(int(changed["webhook-timestamp"]) - 1),
        "webhook-signature": headers(OTHER)["webhook-signature"],
    }[name]
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, changed)


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY.replace(b"asubuhi", b"jioni"), headers(SECRET))


@pytest.mark.parametrize("written", [SECRET.removeprefix("whsec_"), SECRET.rstrip("=")])
def test_a_secret_without_prefix_or_padding_is_the_same_one_for_the_library(written: str) -> None:
    Webhook(written).verify(BODY, headers(SECRET))
    Webhook(SECRET).verify(BODY, headers(written))


def test_an_old_event_is_refused() -> None:
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(BODY, headers(SECRET, age_seconds=600))


def test_while_secrets_change_both_the_old_and_the_new_one_verify() -> None:
    signed = headers(OTHER, SECRET)
    assert signed["webhook-signature"].count("v1,") == 2
    for secret in (SECRET, OTHER):
        Webhook(secret).verify(BODY, signed)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "secret",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_not base64!",
        "ключ" * 12,
        SECRET * 3,
    ],
)
def test_a_secret_that_is_not_written_as_the_specification_has_it_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_") as refused:
        read_secret(secret)
    assert len(secret) < 7 or secret not in str(refused.value)
