"""The endpoint against a server of our own on this machine: failures, retries, and a key that stays secret."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from attnlab.contract import InputError
from attnlab.explain.endpoint import Endpoint, EndpointError
from attnlab.explain.verbalize import verbalize

KEY = "sk-very-secret-4711"


def completion(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Server:
    """Answers with what is in `replies`, one a request, the last one for ever after."""

    def __init__(self) -> None:
        self.replies: list[Any] = [(200, completion("because of 'lovely'"), {})]
        self.seen: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append(
                    {"path": self.path, "headers": dict(self.headers), "body": json.loads(body)}
                )
                reply = outer.replies[min(len(outer.seen), len(outer.replies)) - 1]
                if callable(reply):
                    reply(self)
                    return
                status, content, headers = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("LESSON_KEY", KEY)
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def endpoint(server: Server, waits: list[float] | None = None, **options: Any) -> Endpoint:
    options = {"key_variable": "LESSON_KEY", "timeout": 5.0} | options
    return Endpoint(server.url, sleep=(waits if waits is not None else []).append, **options)


def test_one_message_goes_out_and_its_text_comes_back(server: Server) -> None:
    assert endpoint(server, model="tiny")("Why?") == "because of 'lovely'"
    (seen,) = server.seen
    assert seen["path"] == "/v1/chat/completions"
    assert seen["headers"]["Authorization"] == f"Bearer {KEY}"
    assert seen["body"] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Why?"}],
        "temperature": 0.5,
        "top_p": 1.0,
        "max_tokens": 300,
    }


def test_a_full_url_and_no_key(server: Server) -> None:
    full = Endpoint(server.url + "/chat/completions")
    assert full("Why?") == "because of 'lovely'"
    assert server.seen[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in server.seen[0]["headers"]


def test_it_serves_as_complete(server: Server) -> None:
    said = verbalize(
        ["a", "lovely", "film"],
        [0.1, 0.7, 0.2],
        "positive",
        how="instruct",
        complete=endpoint(server),
    )
    assert said.quoted == ("lovely",)
    assert said.coverage == pytest.approx(0.7)
    assert "lovely (0.7)" in server.seen[0]["body"]["messages"][0]["content"]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again_with_growing_waits(server: Server, status: int) -> None:
    good = server.replies[0]
    server.replies = [(status, b"busy", {}), (status, b"busy", {}), good]
    waits: list[float] = []
    assert endpoint(server, waits, backoff=0.25)("Why?") == "because of 'lovely'"
    assert waits == [0.25, 0.5]
    assert len(server.seen) == 3


def test_retry_after_is_followed_within_bounds(server: Server) -> None:
    good = server.replies[0]
    server.replies = [
        (429, b"", {"Retry-After": "7"}),
        (429, b"", {"Retry-After": "9999"}),
        (429, b"", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        good,
    ]
    waits: list[float] = []
    endpoint(server, waits, backoff=1.0)("Why?")
    assert waits == [7.0, 30.0, 4.0]


def test_it_gives_up_and_says_what_came(server: Server) -> None:
    server.replies = [(500, b"out of order", {})]
    with pytest.raises(EndpointError, match=r"HTTP 500 out of order \(attempt 3 of 3\)"):
        endpoint(server, retries=2)("Why?")
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_request_that_is_wrong_stays_wrong(server: Server, status: int) -> None:
    server.replies = [(status, b'{"error": "no such model"}', {})]
    with pytest.raises(EndpointError, match=f"HTTP {status}.*no such model"):
        endpoint(server)("Why?")
    assert len(server.seen) == 1


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(30):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass  # the client has gone


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.close_connection = True


@pytest.mark.parametrize("reply", [silent, dripping])
def test_time_outs_hold_for_the_whole_reply(server: Server, reply: Any) -> None:
    server.replies = [reply]
    begun = time.monotonic()
    with pytest.raises(EndpointError, match=r"no reply within 0\.2 s \(attempt 2 of 2\)"):
        endpoint(server, timeout=0.2, retries=1)("Why?")
    assert time.monotonic() - begun < 1.4
    assert len(server.seen) == 2


def test_a_late_server_may_answer_at_the_second_attempt(server: Server) -> None:
    server.replies = [silent, server.replies[0]]
    assert endpoint(server, timeout=0.5)("Why?") == "because of 'lovely'"


def test_nobody_listens(server: Server) -> None:
    closed = Server()
    closed.http.server_close()
    waits: list[float] = []
    with pytest.raises(EndpointError, match=r"no connection.*attempt 2 of 2"):
        endpoint(closed, waits, retries=1)("Why?")
    assert waits == [0.5]


def test_a_broken_connection_is_tried_again(server: Server) -> None:
    server.replies = [cut, server.replies[0]]
    assert endpoint(server)("Why?") == "because of 'lovely'"


@pytest.mark.parametrize(
    "content",
    [
        b"<html>welcome</html>",
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"text": "old"}]}',
        b'{"error": {"message": "overloaded"}}',
        completion(None),
        completion(["a", "list"]),
        completion("  "),
        b"[" * 100_000,
    ],
)
def test_malformed_replies(server: Server, content: bytes) -> None:
    server.replies = [(200, content, {})]
    with pytest.raises(EndpointError, match=r"not a chat completion|holds no text") as failed:
        endpoint(server)("Why?")
    assert len(str(failed.value)) < 400
    assert len(server.seen) == 1


def test_an_endless_reply_is_cut_off(server: Server) -> None:
    server.replies = [(200, b" " * (2**20 + 1), {})]
    with pytest.raises(EndpointError, match="longer than"):
        endpoint(server)("Why?")


def test_redirects_are_not_followed(server: Server) -> None:
    server.replies = [(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"})]
    with pytest.raises(EndpointError, match="redirects are not followed"):
        endpoint(server)("Why?")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "reply",
    [
        (401, f"invalid key {KEY}".encode(), {}),
        (500, f"invalid key {KEY}".encode(), {}),
        (200, f"you sent {KEY}".encode(), {}),
    ],
)
def test_the_key_is_in_no_message_log_or_attribute(
    server: Server, reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.replies = [reply]
    made = endpoint(server, retries=1)
    with pytest.raises(EndpointError) as failed:
        made("Why?")
    assert server.seen[0]["headers"]["Authorization"].endswith(KEY)
    assert KEY not in "".join([str(failed.value), repr(made), str(vars(made)), caplog.text])
    assert "***" in str(failed.value)


def test_the_key_is_read_at_the_call(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made = endpoint(server)
    monkeypatch.setenv("LESSON_KEY", "another")
    made("Why?")
    assert server.seen[0]["headers"]["Authorization"] == "Bearer another"
    monkeypatch.delenv("LESSON_KEY")
    with pytest.raises(InputError, match="LESSON_KEY is not set"):
        made("Why?")


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("localhost:8080/v1", {}, "must begin with"),
        ("file:///etc/passwd", {}, "must begin with"),
        ("http://", {}, "must begin with"),
        ("http://[::1", {}, "not a URL"),
        ("http://localhost:port/v1", {}, "not a URL"),
        ("http://localhost/v 1", {}, "without blanks"),
        ("https://me:secret@example.org/v1", {}, "secrets into the URL"),
        ("https://example.org/v1?key=secret", {}, "secrets into the URL"),
        ("http://example.org/v1", {"key_variable": "LESSON_KEY"}, "only over https"),
        ("https://example.org/v1", {"key_variable": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ("https://example.org/v1", {"key_variable": "BAD_KEY"}, "no header may"),
        ("https://example.org/v1", {"timeout": 0.0}, "timeout"),
        ("https://example.org/v1", {"retries": -1}, "timeout"),
    ],
)
def test_refused(
    url: str, options: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESSON_KEY", KEY)
    monkeypatch.setenv("BAD_KEY", "a\nb-secret")
    with pytest.raises(InputError, match=text) as failed:
        Endpoint(url, **options)
    assert "secret" not in str(failed.value).replace("secrets into", "")
