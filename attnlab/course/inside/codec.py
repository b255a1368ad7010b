"""Trees of arrays as bytes: a JSON header and an npz archive, never a pickle.

A message is one frame:  "ALAB", header length (u32), archive length (u64), header, archive.
The header holds plain JSON; where a tree of values stands in it, each node is a list whose first
element says what it is:

    ["v", x]            None, bool, int, float or text
    ["a", i, kind]      array i of the archive; kind "array", "tensor" or "scalar" (a NumPy scalar)
    ["l", [...]]        list          ["t", [...]]   tuple
    ["d", [[k, node]]]  mapping with plain keys (a named tuple is a mapping by field)

Whoever reads a frame trusts nothing in it: archives must be stored uncompressed, so that no few
bytes unfold into many; an array's header must announce exactly the bytes that follow it; depth,
number of nodes and dtypes are bounded. `Malformed` says what was wrong.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile

import numpy as np

MAGIC = b"ALAB"
PREFIX = struct.Struct("<4sIQ")
HEADER_LIMIT = 4 << 20
DIRECTORY_LIMIT = 1 << 20
DEPTH, NODES = 16, 200_000
KEY = 100  # characters; every path to a leaf repeats the keys above it
PLAIN = "biufcUS"  # kinds of dtype that travel

SLACK = 1 << 16  # bytes an archive of small arrays takes beyond their contents
PER_ARRAY = 512  # a local and a central zip entry and an npy header

UNFOLDED = 256 << 20  # bytes that a list may take as one array, all elements as wide as the widest
NUMBER_AS_TEXT = 128  # bytes of a number among texts


class Malformed(ValueError):
    """Bytes that are no frame, or a value that cannot travel; the message says why."""


def encode(value, arrays, tensors=None):
    """The node of a tree of mappings, sequences, NumPy arrays, plain scalars and text; its arrays
    are appended to the list `arrays`.

    `tensors` is (type, function to NumPy) where tensors may occur. Raises Malformed for any other
    object, naming its type and where it sits.
    """
    count = 0

    def walk(x, where, depth):
        nonlocal count
        count += 1
        if depth > DEPTH or count > NODES:
            raise Malformed(f"{where or 'the value'} is nested too deeply or has too many parts")
        kind = type(x)
        if x is None or kind in (bool, float, str):
            return ["v", x]
        if kind is int:
            if abs(x) >> 256:
                raise Malformed(f"{where or 'the value'} is an integer of more than 256 bits")
            return ["v", x]
        if tensors is not None and isinstance(x, tensors[0]):
            return leaf(tensors[1](x), "tensor", where)
        if isinstance(x, np.ndarray):
            return leaf(x, "array", where)
        if isinstance(x, np.generic | complex):
            return leaf(x, "scalar", where)
        if isinstance(x, dict) or (hasattr(kind, "keys") and hasattr(kind, "__getitem__")):
            return ["d", [pair(k, x[k], where, depth) for k in list(x.keys())]]
        if isinstance(x, tuple) and hasattr(kind, "_fields"):
            return ["d", [pair(k, v, where, depth) for k, v in zip(kind._fields, tuple(x))]]
        if isinstance(x, list | tuple):
            tag = "l" if isinstance(x, list) else "t"
            return [tag, [walk(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(x)]]
        if isinstance(x, str | int | float):  # a subclass: its plain value
            base = next(t for t in (str, int, float) if isinstance(x, t))
            return walk(base(x), where, depth)
        raise Malformed(f"{where or 'the value'} is of type {kind.__name__}")

    def pair(key, member, where, depth):
        if type(key) not in (str, int, float, bool):
            raise Malformed(f"{where or 'the value'} has a key of type {type(key).__name__}")
        if len(str(key)) > KEY:
            raise Malformed(f"{where or 'the value'} has a key of more than {KEY} characters")
        return [key, walk(member, f"{where}[{key!r}]" if where else str(key), depth + 1)]

    def leaf(x, kind, where):
        array = np.asarray(x)
        if type(array) is not np.ndarray or array.dtype.kind not in PLAIN:
            raise Malformed(f"{where or 'the value'} has dtype {array.dtype}")
        arrays.append(array)
        return ["a", len(arrays) - 1, kind]

    return walk(value, "", 0)


def decode(node, arrays, kinds=None, make=None, places=None):
    """The tree that `encode` described. Arrays are taken as they are; `make(array, kind)` changes
    them. `kinds`, a mapping, receives "array", "tensor" or "scalar" by each leaf's path
    ("out", "x.0", "" where the value is one array), `places` that path by the array's number.
    No array stands in two places, and no list unfolds into many times its bytes where somebody makes
    one array of it. Raises Malformed.
    """
    count = elements = widest = 0
    lists = False
    used = set()

    def walk(part, path, depth):
        nonlocal count, elements, widest, lists
        count += 1
        if depth > DEPTH or count > NODES:
            raise Malformed("a value that is nested too deeply or has too many parts")
        if type(part) is not list or len(part) < 2:
            raise Malformed("a value that is no node")
        tag, content = part[0], part[1]
        if tag == "v" and (content is None or type(content) in (bool, float)):
            return content
        if tag == "v" and type(content) is int and not abs(content) >> 256:
            return content
        if tag == "v" and type(content) is str:
            widest = max(widest, 4 * len(content), NUMBER_AS_TEXT)
            return text(content)
        if tag == "a" and type(content) is int and 0 <= content < len(arrays) and len(part) == 3:
            kind = part[2]
            if kind not in ("array", "tensor", "scalar"):
                raise Malformed("an array of an unknown kind")
            if content in used:
                raise Malformed("one array in two places")
            used.add(content)
            if kinds is not None:
                kinds[path] = kind
            if places is not None:
                places[content] = path
            array = arrays[content]
            elements += array.size
            widest = max(widest, _width(array.dtype))
            if make is not None:
                return make(array, kind)
            return array[()] if kind == "scalar" and array.ndim == 0 else array
        if tag in ("l", "t") and type(content) is list:
            lists = True
            items = [walk(v, join(path, i), depth + 1) for i, v in enumerate(content)]
            return items if tag == "l" else tuple(items)
        if tag == "d" and type(content) is list:
            members = {}
            for entry in content:
                if type(entry) is not list or len(entry) != 2:
                    raise Malformed("a mapping without pairs")
                key = entry[0]
                if type(key) not in (str, int, float, bool):
                    raise Malformed("a mapping with odd keys")
                if len(str(key)) > KEY:
                    raise Malformed(f"a mapping with a key of more than {KEY} characters")
                key = text(key) if type(key) is str else key
                members[key] = walk(entry[1], join(path, key), depth + 1)
            return members
        raise Malformed("a value that is no node")

    value = walk(node, "", 0)
    if lists and (count + elements) * widest > UNFOLDED:
        raise Malformed("lists of elements too many or too unlike for one array")
    return value


def _width(dtype):
    """Bytes of an element, where it stands among texts."""
    if dtype.kind in "US":
        return max(NUMBER_AS_TEXT, dtype.itemsize if dtype.kind == "U" else 4 * dtype.itemsize)
    return dtype.itemsize


def text(value):
    """The text. Raises Malformed where it holds half characters, which no file would take."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed("text that is no Unicode") from None
    return value


def join(path, key):
    return f"{path}.{key}" if path else str(key)


def frame(header, arrays=()):
    """One message as bytes. Raises Malformed where the header is too long."""
    told = json.dumps(header).encode("ascii")
    if len(told) > HEADER_LIMIT:
        raise Malformed(f"a description of {len(told)} bytes; at most {HEADER_LIMIT} travel")
    archive = pack(arrays) if arrays else b""
    return b"".join((PREFIX.pack(MAGIC, len(told), len(archive)), told, archive))


def prefix(data, limit):
    """(header length, archive length) of a frame's first bytes. Raises Malformed."""
    magic, header, archive = PREFIX.unpack(data)
    if magic != MAGIC or header > HEADER_LIMIT:
        raise Malformed("no frame")
    if archive > limit:
        raise Malformed(f"{archive / 2**20:.0f} MiB; at most {limit / 2**20:.0f} MiB are taken")
    return header, archive


def parse(data):
    """The header's JSON object. Raises Malformed."""
    try:
        header = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a header that is no JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise Malformed("a header that is no object")
    return header


def pack(arrays):
    """An npz archive, stored: arrays 0, 1, … in their order. Raises Malformed for object arrays."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for i, array in enumerate(arrays):
            with archive.open(f"{i}.npy", "w", force_zip64=array.nbytes > 1 << 30) as entry:
                try:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
                except ValueError as error:
                    raise Malformed(str(error)) from None
    return out.getvalue()


def unpack(data):
    """The arrays of an archive, read-only views of its bytes. Raises Malformed."""
    if not data:
        return []
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            total = sum(e.file_size for e in entries)
            if total > len(data) or any(
                e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size
                for e in entries
            ):
                raise Malformed("an archive that unfolds into more than it holds")
            if [e.filename for e in entries] != [f"{i}.npy" for i in range(len(entries))]:
                raise Malformed("an archive with odd names")
            return [_array(archive.read(e)) for e in entries]
    except Malformed:
        raise
    except Exception as error:  # zipfile raises many kinds over broken bytes
        raise Malformed(f"no archive ({type(error).__name__})") from None


def _check_directory(data):
    """The archive's table of contents is short, before anybody reads it."""
    end = data[-22:]
    if len(end) < 22 or end[:4] != b"PK\5\6" or data[-42:-38] == b"PK\6\7":
        raise Malformed("no archive (its end is missing)")
    if int.from_bytes(end[12:16], "little") > DIRECTORY_LIMIT:
        raise Malformed("an archive of too many arrays")


def _array(data):
    """One .npy file as a view of its bytes: its header must announce just what follows."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise Malformed("an array in an unknown format")
    if dtype.hasobject or dtype.kind not in PLAIN:
        raise Malformed(f"an array of dtype {dtype}")
    rest = len(data) - stream.tell()
    count = math.prod(shape)
    if len(shape) > 32 or min(shape, default=0) < 0 or max(shape, default=0) > 1 << 40:
        raise Malformed("an array of impossible shape")
    if count * dtype.itemsize != rest or (dtype.itemsize == 0 and count > 1 << 20):
        raise Malformed("an array that announces other than it holds")
    if not rest:
        return np.zeros(shape, dtype)
    array = np.frombuffer(data, dtype, count, stream.tell())
    if dtype.kind == "b" and array.view(np.uint8).max() > 1:  # neither true nor false
        array = array.view(np.uint8) != 0
    if dtype.kind == "U":
        codes = array.view(dtype.str[0] + "u4")
        if (codes > 0x10FFFF).any() or (codes >> 11 == 0xD800 >> 11).any():
            raise Malformed("text that is no Unicode")
    return array.reshape(shape, order="F" if fortran else "C")


def size(arrays):
    """Bytes that an archive of these arrays takes, nearly."""
    return SLACK + sum(a.nbytes + PER_ARRAY for a in arrays)
