"""Every hostile or broken submission in a real sandbox: it gets the status it deserves, its
neighbour does not notice, and nothing of it is left.

The files lie in tests/course/hostile, one a way to misbehave, its first line says which.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attnlab.course.config import Limits
from attnlab.course.sandbox import Reply, Sandbox, Session, available, open_sandbox, processes

FOLDER = Path(__file__).parents[1] / "hostile"
FILES = {f"{path.stem}.py": path.read_bytes() for path in sorted(FOLDER.glob("*.py"))}
NEIGHBOUR = b"def attend(q, k, v):\n    return {'out': q + k + v}\n"
LIMITS = Limits(wall=20, cpu=20, start=20, memory=128, output=64, reply=16, file=4)
SHORT = 0.4  # seconds for those that never come back

# what one call of each comes to; "error" is what the attempt was answered with, an exception
ALWAYS = {
    "timeout": """infinite_loop sleep ignores_signals stops_itself spinning_threads
        loops_in_repr_of_error""",
    "memory": "memory_bomb memory_bomb_at_import memory_of_small_objects",
    "output": "huge_output huge_output_raw",
    "crashed": """os_exit_zero os_exit_at_import segfault abort kills_itself forges_reply
        closes_descriptors""",
    "error": """fork_bomb daemon subprocess_shell multiprocessing_pool exec_python clone_by_hand
        memory_in_files shared_memory_left sys_exit recursion raises_base_exception
        keyboard_interrupt error_without_text text_that_is_none kills_parent kills_everyone kills_by_descriptor
        traces_parent reads_password_file reads_proc symlink_out hard_link_out writes_outside
        overwrites_submission changes_modes large_file many_descriptors socket_out socket_listens
        socket_kinds kernel_calls raises_limits""",
    "malformed": """sys_exit_at_import imports_attnlab finds_attnlab imports_pytest syntax_error
        wrong_encoding null_bytes import_error""",
    "missing": "missing_function not_callable empty",
    "not implemented": "not_implemented",
    "bad value": """texts_that_unfold long_keys one_array_in_many_places half_characters impossible_characters many_arrays_in_reply forges_status zip_bomb pickle_in_reply false_shape_in_reply deep_json_in_reply
        endless_reply garbage_reply equal_to_everything array_like false_class object_array
        pickle_bomb structured_array gigantic_array gigantic_true_array gigantic_list gigantic_text
        gigantic_number deep_list cyclic_value odd_keys generator coroutine_object""",
    # a value came back; whether it is right is the judge's to say
    "passed": """neither_true_nor_false odd_bytes_printed reads_grader_files reads_environment traces_frames
        searches_memory forges_reply_with_nonce closes_output lazy_mapping subclassed_array
        memory_mapped masked_array nan_everywhere wrong_dtype complex_values wrong_shape
        mutates_inputs reshapes_inputs views_of_inputs different_each_call known_inputs
        works_on_after_reply changes_clocks""",
}
# what depends on the machine, on Python's version or on luck
STATUS: dict[str, set[str]] = {name: {s} for s, names in ALWAYS.items() for name in names.split()}
STATUS |= {
    "thread_bomb": {"error", "memory"},
    "deep_recursion": {"crashed", "error", "memory"},
    "many_files": {"error", "crashed"},
    "deep_folders": {"passed", "error", "crashed"},
    "patches_numpy": {"passed", "crashed", "bad value", "error"},
    "patches_builtins": {"bad value", "crashed", "error", "malformed"},
    "patches_json": {"crashed", "bad value"},
    "patches_sockets": {"timeout", "crashed"},
    "random_failures": {"passed", "crashed", "error", "memory"},
    "module_replaced": {"passed", "missing", "error", "bad value"},
    "import_hooks": {"passed", "error", "crashed", "malformed", "bad value"},
}
ENDLESS = {name for name, statuses in STATUS.items() if "timeout" in statuses}
LEVELS = ("bubblewrap", "landlock")


def usable(level: str) -> str:
    """The level; skips the test with the reason where it does not work here."""
    if why := available()[level]:
        pytest.skip(f"isolation {level}: {why}")
    return level


def arguments() -> dict[str, np.ndarray]:
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 5, 4))
    return {"q": q, "k": k, "v": v}


@pytest.fixture(scope="module", params=LEVELS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    files = {**FILES, "neighbour.py": NEIGHBOUR}
    del files["sleeps_at_import.py"]
    with open_sandbox(files, "numpy", LIMITS, usable(request.param)) as running:
        yield running
    assert running.server_pid == 0


@pytest.fixture(scope="module")
def neighbour(sandbox: Sandbox) -> Session:
    return sandbox.load("neighbour")


def attempt(sandbox: Sandbox, name: str) -> Reply:
    """One call of a submission in a child of its own, which is gone afterwards."""
    session = sandbox.load(name)
    reply = Reply(session.status, error=session.message, printed=session.printed)
    if session.status == "passed":
        seconds = SHORT if name in ENDLESS else None
        reply = session.call("attend", arguments(), seconds=seconds)
    session.close()
    return reply


def test_every_file_is_listed() -> None:
    assert {f"{name}.py" for name in STATUS} | {"sleeps_at_import.py"} == FILES.keys()
    assert len(FILES) >= 100


@pytest.mark.parametrize("name", STATUS)
def test_status_and_what_is_left(sandbox: Sandbox, neighbour: Session, name: str) -> None:
    server = sandbox.server_pid
    reply = attempt(sandbox, name)
    assert reply.status in STATUS[name], reply
    assert len(reply.printed) <= LIMITS.output << 10
    assert len(reply.error) < 3000
    assert "\n" not in reply.where

    given = arguments()
    well = neighbour.call("attend", given)
    assert well.status == "passed", well
    np.testing.assert_array_equal(well.value["out"], sum(given.values()))
    assert sandbox.server_pid == server, "the server had to be started anew"
    assert len(processes.descendants(server)) == 1, "something is left beside the neighbour"


def test_nothing_is_told(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the grader's files nor its environment can be read."""
    secret = "b7d2-expected-values"
    hiding = [tmp_path / "expected.txt", Path.home() / ".attnlab-test-secret"]
    monkeypatch.setenv("ATTNLAB_SECRET", secret)
    try:
        for path in hiding:
            path.write_text(secret)
        for name in ("reads_grader_files", "reads_environment"):
            reply = attempt(sandbox, name)
            assert reply.status == "passed", reply
            assert secret not in repr(reply)
            assert "ATTNLAB" not in repr(reply)
    finally:
        hiding[1].unlink()


def test_nothing_was_written(sandbox: Sandbox) -> None:
    """Whatever tried to write outside its own folder left nothing there."""
    for name in ("writes_outside", "pickle_bomb", "pickle_in_reply", "overwrites_submission"):
        attempt(sandbox, name)
    mark = "attnlab-was-here"
    for folder in (
        "/",
        "/etc",
        "/usr/lib",
        "/root",
        "/home",
        "/var/tmp",
        "/tmp",
        "/dev/shm",
        "/dev",
    ):
        assert not Path(folder, mark).exists()
    assert attempt(sandbox, "overwrites_submission").status == "error"


def test_values_are_plain(sandbox: Sandbox) -> None:
    """Whatever kind of array was returned, what arrives is a plain one."""
    for name in (
        "subclassed_array",
        "memory_mapped",
        "masked_array",
        "lazy_mapping",
        "wrong_dtype",
    ):
        value = attempt(sandbox, name).value["out"]
        assert type(value) is np.ndarray, name
        assert value.dtype.kind in "fU", name
    np.testing.assert_array_equal(
        attempt(sandbox, "subclassed_array").value["out"], np.full((2, 3), 7.0)
    )


def test_what_is_told_can_be_printed_and_kept(sandbox: Sandbox) -> None:
    """No terminal codes, no half characters, no truth values beside true and false."""
    for name in ("odd_bytes_printed", "text_that_is_none"):
        reply = attempt(sandbox, name)
        told = (reply.printed + reply.error).encode().decode()
        assert told
        assert not set(told) & {"\x1b", "\x00", "\x07", "\r"}
    value = attempt(sandbox, "neither_true_nor_false").value["out"]
    np.testing.assert_array_equal(value.view(np.uint8), 1)


def test_arguments_come_back(sandbox: Sandbox) -> None:
    """What a function did to its arguments is seen, however it did it; a view is named as one."""
    given = arguments()
    reply = attempt(sandbox, "mutates_inputs")
    assert not reply.inputs["q"].any()
    np.testing.assert_array_equal(reply.inputs["k"], given["k"])
    reply = attempt(sandbox, "reshapes_inputs")
    assert reply.inputs["q"].shape == (40,)
    assert reply.inputs["k"].dtype == np.uint8
    assert attempt(sandbox, "views_of_inputs").views == {"out"}
    assert attempt(sandbox, "wrong_shape").views == frozenset()


def test_a_child_stands_still_between_calls(sandbox: Sandbox) -> None:
    session = sandbox.load("works_on_after_reply")
    assert session.call("attend", arguments()).status == "passed"
    below = processes.descendants(sandbox.server_pid)
    before = sum(map(processes.cpu_seconds, below))
    time.sleep(0.4)
    assert sum(map(processes.cpu_seconds, below)) - before < 0.1
    session.close()


def test_a_childs_clock_is_not_believed(sandbox: Sandbox) -> None:
    reply = attempt(sandbox, "changes_clocks")
    assert reply.seconds > 0.25


def test_an_import_that_takes_too_long() -> None:
    level = next((level for level in LEVELS if not available()[level]), "none")
    files = {"sleeps_at_import.py": FILES["sleeps_at_import.py"]}
    with open_sandbox(files, "numpy", Limits(start=0.4), level) as sandbox:
        session = sandbox.load("sleeps_at_import")
        assert session.status == "timeout"
        assert session.call("attend", arguments()).status == "timeout"
        assert not processes.descendants(sandbox.server_pid)
