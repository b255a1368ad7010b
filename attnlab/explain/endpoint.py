"""A language model behind HTTP, as a function from a prompt to a reply.

    complete = Endpoint("http://localhost:8080/v1", model="any", key_variable="MY_KEY")
    complete("Why?")

It speaks OpenAI's chat protocol, as many servers do. The key is read from the environment variable
named, at each call; it is sent in one header to that host alone (redirects are not followed, and off
this machine only over https), and it is kept in no attribute, message or log.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from attnlab.contract import InputError

LARGEST = 2**20  # bytes of a reply
RETRIED = frozenset({408, 429, *range(500, 600)})


class EndpointError(RuntimeError):
    """The server gave no usable reply; the message says what came, and never holds the key."""


class _Passing(Exception):
    """A failure that may pass: worth another attempt, after `wait` seconds if the server says so."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None  # urllib would send the key along, wherever it is sent to


@dataclass(frozen=True)
class Endpoint:
    """Calls URL/chat/completions with one user message.

    timeout: seconds for a whole attempt. retries: further attempts after time-outs, refused
    connections and the statuses 408, 429 and 5xx, after backoff, 2 backoff, 4 backoff …
    seconds, or as long as the server's Retry-After says, at most longest_wait. Temperature, top_p
    and max_tokens are the paper's. Raises InputError for what cannot be a URL, a key over plain
    http to another machine, and an environment variable that is not set; EndpointError at a call.
    """

    url: str
    model: str = "gpt-3.5-turbo"
    key_variable: str | None = None
    timeout: float = 30.0
    retries: int = 3
    backoff: float = 0.5
    longest_wait: float = 30.0
    temperature: float = 0.5
    top_p: float = 1.0
    max_tokens: int = 300
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"endpoint: not a URL ({error})") from None
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise InputError("endpoint: a URL is printable ASCII without blanks")
        if parts.scheme not in ("http", "https") or not host:
            raise InputError(
                f"endpoint {self.url!r} must begin with http:// or https:// and a host"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError(
                "endpoint: name the key's variable instead of putting secrets into the URL"
            )
        if self.key_variable and parts.scheme == "http" and not _local(host):
            raise InputError(f"endpoint: a key goes to {host} only over https")
        if self.timeout <= 0 or self.retries < 0 or self.backoff < 0 or self.longest_wait < 0:
            raise InputError(
                "endpoint: timeout must be above 0; retries, backoff and waits not below"
            )
        self._key()

    def __call__(self, prompt: str, /) -> str:
        """The reply's text. Raises EndpointError."""
        key = self._key()
        for attempt in range(self.retries + 1):
            try:
                return self._reply(self._post(prompt, key), key)
            except _Passing as failure:
                if attempt == self.retries:
                    raise EndpointError(
                        f"{self._target}: {failure} (attempt {attempt + 1} of {self.retries + 1})"
                    ) from None
                wait = self.backoff * 2**attempt if failure.wait is None else failure.wait
                self.sleep(min(wait, self.longest_wait))
        raise AssertionError("unreachable")

    @property
    def _target(self) -> str:
        end = "/chat/completions"
        base = self.url.rstrip("/")
        return base if base.endswith(end) else base + end

    def _key(self) -> str:
        if not self.key_variable:
            return ""
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise InputError(f"endpoint: the environment variable {self.key_variable} is not set")
        if not key.isascii() or not key.isprintable():
            raise InputError(f"endpoint: {self.key_variable} holds what no header may")
        return key

    def _post(self, prompt: str, key: str) -> bytes:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            self._target, json.dumps(body).encode(), headers, method="POST"
        )
        handlers: list[Any] = [_NoRedirect]
        if _local(urlsplit(self.url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # no proxy for this machine
        deadline = time.monotonic() + self.timeout
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=self.timeout) as made:
                return _read(made, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error, key, deadline) from None
        except TimeoutError:
            raise _Passing(f"no reply within {self.timeout:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Passing(f"no reply within {self.timeout:g} s") from None
            raise _Passing(f"no connection ({_hide(str(error.reason), key)})") from None
        except (http.client.HTTPException, OSError) as error:
            raise _Passing(f"the connection broke ({type(error).__name__})") from None

    def _refused(
        self, error: urllib.error.HTTPError, key: str, deadline: float
    ) -> _Passing | EndpointError:
        try:
            said = _read(error, deadline).decode("utf-8", "replace")
        except (http.client.HTTPException, OSError, EndpointError):
            said = ""
        what = f"HTTP {error.code} {_short(_hide(said, key))}".strip()
        if error.code in RETRIED:
            return _Passing(what, _seconds(error.headers.get("Retry-After")))
        if 300 <= error.code < 400:
            what = f"HTTP {error.code}: redirects are not followed; give the final URL"
        return EndpointError(f"{self._target}: {what}")

    def _reply(self, raw: bytes, key: str) -> str:
        try:
            said = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            shown = _short(_hide(raw.decode("utf-8", "replace"), key))
            raise EndpointError(f"{self._target}: not a chat completion: {shown}") from None
        if not isinstance(said, str) or not said.strip():
            raise EndpointError(f"{self._target}: the reply holds no text")
        return said.strip()


def _read(reply: Any, deadline: float) -> bytes:
    """The body; a server that drips bytes is as late as one that is silent."""
    chunks, size = [], 0
    while chunk := reply.read1(65536):
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST:
            raise EndpointError(f"the reply is longer than {LARGEST} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    announced = reply.headers.get("Content-Length", "")
    if announced.isdigit() and size < int(announced):
        raise http.client.IncompleteRead(b"")
    return b"".join(chunks)


def _local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; a date or nonsense is left to the back-off."""
    try:
        wait = float(header or "")
    except ValueError:
        return None
    return wait if 0 <= wait < float("inf") else None


def _hide(text: str, key: str) -> str:
    return text.replace(key, "***") if key else text


def _short(text: str) -> str:
    """One line of printable characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else line[:200] + "…"
