"""What pytest runs for a submission: a test an item, in a file node an exercise.

The nodes are named like files and tests (`DIR/landmark.py::landmark[attend/fresh-3]`), so that -k,
-x, --lf, --junitxml and xdist work as ever. The submission's code runs in one sandbox for each
track in each pytest process, in a child of its own for each exercise.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnlab.contract import InputError, suggest
from attnlab.course import syllabus
from attnlab.course.config import Course, read_course
from attnlab.course.items import exam
from attnlab.course.judge import BARE, Examiner
from attnlab.course.model import DETAILS, TRACKS, Item, Track
from attnlab.course.sandbox import Sandbox, SandboxError, choose, open_sandbox
from attnlab.course.show import clean, plain_failure, points
from attnlab.course.submissions import Submission, read


class Collection:
    """The plugin of a run with --submission; its hooks replace pytest's collection."""

    submission: Submission
    course: Course

    def __init__(self, config: pytest.Config):
        self.config = config
        self.sandboxes: dict[Track, Sandbox] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        """Read what was asked for; what cannot be is a usage error (exit code 4)."""
        asked = config.option
        with usage_errors():
            self.course = read_course(asked.course)
            self.folder = Path(config.invocation_params.dir, asked.submission).resolve()
            self.submission = read(self.folder)
            if self.submission.problem:
                raise InputError(f"--submission: {self.folder}: {self.submission.problem}")
            if asked.details not in (None, *DETAILS):
                near = suggest(asked.details, DETAILS)
                raise InputError(
                    f"--details must be one of {', '.join(DETAILS)}, but is {asked.details!r}{near}"
                )
            if (asked.course_seed or 0) < 0:
                raise InputError(f"--course-seed must not be negative, but is {asked.course_seed}")
            shared = getattr(config, "workerinput", {}).get("attnlab")
            if shared is None:
                seed = secrets.randbelow(10**6) if asked.course_seed is None else asked.course_seed
                given = config.args_source is pytest.Config.ArgsSource.ARGS
                only = self.chosen(config.args if given else [])
                shared = {"seed": seed, "level": choose(asked.isolation), "only": only}
        self.shared: dict[str, Any] = shared  # the same in the workers of xdist
        self.seed: int = shared["seed"]

    def chosen(self, arguments: list[str]) -> list[list[str]]:
        """(exercise, item's name or "" for all) of each node id among the arguments."""
        found = []
        for argument in arguments:
            path, _, name = argument.partition("::")
            if Path(path).resolve() == self.folder and not name:
                return []
            found.append([syllabus.find(path, self.course).name, name])
        return found

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["attnlab"] = self.shared

    def pytest_report_header(self) -> str:
        track = self.config.option.track
        return (
            f"submission: {self.folder}, course {self.course.title!r}"
            + (f", track {track}" if track else "")
            + f", isolation {self.shared['level']}, seed {self.seed}"
        )

    # --- collection -------------------------------------------------------------------------

    def pytest_ignore_collect(self) -> bool:
        return True  # whoever else collects (--fixtures, say) finds no file

    def pytest_collection(self, session: pytest.Session) -> bool:
        """As `Session.perform_collect` does it, from the course instead of the file system."""
        hook = session.config.hook
        session.items = []
        try:
            with usage_errors():
                for node in self.nodes(session):
                    session.items.extend(session.genitems(node))
            session.items = [item for item in session.items if self.wanted(item)]
            hook.pytest_collection_modifyitems(
                session=session, config=session.config, items=session.items
            )
        finally:
            hook.pytest_collection_finish(session=session)
        session.testscollected = len(session.items)
        return True

    def nodes(self, session: pytest.Session) -> Iterator[pytest.Collector]:
        """A file node an exercise; what has no file is told in one node at the end."""
        absent: list[tuple[str, str, bool]] = []
        for exhibit in syllabus.ordered(self.course):
            name = exhibit.name
            lacks = self.submission.lacks(name)
            track = self.config.option.track or self.course.track_of(name)
            if lacks and lacks[0] == "missing":
                absent.append((name, lacks[1], name not in self.course.exercises))
            elif track in TRACKS and track not in syllabus.tracks(exhibit):
                have = ", ".join(syllabus.tracks(exhibit))
                absent.append((name, f"no {track} track (it has {have})", True))
            else:
                file = self.folder / f"{name}.py"
                node = ExerciseFile.from_parent(
                    session, path=file, nodeid=self.id(file), name=file.name
                )
                node.collection, node.exercise, node.lacks = self, name, lacks
                node.track = syllabus.check_track(exhibit, track)
                node.items = exam(name, self.course, node.track, self.seed).items
                yield node
        if absent:
            folder = self.folder
            rest = Rest.from_parent(session, path=folder, nodeid=self.id(folder), name=folder.name)
            rest.collection, rest.absent = self, absent
            yield rest

    def id(self, path: Path) -> str:
        """A path as pytest writes it in node ids."""
        return os.path.relpath(path, self.config.rootpath).replace(os.sep, "/")

    def wanted(self, item: pytest.Item) -> bool:
        only = self.shared["only"]
        return not only or any(
            item.exercise == exercise and name in ("", item.name)  # type: ignore[attr-defined]
            for exercise, name in only
        )

    # --- running ----------------------------------------------------------------------------

    def sandbox(self, track: Track) -> Sandbox:
        """The one sandbox of this process for a track."""
        if track not in self.sandboxes:
            sandbox = open_sandbox(
                self.submission.files, track, self.course.limits, self.shared["level"],
                self.course.packages,
            )  # fmt: skip
            self.sandboxes[track] = sandbox.__enter__()
        return self.sandboxes[track]

    def pytest_unconfigure(self) -> None:
        while self.sandboxes:
            self.sandboxes.popitem()[1].close()

    # --- reporting --------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The score of each exercise that ran, hidden items counted apart."""
        sums: dict[str, Score] = {}
        for category in ("passed", "failed", "error"):
            for report in terminalreporter.stats.get(category, []):
                facts = dict(getattr(report, "user_properties", ()))
                if "exercise" in facts:
                    sums.setdefault(facts["exercise"], Score()).add(facts, category == "passed")
        if not sums:
            return
        terminalreporter.section("scores")
        width = max(map(len, sums))
        for exercise, score in sums.items():
            terminalreporter.write_line(f"{exercise:<{width}}  {score}")
        terminalreporter.write_line(f"--course-seed {self.seed} draws the same inputs again")


class Score:
    """Points and items of an exercise, as far as it ran."""

    def __init__(self) -> None:
        self.earned = self.points = self.hidden_points = 0.0
        self.passed = self.items = self.hidden = 0

    def add(self, facts: dict[str, Any], passed: bool) -> None:
        if facts["kind"] == "hidden":
            self.hidden += 1
            self.hidden_points += facts["points"]
            return
        self.items += 1
        self.passed += passed
        self.points += facts["points"]
        self.earned += facts.get("earned", 0.0)

    def __str__(self) -> str:
        text = f"public score {points(self.earned)}/{points(self.points)}, "
        text += f"{self.passed} of {self.items} items passed"
        if self.hidden:
            items = f"{self.hidden} hidden item" + ("s" if self.hidden > 1 else "")
            text += f"; {items} worth {points(self.hidden_points)} points not counted here"
        return text


class ExerciseFile(pytest.File):
    """One exercise; the submission's file is started when its first item runs."""

    collection: Collection
    exercise: str
    track: Track
    items: list[Item]
    lacks: tuple[str, str] | None
    examiner: Examiner | None = None

    def collect(self) -> Iterator[pytest.Item]:
        for item in self.items:
            yield Graded.from_parent(self, name=f"{self.exercise}[{item.id}]", item=item)

    def setup(self) -> None:
        if self.lacks:
            pytest.fail(f"malformed: {clean(self.lacks[1])}", pytrace=False)
        c = self.collection
        try:
            sandbox, details = c.sandbox(self.track), c.config.option.details
            examiner = Examiner(sandbox, self.exercise, c.course, self.track, c.seed, details)
            session = examiner.candidate.session
        except (InputError, SandboxError) as error:
            pytest.fail(f"{BARE['grader error']} ({error})", pytrace=False)
        if session.status != "passed":
            pytest.fail(f"malformed: {clean(session.message)}", pytrace=False)
        self.examiner = examiner

    def teardown(self) -> None:
        if self.examiner is not None:
            self.examiner.close()
            self.examiner = None


class Graded(pytest.Item):
    """One item of an exercise as a test."""

    parent: ExerciseFile

    def __init__(self, *, item: Item, **more: Any):
        super().__init__(**more)
        self.item, self.exercise = item, self.parent.exercise
        self.user_properties += _facts(self.exercise, item.kind, item.points)

    def runtest(self) -> None:
        assert self.parent.examiner is not None
        outcome = self.parent.examiner.run(self.item)
        if not self.item.hidden:
            self.user_properties.append(("earned", outcome.earned))
        if outcome.printed:
            self.add_report_section("call", "stdout", clean(outcome.printed))
        if not outcome.passed:
            # why the grader itself failed is for whoever runs pytest
            note = f"\n\n{outcome.note}" if outcome.note else ""
            pytest.fail(plain_failure(outcome) + note, pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


class Rest(pytest.File):
    """The exercises that cannot run: no file, or no such track. `absent` has name, reason, and
    whether that is all right, as it is where the course does not ask for it by name."""

    collection: Collection
    absent: list[tuple[str, str, bool]]

    def collect(self) -> Iterator[pytest.Item]:
        for name, why, fine in self.absent:
            item = Absent.from_parent(self, name=f"{name}[file]", exercise=name, why=why)
            if fine:
                item.add_marker(pytest.mark.skip(reason=why))
            yield item


class Absent(pytest.Item):
    """An exercise without a file: skipped, or failed where the course asks for it by name."""

    parent: Rest

    def __init__(self, *, exercise: str, why: str, **more: Any):
        super().__init__(**more)
        self.exercise, self.why = exercise, why
        worth = self.parent.collection.course.assignment(exercise).points
        self.user_properties += _facts(exercise, "file", worth)

    def runtest(self) -> None:
        pytest.fail(f"missing: {clean(self.why)}", pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


def _facts(exercise: str, kind: str, worth: float) -> list[tuple[str, object]]:
    """What the summary and --junitxml read from a test's report."""
    return [("exercise", exercise), ("kind", kind), ("points", worth)]


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """What was asked for wrongly, as pytest says it."""
    try:
        yield
    except InputError as error:
        raise pytest.UsageError(str(error)) from None
