"""Saliency map verbalization: what to mention of an attribution, and how to say it."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import REQUIRED, Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE

WORDS = ("a", "the", "film", "plot", "her", "never", "dull", "lovely", "acting", ".", "»", "'")


def scores_of(n: int, rng: np.random.Generator, sign: str) -> np.ndarray:
    """n attributions of either sign, or all of one."""
    drawn = rng.standard_normal(n)
    return {"mixed": drawn, "positive": np.abs(drawn), "negative": -np.abs(drawn)}[sign]


def settings_of(metric: str, shortest: int) -> dict[str, Any]:
    """A metric with a value that finds something, and that the shortest document allows."""
    value = {"mean": max(0.4, 1 / shortest), "quantile": 1.2, "variance": 0.9}[metric]
    return {"metric": metric, "value": value}


def search_example(
    n: int,
    rng: np.random.Generator,
    documents: int = 3,
    metric: str = "mean",
    sign: str = "mixed",
    ragged: bool = True,
) -> dict[str, Any]:
    """Documents of n tokens and fewer, one after another; without `ragged`, one of n tokens."""
    if not ragged:
        return {"attributions": scores_of(n, rng, sign)} | settings_of(metric, n)
    lengths = np.append(rng.integers((n + 1) // 2, n + 1, documents - 1), n)
    return {
        "attributions": scores_of(int(lengths.sum()), rng, sign),
        "offsets": np.append(0, np.cumsum(lengths)),
    } | settings_of(metric, int(lengths.min()))


def verbalize_example(
    n: int, rng: np.random.Generator, metric: str = "mean", sign: str = "mixed"
) -> dict[str, Any]:
    """A text of n words and an attribution."""
    return scored_example(n, rng, sign) | settings_of(metric, n)


def scored_example(n: int, rng: np.random.Generator, sign: str = "mixed") -> dict[str, Any]:
    """A text of n words and an attribution."""
    return {"tokens": rng.choice(WORDS, n), "attributions": scores_of(n, rng, sign)}


def prompt_example(n: int, rng: np.random.Generator, sign: str = "mixed") -> dict[str, Any]:
    """A text of n words between special tokens, whose attribution is 0."""
    drawn = scored_example(n, rng, sign)
    return {
        "tokens": np.array(["[CLS]", *drawn["tokens"], "[SEP]"]),
        "attributions": np.array([0, *drawn["attributions"], 0]),
        "dataset": "imdb",
        "label": "positive",
    }


def quote_example(
    n: int, rng: np.random.Generator, quoted: int = 3, source: str = "llm", sign: str = "mixed"
) -> dict[str, Any]:
    """A text of n words and an explanation that quotes some of its words and one that is not in it."""
    drawn = scored_example(n, rng, sign)
    named = [*drawn["tokens"][:quoted], "zebra"]
    text = " and ".join(f"'{w}'" if source == "llm" else f"The word » {w} «" for w in named)
    return drawn | {"text": np.array(f"It is '{{placeholder}}' for {text}."), "source": source}


def ratings_example(
    n: int, rng: np.random.Generator, annotators: int = 5, classes: int = 3
) -> dict[str, Any]:
    """n items rated by annotators who agree more often than not."""
    truth = rng.integers(0, classes, (n, 1))
    noise = rng.integers(0, classes, (n, annotators))
    return {"ratings": np.where(rng.random((n, annotators)) < 0.6, truth, noise)}


def host(array: Any) -> np.ndarray:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)


def bounds(c: Any) -> np.ndarray:
    """Where documents begin, and the end of the last."""
    offsets = c.arrays.get("offsets")
    return np.array([0, len(c.attributions)]) if offsets is None else host(c.offsets)


def bad_offsets(c: Any) -> bool:
    offsets = bounds(c)
    falling = bool((offsets[1:] < offsets[:-1]).any())
    return bool(offsets[0] != 0 or offsets[-1] != len(c.attributions) or falling)


def which(wrong: np.ndarray) -> str:
    return f"document {int(wrong.argmax())}" if wrong.any() else ""


def without_tokens(c: Any) -> str:
    return which(np.diff(bounds(c)) == 0)


def without_scale(c: Any) -> str:
    return which(np.maximum.reduceat(host(c.attributions), bounds(c)[:-1]) == 0)


def without_top(c: Any) -> str:
    lengths = np.diff(bounds(c))
    return which(np.array([c.metric == "mean" and int(n * c.value) < 1 for n in lengths]))


NO_SCALE = (without_scale, "attributions: the largest is 0 ({why}), so that nothing can be scaled")
NO_TOP = (
    without_top,
    'value: {value} of the tokens is less than one token ({why}); metric "mean" averages the top ones',
)

SETTINGS = (
    Option("filter_length", int, 5, "L, the length of the windows", minimum=4),
    Option(
        "metric",
        str,
        "mean",
        "what the threshold is made of",
        choices=("mean", "quantile", "variance"),
    ),
    Option("value", float, 0.4, "v: the share of top tokens (mean), or a factor"),
    Option(
        "sgn",
        str,
        "+",
        "tokens under a 1 of the filter must have this sign; None: any",
        choices=("+", "-", None),
    ),
    Option(
        "behaviour",
        str,
        "released",
        "as the authors' code, or with its slips corrected (see the notes)",
        choices=("released", "corrected"),
    ),
)

SEARCH = (
    "(1) ã = a / |max a|, in float32;  max of the signed values",
    "(2) threshold: mean of the floor(n v) largest ã | v std(ã) | v var(ã)",
    "(3) filters: words of length L with k ones, 2 <= k <= L-2;",
    "    spans: width W = L or L-1 (odd), a centred block of i ones, i = 3, 5, …, W",
    "(4) J = {t + j: f_j = 1}, t = 0..n-W-1;  hit: mean of ã over J > threshold, signs as asked for",
)
SUMMARY = (
    "(5) a line's coverage: 100 sum_{j in J} a_j / sum_j max(a_j, 0), two decimals",
    "(6) the summary's: max(sum_{j=first(J)}^{last(J)-1} a_j / sum_j max(a_j, 0), 0)",
    "    behaviour=corrected: the sum runs to last(J)",
)

EXHIBIT = Exhibit(
    name="verbalization",
    title="Saliency map verbalization",
    family="explanation",
    package=__name__,
    paper=Paper(
        title="Saliency Map Verbalization: Comparing Feature Importance Representations from "
        "Model-free and Instruction-based Methods",
        authors=(
            "Nils Feldhus",
            "Leonhard Hennig",
            "Maximilian Dustin Nasert",
            "Christopher Ebert",
            "Robert Schwarzenberg",
            "Sebastian Möller",
        ),
        year=2023,
        venue="NLRSE workshop at ACL 2023",
        arxiv="2210.07222",
        code="DFKI-NLP/SMV@8e7c4b3",
    ),
    idea=(
        "Few people can read a heat map, so put it into a sentence: search the attribution for "
        "words that stand close together and score high on average, and name those that carry most "
        "of the positive mass. Or hand every token with its score to a language model and ask for "
        "a short explanation, which reads better and is less exact. Whether a sentence helped "
        "shows when a reader guesses from it what the model predicted."
    ),
    attention_map=(
        "none of its own: it puts into words any scores of tokens, attention among them."
    ),
    operations=(
        Operation(
            "search",
            headline=True,
            about="snippets of high attribution in documents laid end to end: patterns, and spans",
            equations=SEARCH,
            inputs=(
                Array("attributions", "N", finite=True, about="a, all documents end to end"),
                Array(
                    "offsets",
                    "documents+1",
                    dtype="int",
                    optional=True,
                    about="document d is [d]:[d+1]; one document without",
                ),
            ),
            options=SETTINGS,
            outputs=(
                Array(
                    "conv_indices",
                    "conv_hits conv_ones",
                    dtype="int",
                    about="J within its document, lists falling in order, -1 behind the last",
                ),
                Array("conv_values", "conv_hits", about="mean of ã over J"),
                Array("conv_offsets", "documents+1", dtype="int", about="hits of document d"),
                Array("span_indices", "span_hits span_ones", dtype="int"),
                Array("span_values", "span_hits"),
                Array("span_offsets", "documents+1", dtype="int"),
            ),
            refuse=(
                (
                    bad_offsets,
                    "offsets must start at 0, never fall, and end at the number of attributions",
                ),
                (without_tokens, "offsets: {why} has no token"),
                NO_SCALE,
                NO_TOP,
            ),
            example=search_example,
            vary={
                "documents": (1, 3),
                "metric": ("mean", "quantile", "variance"),
                "sign": ("mixed", "positive", "negative"),
                "ragged": (True, False),
                "filter_length": (4, 5, 6, 7),
                "sgn": ("+", "-", None),
                "behaviour": ("released", "corrected"),
            },
            bench_sizes={"documents": 64},
            no_gradient="indices of hits",
            cost=Cost(
                time="N L 2^L",
                exponent=1.0,
                size="N",
                flops=lambda c: 2.0 * c.N * c.filter_length * 2**c.filter_length / 1.6,
                bytes=lambda c: float(c.itemsize * c.N),
                blas=0.5,
                memory="hits",
                memory_exponent=1.0,
                note="2 F L multiply-adds a token over F filters; patterns that differ by a shift are one",
            ),
        ),
        Operation(
            "verbalize",
            about="one text's snippets with their coverage, its tokens in order, and a summary",
            equations=SEARCH + SUMMARY,
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("tokens", "n", dtype="text", about="special ones left out"),
                Array("attributions", "n", finite=True, about="a, of either sign"),
            ),
            options=SETTINGS,
            outputs=(
                Array("conv_indices", "conv_hits conv_longest", dtype="int", about="-1 pads"),
                Array("conv_values", "conv_hits", about="NaN where nothing was found"),
                Array("conv_text", "conv_hits", dtype="text", about="by falling value"),
                Array("conv_coverage_pct", "conv_hits", about="(5), in the order of the lines"),
                Array("span_indices", "span_hits span_longest", dtype="int"),
                Array("span_values", "span_hits"),
                Array("span_text", "span_hits", dtype="text"),
                Array("span_coverage_pct", "span_hits"),
                Array("order_tokens", "n", dtype="text", about="by falling attribution"),
                Array("order_attributions", "n"),
                Array("summary", "", dtype="text"),
                Array(
                    "summary_indices",
                    "_",
                    dtype="int",
                    optional=True,
                    about="tokens that the summary names, ascending",
                ),
                Array(
                    "common_indices",
                    "_ _",
                    dtype="int",
                    optional=True,
                    about="snippets that both searches found, -1 pads",
                ),
            ),
            refuse=(NO_SCALE, NO_TOP),
            example=verbalize_example,
            vary={
                "metric": ("mean", "quantile", "variance"),
                "sign": ("mixed", "positive", "negative"),
                "filter_length": (4, 5, 6, 7),
                "sgn": ("+", "-", None),
                "behaviour": ("released", "corrected"),
            },
            cost=Cost(
                time="n L 2^L + hits log(hits)",
                exponent=1.0,
                bytes=lambda c: float(c.itemsize * c.n),
                memory="hits",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "instruction_prompt",
            about="the prompt that asks a language model to explain a prediction",
            equations=(
                "scored_text = token (score) …, scores with two decimals",
                "prompt = scored text; what predicted what; what scores are; when and from what; request",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("tokens", "n", dtype="text", about="special ones kept"),
                Array("attributions", "n", finite=True),
            ),
            options=(
                Option(
                    "dataset",
                    str,
                    REQUIRED,
                    "who predicted what; text is for any other classifier",
                    choices=("imdb", "ag_news", "text"),
                ),
                Option("label", str, REQUIRED, "the predicted label"),
                Option(
                    "request",
                    str,
                    "explain",
                    "explain the scored text, or name its most important words unscored",
                    choices=("explain", "saliency"),
                ),
            ),
            outputs=(Array("scored_text", "", dtype="text"), Array("prompt", "", dtype="text")),
            example=prompt_example,
            vary={"sign": ("mixed", "negative"), "request": ("explain", "saliency")},
        ),
        Operation(
            "citation_coverage",
            about="how much of the positive attribution an explanation's quoted words cover",
            equations=(
                "(7) s = positive scores, two decimals, falling;  Q = quoted words",
                "    cov@k = sum_{i<k, token_i in Q} s_i / sum_i s_i;  ceiling: every token in Q",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("tokens", "n", dtype="text"),
                Array("attributions", "n", finite=True),
                Array("text", "", dtype="text", about="the explanation"),
            ),
            options=(
                Option(
                    "source",
                    str,
                    REQUIRED,
                    "llm: quotes are '…' or \"…\"; template: » … «",
                    choices=("llm", "template"),
                ),
            ),
            outputs=(
                Array("words", "_", dtype="text", about="quoted, lower case, in order"),
                Array("cov_at_k", "10", about="k = 1..10"),
                Array("ceiling_cov_at_k", "10"),
            ),
            example=quote_example,
            vary={
                "quoted": (0, 3),
                "source": ("llm", "template"),
                "sign": ("mixed", "positive", "negative"),
            },
        ),
        Operation(
            "fleiss_kappa",
            about="agreement of annotators beyond chance",
            equations=(
                "(8) P_i = (sum_k n_ik^2 - A) / (A (A-1));  p_k = sum_i n_ik / (N A)",
                "    kappa = (mean_i P_i - sum_k p_k^2) / (1 - sum_k p_k^2)",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(Array("ratings", "n annotators", dtype="int", about="any class ids"),),
            outputs=(
                Array("table", "n classes", dtype="int", about="n_ik, classes ascending"),
                Array("fleiss_kappa", "", about="NaN where all ratings are the same"),
            ),
            refuse=((lambda c: c.annotators < 2, "ratings: one annotator agrees with nobody"),),
            example=ratings_example,
            vary={"annotators": (2, 5), "classes": (1, 2, 7)},
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "Released: coverage (6) leaves out a snippet's last token, so single tokens cover nothing and "
        "tokens 0 to 4 always become candidates, even where nothing speaks for the prediction.",
        "Released: the last window is skipped; spans with equal coverage hide one another; of snippets "
        "with equal values the first one's line is said for all.",
        "behaviour=corrected mends these five, and drops candidates that cover nothing.",
        'sgn="-" wants every token of the window negative, those under a 0 too, and still a mean above '
        "the threshold: it finds next to nothing, in both behaviours.",
        "The prompt's wording is ours; its parts and their order are the authors'.",
    ),
)
