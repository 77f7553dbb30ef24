from flask import Flask, session
from flask.testing import FlaskClient

from routes.sessions import CookieSessions


def client_of(secret_key: str | None = "a secret") -> FlaskClient:
    app = Flask(__name__)
    app.secret_key = secret_key
    app.session_interface = CookieSessions()

    @app.get("/remember/<name>")
    def remember(name: str) -> str:
        session["name"] = name
        return "OK"

    @app.get("/name")
    def show_name() -> str:
        return str(session.get("name"))

    return app.test_client()


def test_a_session_is_there_on_the_next_request() -> None:
    client = client_of()
    client.get("/remember/alice")
    assert client.get("/name").text == "alice"


def test_without_its_cookie_a_session_is_empty_and_sets_none() -> None:
    client = client_of()
    client.set_cookie("theme", "dark")
    answer = client.get("/name")
    assert answer.text == "None"
    assert "Set-Cookie" not in answer.headers


def test_a_cookie_signed_by_somebody_else_counts_for_nothing() -> None:
    stranger, client = client_of("another secret"), client_of()
    stranger.get("/remember/mallory")
    forged = stranger.get_cookie("session")
    assert forged is not None
    client.set_cookie("session", forged.value)
    assert client.get("/name").text == "None"


def test_without_a_secret_nothing_can_be_remembered() -> None:
    assert client_of(None).get("/remember/alice").status_code == 500
