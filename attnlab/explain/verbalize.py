"""Attributions in words: searched, filled into a template, or asked of a language model.

    said = verbalize(tokens, scores, "positive", how="search")
    said.text, said.quoted, said.coverage
    verbalize(tokens, scores, "positive", how="instruct", complete=StandIn())

`complete` is any function from a prompt to a reply: `StandIn` (offline), `endpoint.Endpoint` (a
server that speaks OpenAI's protocol), or one of yours. What is quoted of a text, and how much of the
attribution that covers, is computed by the exhibit `verbalization` (Feldhus et al., 2023).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from jaxtyping import Float

from attnlab import registry
from attnlab.contract import InputError, suggest

How = Literal["search", "released", "template", "instruct"]
HOWS: tuple[How, ...] = get_args(How)
NOTHING = "No token supports the prediction"
PLACEHOLDER = "{placeholder}"
QUOTED = r"»[^«»]+«|'[^']+'|\"[^\"]+\""


class Complete(Protocol):
    """What turns a prompt into a reply."""

    def __call__(self, prompt: str, /) -> str: ...


@dataclass(frozen=True)
class Verbalization:
    """A sentence about an attribution, and how it stands to that attribution.

    quoted: words named in it, lower case, in order. coverage: the share of the positive attribution
    on tokens that are named; NaN where no attribution is positive. coverage_at_k, ceiling_at_k:
    the same among the k = 1..10 highest scores, and what naming all of these would give. invented:
    the share of quoted words that the text does not contain; NaN where nothing is quoted.
    """

    text: str
    coverage: float
    quoted: tuple[str, ...]
    how: How
    label: str
    coverage_at_k: tuple[float, ...]
    ceiling_at_k: tuple[float, ...]
    invented: float
    prompt: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the prompt is left out."""
        return {name: value for name, value in asdict(self).items() if name != "prompt"}

    @property
    def blind(self) -> str:
        """The text for a reader who has to guess the label: its name, outside quotes, is hidden."""
        name = rf"\b{re.escape(self.label)}\b" if self.label.isalnum() else re.escape(self.label)
        parts = re.compile(f"({QUOTED})|{name}", re.IGNORECASE)
        return parts.sub(
            lambda hit: PLACEHOLDER if _bare(hit[0]) == self.label.lower() else hit[0], self.text
        )


def _bare(said: str) -> str:
    """A quotation of nothing but the label is no quotation of the text."""
    return said.strip("'\"").lower()


def verbalize(
    tokens: Sequence[str],
    scores: Sequence[float] | Float[np.ndarray, "n"],
    label: str,
    *,
    how: How = "search",
    complete: Complete | None = None,
    k: int = 5,
    dataset: str = "text",
    filter_length: int = 5,
    backend: str = "numpy",
) -> Verbalization:
    """Says in words what speaks for the label. tokens: special ones left out; scores: signed, (n,).

    how: "search" names spans of high attribution (the released method with its slips corrected),
    "released" as the authors' code does, "template" names the k highest tokens with their shares,
    "instruct" asks `complete`. dataset: of the prompt, as the exhibit has it. Tokens whose score is
    exactly 0 are left out of a search, as in the paper.

    Raises InputError for lengths that differ, no token, scores that are not finite, another `how`,
    and "instruct" without `complete`; what `complete` raises is passed on.
    """
    words, a = np.asarray(tokens, dtype=str), np.asarray(scores, dtype=np.float64)
    if words.ndim != 1 or words.shape != a.shape or not len(words):
        raise InputError(
            f"tokens and scores must be two lists of the same length of at least 1, but have "
            f"shapes {words.shape} and {a.shape}"
        )
    if not np.isfinite(a).all():
        raise InputError("scores must be finite, but hold NaN or infinity")
    if k < 1:
        raise InputError(f"k must be at least 1, but is {k}")
    if how not in HOWS:
        raise InputError(f"how {how!r} is none of {', '.join(HOWS)}{suggest(how, HOWS)}")
    exhibit = registry.find("verbalization")
    prompt, named = "", None
    if how == "instruct":
        if complete is None:
            raise InputError('how="instruct" needs complete, a function from a prompt to a reply')
        prompt = str(
            exhibit.run(
                "instruction_prompt", tokens=words, attributions=a, dataset=dataset, label=label
            ).prompt
        )
        text = complete(prompt)
    elif how == "template":
        text, named = _template(words, a, label, k)
    else:
        text, named = _searched(words, a, how, filter_length, backend)

    source = "llm" if how == "instruct" else "template"
    cited = exhibit.run(
        "citation_coverage", tokens=words, attributions=a, text=np.array(text), source=source
    )
    quoted = tuple(cited.words.tolist())
    known = [w.lower() for w in words.tolist()]
    inside = [w in known for w in quoted]
    if named is None:  # a reader of the reply knows words, not places
        named = [i for i, w in enumerate(known) if w in quoted]
    positive = np.maximum(a, 0)
    covered = positive[named].sum() / positive.sum() if positive.any() else np.nan
    return Verbalization(
        text=text,
        coverage=float(covered),
        quoted=quoted,
        how=how,
        label=label,
        coverage_at_k=tuple(cited.cov_at_k.tolist()),
        ceiling_at_k=tuple(cited.ceiling_cov_at_k.tolist()),
        invented=1 - sum(inside) / len(inside) if inside else float("nan"),
        prompt=prompt,
    )


def describe(tokens: Sequence[str], scores: Float[np.ndarray, "n"], label: str) -> str:
    """One line for a terminal: the corrected search, and how much it covers."""
    return line(verbalize(tokens, scores, label))


def line(said: Verbalization) -> str:
    """The text, and how much of what speaks for the label it names."""
    if np.isnan(said.coverage):
        return said.text
    return f"{said.text} ({said.coverage:.0%} of what speaks for {said.label})"


def _searched(
    words: np.ndarray, a: np.ndarray, how: str, filter_length: int, backend: str
) -> tuple[str, list[int]]:
    kept = np.flatnonzero(a)
    if not len(kept):
        return NOTHING, []
    made = registry.find("verbalization").run(
        "verbalize",
        backend=backend,
        want=("summary_indices",),
        tokens=words[kept],
        attributions=a[kept],
        filter_length=filter_length,
        value=max(0.4, 1 / len(kept)),  # the mean of at least one token
        behaviour="released" if how == "released" else "corrected",
    )
    return str(made.summary), kept[made.summary_indices].tolist()


def _template(words: np.ndarray, a: np.ndarray, label: str, k: int) -> tuple[str, list[int]]:
    top = [int(i) for i in np.argsort(-a, kind="stable")[:k] if a[i] > 0]
    if not top:
        return NOTHING, []
    total = np.maximum(a, 0).sum()
    parts = [f"» {words[i]} « ({a[i] / total:.0%})" for i in top]
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
    against = int((a < 0).sum())
    text = f"For {label} {'speak' if parts[1:] else 'speaks'} above all {listed}"
    return text + (f"; {against} of {len(a)} tokens speak against it" if against else ""), top


@dataclass(frozen=True)
class StandIn:
    """A `complete` that works offline: it quotes the k highest-scoring tokens of the prompt.

    substitutions: the chance that a quoted word is replaced by another of `vocabulary`, as language
    models do. The same prompt and seed give the same reply.
    """

    k: int = 5
    substitutions: float = 0.0
    vocabulary: Sequence[str] = ("moment", "people", "overall", "strong", "choice", "experience")
    seed: int = 0

    def __call__(self, prompt: str, /) -> str:
        scored = re.findall(r"(\S+) \((-?[\d.]+(?:e-?\d+)?)\)", prompt.split("\n\n")[0])
        ranked = sorted(((float(s), word) for word, s in scored), key=lambda pair: -pair[0])
        words = [w for s, w in ranked if s > 0 and not set(w) & set("'\"")]
        top = list(dict.fromkeys(words))[: self.k]
        rng = np.random.default_rng([self.seed, zlib.crc32(prompt.encode())])
        for i in np.flatnonzero(rng.random(len(top)) < self.substitutions):
            top[i] = str(rng.choice(np.asarray(self.vocabulary, dtype=str)))
        top = [f"'{word}'" for word in top]
        if not top:
            return "I find no word that explains this decision."
        return f"The decision rests mostly on {', '.join(top)}."
