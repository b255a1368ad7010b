"""The disagreement table of real sentences, and its attributions against Captum's, one sentence at a time.

    python benchmarks/explain_vs_captum.py                     # 200 SST sentences, both models
    python benchmarks/explain_vs_captum.py --captum 200        # Captum on all of them, too (minutes)
    python benchmarks/explain_vs_captum.py --train 60          # models trained on SST for a minute first
    python benchmarks/explain_vs_captum.py --quick             # 12 sentences: does it run, is it equal

Eight methods: attention, gradient, integrated gradients (50 points), DeepLIFT, Deep-SHAP, GradientSHAP
(5 draws), LIME (1000 masks) and leave-one-out, of the predicted class' probability, baseline padding.
Captum has no attention: there the model is traced one sentence at a time. LIME and GradientSHAP use
the same random draws on both sides. For every method the two sides run in turn: all sentences in
batches here, then the first `--captum` of them through Captum; what is compared is seconds a
sentence. Scores that differ by more than 1e-4 (of each sentence's largest) end the run with exit code 1.

The table itself (agreement, faithfulness, controls, intervals, tests) is timed apart from that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from attnlab.datasets.labelled import Row, read
from attnlab.explain import Problem, explain
from attnlab.explain.attention import attention
from attnlab.explain.perturbation import draw_masks
from attnlab.explain.shap import draw_points
from attnlab.explain.study import Cache, Settings, look, run
from attnlab.explain.summary import Summary, summarise
from attnlab.models.classifier import Classifier
from attnlab.models.classifiers import load, train
from attnlab.paths import shared_data

MODELS = ("bilstm", "transformer")
METHODS = (
    "attention", "gradient", "integrated_gradients", "deep_lift", "deep_shap", "gradient_shap",
    "lime", "leave_one_out",
)  # fmt: skip
TOLERANCE = 1e-4
TABLE_SECONDS = 300.0
FACTOR = 3.0


class Probability(nn.Module):
    """The model as Captum wants it: one sentence's embedding -> class probabilities."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedded: Tensor) -> Tensor:
        mask = torch.ones(embedded.shape[:2], dtype=torch.bool)
        return self.model(embedded, mask).softmax(-1)


def captum_scores(method: str, model: Classifier, problem: Problem) -> np.ndarray:
    """Captum's scores of the one sentence in `problem`, (n,)."""
    from captum import attr
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    f, x, b, t = Probability(model), problem.embedded, problem.baseline, int(problem.target)
    tokens = torch.arange(x.shape[1])[None, :, None].expand_as(x)
    if method == "attention":
        return attention(problem)[0].detach().numpy()
    if method == "gradient":
        raw = attr.Saliency(f).attribute(x, target=t).norm(dim=-1, keepdim=True)
    elif method == "integrated_gradients":
        raw = attr.IntegratedGradients(f).attribute(x, baselines=b, target=t, n_steps=50)
    elif method == "deep_lift":
        raw = attr.DeepLift(f).attribute(x, baselines=b, target=t)
    elif method == "deep_shap":
        raw = attr.DeepLiftShap(f).attribute(x, baselines=torch.cat([b, b]), target=t)
    elif method == "gradient_shap":
        u, k = (v[:, 0].numpy() for v in draw_points(problem, 5, 1))
        with _draws(u, k):
            raw = attr.GradientShap(f).attribute(
                x, baselines=b, n_samples=len(u), stdevs=0.0, target=t
            )
    elif method == "lime":
        masks = iter(draw_masks(problem, 1000)[:, 0].long())
        lime = attr.Lime(
            f,
            interpretable_model=SkLearnRidge(alpha=1.0),
            similarity_func=get_exp_kernel_similarity_function("cosine", kernel_width=1.0),
            perturb_func=lambda *a, **kw: next(masks)[None],
        )
        raw = lime.attribute(x, baselines=b, target=t, feature_mask=tokens, n_samples=1000)
        return raw[0, :, 0].detach().numpy()
    else:
        raw = attr.FeatureAblation(f).attribute(x, baselines=b, target=t, feature_mask=tokens)
        return raw[0, :, 0].detach().numpy()
    return raw[0].sum(-1).detach().numpy()


@contextlib.contextmanager
def _draws(u: np.ndarray, k: np.ndarray) -> Iterator[None]:
    """Captum's GradientShap with given points and baselines."""
    with (
        mock.patch.object(np.random, "uniform", return_value=u),
        mock.patch.object(np.random, "choice", return_value=k),
    ):
        yield


@dataclass
class Timed:
    """Seconds of one method: a sentence here, a sentence through Captum, and the largest difference."""

    model: str
    method: str
    ours: float
    theirs: float
    error: float

    @property
    def factor(self) -> float:
        return self.theirs / self.ours


def race(
    name: str, model: Classifier, texts: list[str], captum: int, clock: Callable[[], float]
) -> list[Timed]:
    """Every method on both sides, one after the other; `clock` is wall or processor time."""
    encoded = [model.encode(text) for text in texts]
    explain(model, encoded, ["attention"])  # first calls are slow on either side
    captum_scores("integrated_gradients", model, Problem.of(model, encoded[:1]))
    found = []
    for method in METHODS:
        begun = clock()
        ours = explain(model, encoded, [method])
        middle = clock()
        theirs = [captum_scores(method, model, Problem.of(model, [e])) for e in encoded[:captum]]
        end = clock()
        error = max(
            float(np.abs(one.attributions[method].signed - other).max() / np.abs(other).max())
            for one, other in zip(ours, theirs)
        )
        seconds = (middle - begun) / len(encoded), (end - middle) / len(theirs)
        found.append(Timed(name, method, *seconds, error))
    return found


def table(settings: Settings, model: Classifier) -> tuple[Summary, float]:
    """The study of the sentences, as `attnlab explain bench` makes it, and its wall seconds."""
    begun = time.perf_counter()
    found = look(settings)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, ATTNLAB_CACHE_DIR=folder),
    ):
        cache = Cache(settings, model)
        run(settings, model, found, cache)
        labels = [str(label) for label in model.labels]
        summary = summarise(cache, settings, found, labels, model.attention_map)
    return summary, time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--captum", type=int, default=25, help="sentences that Captum gets")
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--train", type=float, metavar="SECONDS", help="train on SST first")
    parser.add_argument("--threads", type=int, default=1, help="small models gain little from more")
    parser.add_argument("--cpu-time", action="store_true", help="processor instead of wall seconds")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.sentences, options.captum = 12, 3
    folder = shared_data()
    if folder is None or not (folder / "sst" / "dev.txt").is_file():
        print("not run: ../shared/data/sst is not here", file=sys.stderr)
        return 0
    warnings.filterwarnings("ignore")  # Captum warns of every hook it sets
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    data = str(folder / "sst" / "dev.txt")
    report: dict[str, Any] = {
        "sentences": options.sentences,
        "captum": options.captum,
        "threads": options.threads,
    }
    report |= {"clock": "processor" if options.cpu_time else "wall", "models": {}}
    tables = 0.0
    failed = False
    for name in options.model:
        model = load(name)
        if options.train:
            rows = [
                row for row in read(folder / "sst" / "train.txt", "sst") if isinstance(row, Row)
            ]
            model = train(name, rows, seconds=options.train, labels=["negative", "positive"])
        settings = Settings(data, name, "sst", METHODS, limit=options.sentences)
        taken = look(settings).taken or frozenset()
        texts = [r.text for r in read(data, "sst") if isinstance(r, Row) and r.line in taken]
        summary, seconds = table(settings, model)
        tables += seconds
        print(
            f"{name}: the table of {summary.texts} sentences x {len(METHODS)} methods and the floor took {seconds:.1f} s"
        )
        from attnlab.explain.study_report import verdicts

        print("\n".join(f"  {line}" for line in verdicts(summary)))
        timed = race(name, model, texts, options.captum, clock)
        print(f"  {'method':22}{'ours ms':>9}{'Captum ms':>11}{'factor':>8}{'max error':>11}")
        for one in timed:
            print(
                f"  {one.method:22}{one.ours * 1e3:9.2f}{one.theirs * 1e3:11.2f}{one.factor:8.1f}{one.error:11.1e}"
            )
        ours, theirs = sum(t.ours for t in timed), sum(t.theirs for t in timed)
        worst = max(t.error for t in timed)
        print(
            f"  {'all eight':22}{ours * 1e3:9.2f}{theirs * 1e3:11.2f}{theirs / ours:8.1f}{worst:11.1e}\n"
        )
        failed |= worst > TOLERANCE
        report["models"][name] = {
            "table_seconds": seconds,
            "factor": theirs / ours,
            "methods": [t.__dict__ | {"factor": t.factor} for t in timed],
            "verdicts": verdicts(summary),
            "kendall_tau": [
                {"a": a, "b": b} | m.as_dict()
                for (a, b), m in summary.agreement["kendall_tau"].items()
            ],
        }
    factors = [m["factor"] for m in report["models"].values()]
    print(f"tables: {tables:.0f} s (figure to reach: under {TABLE_SECONDS:.0f} s)")
    print(
        f"faster than Captum by {min(factors):.1f} at least (figure to reach: {FACTOR:g}), scores equal to {TOLERANCE:g}: {not failed}"
    )
    report |= {"tables_seconds": tables, "equal": not failed}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
