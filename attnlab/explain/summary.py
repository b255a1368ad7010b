"""The tables of a study, from its records one after another: means with intervals, paired tests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnlab.explain import agreement, faithfulness, plausibility
from attnlab.explain.registry import METHODS
from attnlab.explain.statistics import Difference, Mean, Paired, Running
from attnlab.explain.study import FLOOR, GRID, Found, Record, Settings

# The metrics for which all methods are tested against each other.
SAME = {"deep_lift", "deep_shap"}  # one function where there is one baseline
TESTED = ("comprehensiveness", "sufficiency", "deletion_auc", "insertion_auc")


@dataclass
class Summary:
    """Everything that is shown of a study. Methods in the order asked for, the random floor last.

    agreement: measure -> {(a, b): Mean}. faithfulness, plausibility: method -> metric -> Mean.
    changed: method -> rho with the scores under random weights. tests: metric -> differences.
    curves: side -> method -> GRID means. recovery: kind of planted model -> method -> Mean.
    """

    settings: Settings
    found: Found
    methods: list[str]
    labels: list[str]
    attention_map: str
    texts: int
    skipped: dict[str, int]
    accuracy: Mean
    unknown_labels: int
    agreement: dict[str, dict[tuple[str, str], Mean]]
    faithfulness: dict[str, dict[str, Mean]]
    plausibility: dict[str, dict[str, Mean]]
    changed: dict[str, Mean]
    seconds: dict[str, Mean]
    tests: dict[str, list[Difference]]
    curves: dict[str, dict[str, np.ndarray]]
    recovery: dict[str, dict[str, Mean]]
    lead: Mean | None
    wall: float = 0.0

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(self.agreement["kendall_tau"])

    def matrix(self, measure: str = "kendall_tau") -> np.ndarray:
        """The means as a symmetric matrix, 1 on the diagonal."""
        found = np.eye(len(self.methods))
        for (a, b), value in self.agreement[measure].items():
            i, j = self.methods.index(a), self.methods.index(b)
            found[i, j] = found[j, i] = value.value
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON; a Mean becomes its numbers."""

        def plain(table: dict[str, dict[str, Mean]]) -> dict[str, dict[str, Any]]:
            return {k: {m: v.as_dict() for m, v in row.items()} for k, row in table.items()}

        return {
            "kind": "attnlab explain bench",
            "settings": self.settings.__dict__ | {"methods": self.methods},
            "labels": self.labels,
            "attention_map": self.attention_map,
            "texts": self.texts,
            "texts_in_file": self.found.texts,
            "malformed": self.found.bad,
            "first_malformed": [bad._asdict() for bad in self.found.first_bad],
            "skipped": self.skipped,
            "labels_unknown_to_the_model": self.unknown_labels,
            "accuracy": self.accuracy.as_dict(),
            "agreement": {
                measure: [{"a": a, "b": b} | v.as_dict() for (a, b), v in table.items()]
                for measure, table in self.agreement.items()
            },
            "lead_of_the_top_pair": self.lead.as_dict() if self.lead else None,
            "faithfulness": plain(self.faithfulness),
            "plausibility": plain(self.plausibility),
            "rho_with_random_weights": {k: v.as_dict() for k, v in self.changed.items()},
            "planted": plain(self.recovery),
            "tests": {metric: [d.as_dict() for d in tests] for metric, tests in self.tests.items()},
            "curves": {
                side: {m: c.tolist() for m, c in of.items()} for side, of in self.curves.items()
            },
            "seconds_per_text": {k: v.as_dict() for k, v in self.seconds.items()},
            "wall_seconds": self.wall,
        }


def summarise(
    records: Iterable[Record],
    settings: Settings,
    found: Found,
    labels: list[str],
    attention_map: str,
    *,
    planted: bool = True,
) -> Summary:
    """Reads the records once; memory does not grow with their number."""
    begun = time.perf_counter()
    methods, seed, seeds = settings.names, settings.seed, settings.seeds
    upper = np.triu_indices(len(methods), 1)
    pairs = [(methods[i], methods[j]) for i, j in zip(*upper)]

    def running(quantities: int) -> Running:
        return Running(quantities, seed=seed, seeds=seeds)

    measures, metrics, plausible = agreement.MEASURES, faithfulness.METRICS, plausibility.METRICS
    agreed = {m: running(len(pairs)) for m in measures}
    faithful = running(len(methods) * len(metrics))
    reasonable = running(len(methods) * len(plausible))
    changed, seconds = running(len(methods)), running(len(methods))
    curves = {side: np.zeros((len(methods), GRID)) for side in ("deletion", "insertion")}
    tested = {m: Paired(methods, seed=seed) for m in TESTED}
    accuracy, texts, unknown = running(1), 0, 0
    skipped: Counter[str] = Counter()
    for record in records:
        if "skipped" in record:
            skipped[record["skipped"]] += 1
            continue
        texts += 1
        known = record["label"] < len(labels)
        unknown += not known
        accuracy.add(np.array([record["label"] == record["predicted"] if known else np.nan]))
        for measure, sums in agreed.items():
            sums.add(np.array(record["agreement"][measure]))
        values = np.array([[record["faithfulness"][n][m] for m in metrics] for n in methods])
        faithful.add(values.ravel())
        for metric, test in tested.items():
            test.add(values[:, list(metrics).index(metric)])
        if record["plausibility"]:
            rationale = [[record["plausibility"][n][m] for m in plausible] for n in methods]
            reasonable.add(np.array(rationale).ravel())
        changed.add(np.array([record["changed"].get(n, np.nan) for n in methods]))
        seconds.add(np.array([record["seconds"][n] for n in methods]))
        for side, total in curves.items():
            total += np.array([record["curves"][n][side] for n in methods])

    def grid(sums: Running, columns: Iterable[str]) -> dict[str, dict[str, Mean]]:
        names, means = list(columns), iter(sums.means())
        return {n: {m: next(means) for m in names} for n in methods}

    taus = dict(zip(pairs, agreed["kendall_tau"].means()))
    return Summary(
        settings=settings,
        found=found,
        methods=methods,
        labels=labels,
        attention_map=attention_map,
        texts=texts,
        skipped=dict(skipped),
        accuracy=accuracy.means()[0],
        unknown_labels=unknown,
        agreement={m: dict(zip(pairs, sums.means())) for m, sums in agreed.items()},
        faithfulness=grid(faithful, metrics),
        plausibility=grid(reasonable, plausible) if reasonable.texts else {},
        changed=dict(zip(methods, changed.means())) if changed.n.any() else {},
        seconds=dict(zip(methods, seconds.means())),
        tests={m: test.tests() for m, test in tested.items()},
        curves={
            side: {n: total[i] / max(texts, 1) for i, n in enumerate(methods)}
            for side, total in curves.items()
        },
        recovery=_recovery(settings) if planted else {},
        lead=_lead(agreed["kendall_tau"], taus),
        wall=time.perf_counter() - begun,
    )


def _lead(sums: Running, taus: dict[tuple[str, str], Mean]) -> Mean | None:
    """By how much the pair that agrees most leads the next, over the texts where both are defined."""
    usable = [FLOOR not in pair and set(pair) != SAME for pair in taus]
    values = [m.value if use else np.nan for use, m in zip(usable, taus.values())]
    order = [int(i) for i in np.argsort(np.nan_to_num(values, nan=-2.0))[::-1]]
    if len(order) < 2 or np.isnan(values[order[1]]):
        return None
    return sums.difference(order[0], order[1])


def _recovery(settings: Settings) -> dict[str, dict[str, Mean]]:
    from attnlab.explain.planted import recovery
    from attnlab.explain.statistics import mean

    found = recovery(settings.names, seed=settings.seed)
    return {
        kind: {name: mean(values, seed=settings.seed) for name, values in of.items()}
        for kind, of in found.items()
    }


def title(name: str) -> str:
    return METHODS[name].title
