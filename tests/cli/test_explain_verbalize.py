"""`attnlab explain TEXT --verbalize …`: sentences in the terminal, from a server too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = "The plot is thin, but the performances are lovely and never dull."
FEW = ("--method", "integrated_gradients,attention")


def attnlab(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnlab", "explain", TEXT, *args],
        env=os.environ | {"COLUMNS": "120", "PYTHONIOENCODING": "utf-8"} | env,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def refused(*args: str, **env: str) -> str:
    done = attnlab(*args, **env)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_sentence_a_method_and_what_it_covers() -> None:
    for how in ("search", "template", "instruct"):
        done = attnlab(*FEW, "--verbalize", how, "--json", "-")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        for name, one in report["methods"].items():
            said = one["verbalization"]
            if name == "random":
                assert said is None
                continue
            assert said["how"] == how
            assert said["text"] in one["words"]
            assert said["invented"] in (0, None)
            assert set(said["quoted"]) <= {t.lower() for t in report["tokens"]}
            assert one["guessed_from_words"] in ("negative", "positive", None)
    shown = attnlab(*FEW)
    assert "in words" in shown.stdout
    assert "Read alone, the words quoted let the model say" in " ".join(shown.stdout.split())


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.asked.append(dict(self.headers))  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        status, text = self.server.reply  # type: ignore[attr-defined]
        body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


def test_a_server_is_asked_and_its_failure_is_one_line() -> None:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.reply = [], (200, "It was 'lovely' and 'splendid'.")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        asked = ("--method", "gradient", "--endpoint", url, "--key-variable", "SOME_KEY")
        done = attnlab(*asked, SOME_KEY="sk-secret-815")
        assert done.returncode == 0, done.stderr
        assert "It was 'lovely' and 'splendid'." in done.stdout
        assert [h["Authorization"] for h in server.asked] == ["Bearer sk-secret-815"]
        server.reply = (401, "sk-secret-815 is wrong")
        message = refused(*asked, SOME_KEY="sk-secret-815")
        assert "HTTP 401" in message
        assert "sk-secret" not in message
    finally:
        server.shutdown()
        server.server_close()


def test_refused() -> None:
    assert "did you mean search" in refused("--verbalize", "serch")
    assert "need --endpoint" in refused("--key-variable", "SOME_KEY")
    assert "must begin with" in refused("--endpoint", "localhost:80")
    url = "https://localhost:9/v1"
    assert "NO_SUCH_KEY is not set" in refused("--endpoint", url, "--key-variable", "NO_SUCH_KEY")
    assert "needs --verbalize instruct" in refused("--endpoint", url, "--verbalize", "search")
