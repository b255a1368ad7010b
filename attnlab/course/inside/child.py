"""The process that imports one of a submission's files and answers calls of its functions.

It keeps references to all that it needs before it imports anything of the submission's, which may
patch whatever it finds: all it can spoil is its own answers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import time
from typing import Any

import backends
import codec
import numpy as np


class Missing(Exception):
    """The submission defines no such function."""


class Child:
    """Holds one of the submission's modules. `link` has recv_into and sendall, as a socket has them."""

    def __init__(self, setup, link, reply_limit):
        self.setup, self.link, self.reply_limit = setup, link, reply_limit
        self.module: Any = None
        torch = sys.modules.get("torch")
        self.backend: Any = backends.Tensors(torch) if torch else backends.Arrays()
        raw = [io.BufferedWriter(io.FileIO(fd, "w")) for fd in (1, 2)]
        how: dict[str, Any] = {"errors": "backslashreplace", "line_buffering": True}
        self.streams = [io.TextIOWrapper(stream, "utf-8", **how) for stream in raw]
        sys.stdout, sys.stderr = self.streams

    def live(self):
        while True:
            request, data = self.next()
            answer, arrays = self.answer(request, data)
            del data
            for stream in {*self.streams, sys.stdout, sys.stderr}:
                with contextlib.suppress(BaseException):
                    stream.flush()
            self.send({"nonce": request["nonce"], **answer}, arrays)

    def next(self):
        """The next request and its archive of arrays."""
        header, archive = codec.prefix(self.receive(codec.PREFIX.size), 1 << 40)
        return codec.parse(self.receive(header)), self.receive(archive)

    def answer(self, request, data):
        try:
            if request["do"] == "load":
                return self.load(request["module"]), []
            return self.call(request, data)
        except Missing as error:
            return {"status": "missing", "error": str(error)}, []
        except codec.Malformed as error:
            return {"status": "bad value", "error": str(error)}, []
        except BaseException as error:
            return self.describe(error), []

    def load(self, name):
        path = os.path.join(self.setup["submission"], name + ".py")
        spec: Any = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except MemoryError as error:
            return self.describe(error)
        except BaseException as error:
            return self.describe(error) | {"status": "malformed"}
        self.module = module
        names = [k for k, v in list(vars(module).items()) if type(k) is str and callable(v)]
        return {"status": "passed", "defined": names[:2000]}

    def call(self, request, data):
        given = codec.unpack(data)  # read-only views: what the arguments were
        mine = [a.copy(order="K") for a in given]
        arguments = codec.decode(request["arguments"], mine, make=self.backend.make)
        sources = self.backend.sources(arguments, request["gradient"])
        function = vars(self.module).get(request["function"])
        if not callable(function):
            raise Missing(f"no function {request['function']!r} is defined")
        wall, cpu = time.perf_counter(), time.process_time()
        value = function(**arguments)
        arrays: list[np.ndarray] = []
        node = codec.encode(value, arrays, self.backend.tensors)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if codec.size(arrays) > self.reply_limit:
            raise codec.Malformed(
                f"{codec.size(arrays) / 2**20:.0f} MiB were returned; "
                f"at most {self.reply_limit / 2**20:.0f} MiB are taken"
            )
        answer = {"status": "passed", "value": node, "seconds": wall, "cpu": cpu}
        answer["views"] = [
            i for i, a in enumerate(arrays) if any(np.may_share_memory(a, m) for m in mine)
        ]
        if request["gradient"]:
            cotangents = codec.decode(request["cotangents"], given, make=self.backend.make)
            made = self.backend.gradients(value, cotangents, sources)
            answer["gradients"] = codec.encode(made, arrays, self.backend.tensors)
        answer["changed"] = []
        for i, (now, before) in enumerate(zip(mine, given)):
            same = now.shape == before.shape and now.dtype == before.dtype
            if not same or now.tobytes() != before.tobytes():
                answer["changed"].append([i, len(arrays)])
                arrays.append(now)
        return answer, arrays

    def describe(self, error):
        """An exception as a reply: its kind, its message, the submission's line it came from."""
        kinds = {NotImplementedError: "not implemented", MemoryError: "memory"}
        status = next((s for k, s in kinds.items() if isinstance(error, k)), "error")
        try:
            text = str(error)
        except BaseException:
            text = ""
        if "allocate memory" in text and isinstance(error, RuntimeError):  # what torch raises
            status = "memory"
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            text = f"{error.msg} ({os.path.basename(error.filename)}, line {error.lineno})"
        where, trace = "", error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename.startswith(self.setup["submission"]):
                file = os.path.relpath(code.co_filename, self.setup["submission"])
                where = f"{file}, line {trace.tb_lineno}, in {code.co_name}"
            trace = trace.tb_next
        return {
            "status": status,
            "error": f"{type(error).__name__}: {text}"[:2000] if text else type(error).__name__,
            "where": where[:300],
        }

    def send(self, header, arrays=()):
        try:
            data = codec.frame(header, arrays)
        except codec.Malformed as error:
            data = codec.frame(
                {"nonce": header["nonce"], "status": "bad value", "error": str(error)}
            )
        self.link.sendall(data)

    def receive(self, count):
        data = bytearray(count)
        view, at = memoryview(data), 0
        while at < count:
            got = self.link.recv_into(view[at:])
            if not got:
                os._exit(0)  # the trusted process is done with this child
            at += got
        return bytes(data)
