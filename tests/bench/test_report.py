"""The plan, the tables at several widths, the files and the pictures, from made-up measurements."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from attnlab.bench import compare, files, plan, plot, report, summary
from attnlab.bench.inputs import Target
from attnlab.bench.machine import Machine, Rates
from attnlab.bench.records import Point, Results, State
from attnlab.bench.settings import PRESETS, Settings, headline_size, with_preset
from attnlab.contract import BackendUnavailable, InputError

NS = (64, 128, 256, 512, 1024, 2048)
MACHINE = Machine("a CPU", 2, 2, 8.0, "Linux", "3.11", {"attnlab": "0", "numpy": "2"})
RATES = Rates(sgemm=1e11, dgemm=5e10, copy=1e10)


def made_up(settings: Settings | None = None) -> Results:
    """attention on two paths: quadratic, numba twice as fast, mostly fixed cost at n = 64; the torch
    path stops at 1024 and says why."""
    rng = np.random.default_rng(0)
    results = Results(settings or Settings(names=("attention",), ns=NS), MACHINE, RATES, [])
    for backend, seconds in (("numba", 1e-9), ("torch", 2e-9)):
        for n in NS:
            point = Point("attention", "attend", False, False, backend, n)
            if backend == "torch" and n == 2048:
                point.reason = "would need about 99 GiB; 6 GiB can be used"
            else:
                time = max(seconds * n**2, 1.2e-5)
                point.samples = list(time * np.exp(0.01 * rng.standard_normal(9)))
                point.first, point.fixed = 0.5, 8e-6
                point.peak = 4000 * n
                point.flops, point.bytes, point.items = 50.0 * n * n, 2000.0 * n, n
            results.points.append(point)
    results.planned = len(results.points)
    return results


def printed(results: Results, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    shown = report.Report(console)
    summaries = summary.summarise(results)
    shown.header(results, plan.Plan([Target("attention", "attend", False)], ("numba", "torch")))
    shown.tables(results, summaries)
    shown.overview(results, summaries)
    shown.headline(results, summaries)
    shown.footer(results)
    console.print(plot.terminal(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [50, 60, 80, 100, 124, 200])
def test_every_width_holds_everything(width: int) -> None:
    text = printed(made_up(), width)
    lines = [line for line in text.splitlines() if not line.startswith("$ ")]
    assert max(map(len, lines)) <= width
    words = text.split()
    for word in ("GFLOP/s", "tokens/s", "p20–p80", "not", "numba", "2048"):
        assert word in words, word
    flat = " ".join(words)
    assert "not run: torch, n = 2048: would need about 99 GiB" in flat
    assert "left out of the fit: n = 64 (a call's fixed cost is over 50%)" in flat
    assert "claim 2: PASS" in flat


def test_a_preset_that_ran_out_of_budget_says_so() -> None:
    results = made_up(with_preset("quick", {}))
    results.points = [p for p in results.points if p.n < 2048]
    text = " ".join(printed(results, 100).split())
    assert "no headline: n = 2048 was not reached" in text
    assert "ms at 1024" in text


def test_the_summary_fits_the_tail_and_names_the_bound() -> None:
    results = made_up()
    numba, torch = summary.summarise(results)
    assert numba.time is not None
    assert numba.time.used == (128, 256, 512, 1024, 2048)
    assert numba.time.left_out == (64,)
    assert numba.time.verdict == "PASS"
    assert numba.memory is not None
    assert numba.memory.fitted.slope == pytest.approx(1)
    assert torch.time is not None
    assert max(torch.time.used) == 1024
    bounds = [summary.shares(p, RATES, "float32").bound for p in results.points[:6]]
    assert bounds[0] == "overhead"
    assert bounds[-1] == "compute"


def test_shares_over_one_are_marked_and_explained() -> None:
    results = made_up()
    for point in results.points:
        point.flops = 1e6 * point.n**2
    text = printed(results, 140)
    assert "%!" in text
    assert "over 100 % of the matrix-product rate" in " ".join(text.split())


def test_files_hold_every_point_and_sample() -> None:
    results = made_up()
    summaries = summary.summarise(results)
    table = json.loads(files.as_json(results, summaries, None))
    assert table["complete"]
    assert len(table["points"]) == 12
    assert [len(p["samples"]) for p in table["points"]] == [9] * 11 + [0]
    rows = list(csv.DictReader(io.StringIO(files.as_csv(results))))
    assert rows[-1]["reason"].startswith("would need")
    assert float(rows[0]["share_of_gemm"]) == pytest.approx(table["points"][0]["share_of_gemm"])
    assert rows[-1]["median_s"] == ""


def test_a_run_compared_with_itself_shows_no_difference() -> None:
    results = made_up()
    earlier = json.loads(files.as_json(results, [], None))
    changes, caveats = compare.against(results, earlier)
    assert {c.verdict for c in changes} == {"no difference seen"}
    assert caveats == []
    earlier["machine"]["cpu"] = "another CPU"
    assert "another cpu" in compare.against(results, earlier)[1][0]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_width_holds_a_comparison(width: int) -> None:
    results = made_up()
    changes, caveats = compare.against(results, json.loads(files.as_json(results, [], None)))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    report.Report(console).comparison(changes, caveats, "earlier.json")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("difference") > len(changes)


@pytest.mark.parametrize("suffix", plot.SUFFIXES)
def test_pictures_are_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    plot.save(made_up(), path)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


def test_presets_are_frozen_and_have_a_headline() -> None:
    for name, preset in PRESETS.items():
        assert preset.headline in preset.ns
        plain = with_preset(name, {})
        assert headline_size(plain) == preset.headline
        assert headline_size(with_preset(name, {"causal": True})) is None
        assert headline_size(with_preset(name, {"ns": (64,)})) is None
    settings = with_preset("quick", {"names": ("attention",)})
    results = made_up(settings)
    assert f"headline, preset quick, n = {PRESETS['quick'].headline}" in printed(results, 100)


def test_state_is_kept_by_command_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNLAB_CACHE_DIR", str(tmp_path))
    results = made_up()
    state = State(results.settings, MACHINE)
    state.begin(results.settings, MACHINE, RATES, results.points[:1])
    state.add(results.points[1])
    with state.path.open("a") as file:
        file.write('{"kind": "point", "exhi')  # the process was killed while it wrote
    rates, points = State(results.settings, MACHINE).load()
    assert rates == RATES
    assert points == results.points[:2]
    assert State(Settings(names=("attention",), ns=(64,)), MACHINE).load() == (None, [])
    # the budget decides how many points there are, not what they are
    longer = Settings(names=("attention",), ns=NS, budget=9999.0)
    assert State(longer, MACHINE).path == state.path


def test_the_plan_of_everything_adds_the_baselines() -> None:
    made = plan.make(Settings(backends=("numpy",), threads=1))
    assert all(t.op.cost is not None and t.op.cost.grows == "tokens" for t in made.targets)
    assert Target("attention", "attend", False) in made.targets
    for target in made.targets:
        other = plan.baseline_of(target, made.targets)
        assert (other is None) == (target.exhibit == "attention")
        if other is not None:
            assert other.ahead == target.ahead
    seconds = plan.estimate(made, Settings(backends=("numpy",)), RATES)
    assert 0 < seconds < 1e6


def test_the_plan_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean"):
        plan.make(Settings(names=("atention",)))
    with pytest.raises(InputError, match="--set depth: attention has no size or option 'depth'"):
        plan.make(Settings(names=("attention",), sizes_set={"depth": 4}))
    with pytest.raises(InputError, match=r"--backend: 'numpi'.*did you mean numpy"):
        plan.make(Settings(names=("attention",), backends=("numpi",)))
    monkeypatch.setattr(plan, "unavailable", lambda backend: "it is broken")
    with pytest.raises(BackendUnavailable, match="--backend torch cannot run here: it is broken"):
        plan.make(Settings(names=("attention",), backends=("torch",)))
    left = plan.make(Settings(names=("attention",)))
    assert left.backends == ()
    assert any("numba was not run: it is broken" in note for note in left.notes)


def test_a_plan_without_names_leaves_out_what_refuses_the_values() -> None:
    made = plan.make(Settings(backends=("numpy",), ns=(64,), sizes_set={"block": 0}))
    assert "lightning" not in {t.exhibit for t in made.targets}
    assert any("left out: lightning attend takes no block=0: " in note for note in made.notes)


def test_sizes_that_an_example_changes_are_said() -> None:
    made = plan.make(Settings(names=("moh",), ns=(8,), sizes_set={"n_head": 4, "top_k": 99}))
    assert "moh attend: top_k=99 became 2 at n = 8" in made.notes


def test_heads_is_a_count_also_where_an_option_chooses_heads() -> None:
    made = plan.make(Settings(names=("act",), ns=(8,), sizes_set={"heads": 3}))
    assert made.targets[0].op.sample(8, 0, heads=3)["q"].shape[1] == 3
    assert not any("heads" in note for note in made.notes)


def test_a_claim_is_not_judged_below_the_size_it_is_made_for() -> None:
    sizes, seconds = [512, 1024, 2048], [1.0, 4.0, 16.0]
    judged = summary.growth(sizes, seconds, [True] * 3, 1.1)
    spared = summary.growth(sizes, seconds, [True] * 3, 1.1, claimed_from=1024)
    assert judged is not None
    assert judged.verdict == "FAIL"
    assert spared is not None
    assert (spared.verdict, spared.claimed_from) == ("not judged", 1024)
