"""Progressive self-supervised attention: a model's own attention, peeled, supervises the next model."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE


def mine_example(
    n: int, rng: np.random.Generator, batch: int = 4, rounds: int = 3, sharpness: float = 2.0
) -> dict[str, Any]:
    """`rounds` signed attentions over sentences of 1..n words; erased words get no attention."""
    length = rng.integers(1, n + 1, batch)
    length[0] = n
    real = np.arange(n) < length[:, None]
    first = rng.integers(0, length)
    dist = np.where(real, np.abs(np.arange(n) - first[:, None]), -1)
    alphas = np.zeros((rounds, batch, n))
    left = real.copy()
    for k in range(rounds):
        e = np.where(left, np.exp(sharpness * rng.standard_normal((batch, n))), 0)
        total = e.sum(1, keepdims=True)
        alphas[k] = e / np.where(total > 0, total, 1) * rng.choice([-1, 1], (batch, 1))
        left[np.arange(batch), e.argmax(1)] = False  # the next round does not see this word
    return {
        "alphas": alphas,
        "wids": np.where(real, rng.integers(1, 50, (batch, n)), 0),
        "dist": dist,
    }


def classify_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 3,
    vocabulary: int = 20,
    dim: int = 5,
    aspects: int = 2,
    erased: bool = False,
) -> dict[str, Any]:
    """Random sentences of up to n words with a memory network; some supervised words."""
    length = rng.integers(1, n + 1, batch)
    length[0] = n
    real = np.arange(n) < length[:, None]
    supervised = (rng.random((batch, n)) < 0.4) & real
    active = supervised & (rng.random((batch, n)) < 0.7)
    drawn = {
        "text": np.where(real, rng.integers(1, vocabulary, (batch, n)), 0),
        "text_length": length,
        "aspect": rng.integers(1, vocabulary, (batch, aspects)),
        "polarity": rng.integers(0, 3, batch),
        "attention_mask": supervised,
        "attention_value": active / np.maximum(active.sum(1, keepdims=True), 1),
        "W": rng.standard_normal((dim, 3)),
    }
    if erased:
        drawn["mask"] = rng.random((batch, n)) < 0.7
    drawn |= {f"embedding_{t}": rng.standard_normal((vocabulary, dim)) for t in "ABC"}
    return drawn | {w: rng.standard_normal((dim, dim)) / dim**0.5 for w in "MH"}


def gradient_example(
    n: int, rng: np.random.Generator, batch: int = 3, passes: int = 4, dim: int = 5
) -> dict[str, Any]:
    """Noisy gradients of sentences whose first token is special and whose second is the target."""
    mask = np.ones((batch, n), bool)
    target = np.zeros((batch, n), bool)
    mask[:, 0] = n == 1
    target[:, 1:2] = True
    return {
        "gradients": rng.standard_normal((passes, batch, n, dim)),
        "embedding": rng.standard_normal((batch, n, dim)),
        "mask": mask,
        "target_mask": target,
    }


def lines_example(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """n sentences of 1 to 9 words with one to three tagged aspect words."""
    words = np.array(
        [
            "the",
            "pizza",
            "pasta",
            "was",
            "not",
            "good",
            "great",
            "nice",
            "help",
            "open",
            "0",
            "never",
        ]
    )
    lines = []
    for _ in range(n):
        sentence = rng.choice(words, rng.integers(1, 10)).tolist()
        first = int(rng.integers(len(sentence)))
        tag = str(rng.choice(["/p", "/n", "/0"]))
        for i in range(first, min(first + int(rng.integers(1, 4)), len(sentence))):
            sentence[i] += tag
        lines.append(" ".join(sentence))
    return {"lines": np.array(lines)}


def evaluate_example(n: int, rng: np.random.Generator, classes: int = 3) -> dict[str, Any]:
    """n random predictions; with fewer classes some never occur."""
    return {"pred": rng.integers(0, classes, n), "gold": rng.integers(0, classes, n)}


def outside(ids: Any, count: int) -> bool:
    return bool(ids.min() < 0) or bool(ids.max() >= count)


def unnormalised(alphas: Any, dist: Any) -> bool:
    """Does a row neither sum to 1 over its words nor hold zeros alone (all words erased)?"""
    total = (abs(alphas) * (dist >= 0)).sum(-1)
    return bool((~(abs(total - 1) <= 1e-3) & (total != 0)).any())


TAGS = ("/p", "/n", "/0")


def tag_of(token: str, anywhere: bool) -> str | None:
    """The tag at the end of a token; with `anywhere`, as in the released reader, one inside it."""
    return next((t for t in TAGS if (t in token if anywhere else token.endswith(t))), None)


def tagged(line: str, anywhere: bool) -> bool:
    return any(tag_of(token, anywhere) for token in str(line).split())


LABELS = (lambda c: outside(c.polarity, 3), "polarity: labels must be 0, 1 or 2")

EXHIBIT = Exhibit(
    name="pss_attention",
    title="Progressive self-supervised attention",
    family="training",
    package=__name__,
    paper=Paper(
        title="Enhanced Aspect-Based Sentiment Analysis Models with Progressive Self-supervised "
        "Attention Learning",
        authors=(
            "Jinsong Su",
            "Jialong Tang",
            "Hui Jiang",
            "Ziyao Lu",
            "Yubin Ge",
            "Linfeng Song",
            "Deyi Xiong",
            "Le Sun",
            "Jiebo Luo",
        ),
        year=2021,
        venue="Artificial Intelligence",
        arxiv="2103.03446",
        code="DeepLearnXMU/PSSAttention@7e23d8d",
    ),
    idea=(
        "Attention classifiers lean on a few frequent words and never learn the others, so the word "
        "that a trained model relied on most is erased in each training sentence and a fresh model is "
        "trained, again and again, like peeling. A word that led to a right prediction is active, one "
        "that led to a wrong prediction misleading. The last model sees whole sentences and a "
        "regulariser that pulls its attention equally to the active words and off the misleading ones."
    ),
    attention_map=(
        "alpha of the last hop: the softmax over the real words, which sums to 1. The "
        "gradient variant puts normalised gradient times input in its place."
    ),
    operations=(
        Operation(
            "mine",
            about="which words K rounds of signed attention extract, and what is left after each",
            equations=(
                "(3) E(alpha) = - sum_i alpha_i log2 alpha_i               (bits; zeros add nothing)",
                "(4) E(alpha^k) < eps: extract i = argmax |alpha^k|; active if alpha_i > 0, else misleading",
                "    mask_i <- 0 and word id <- 0 in the data of round k + 1",
            ),
            inputs=(
                Array(
                    "alphas",
                    "rounds batch n",
                    finite=True,
                    about="attention of each round, negative where the prediction was wrong",
                ),
                Array("wids", "batch n", dtype="int", about="word ids; 0 is padding"),
                Array(
                    "dist", "batch n", dtype="int", about="distance to the aspect; -1 is padding"
                ),
            ),
            options=(
                Option("max_entropy_bits", float, 4.0, "eps: extract below this entropy", above=0),
                Option(
                    "skip_empty",
                    bool,
                    True,
                    "a row of zeros (all words erased) extracts nothing; the released code takes "
                    "position 0 as misleading",
                ),
            ),
            outputs=(
                Array("entropy_bits", "rounds batch"),
                Array("mask", "batch n", about="1 at words, before any round"),
                Array("amask", "batch n", about="1 at every word that some round extracted"),
                Array("avalue", "batch n", about="1 at active words, not normalised"),
                Array(
                    "position_weight", "batch n", about="1 - dist/40; 0 beyond 40 and at padding"
                ),
                Array("erase_mask_after{k}", "batch n", about="mask after k rounds, k = 0 ... K"),
                Array("erased_wids_after{k}", "batch n", dtype="int"),
            ),
            refuse=(
                (lambda c: (c.dist < -1).any(), "dist must be at least -1 (padding)"),
                (lambda c: (~(c.dist >= 0).any(-1)).any(), "dist: a sentence is empty"),
                (
                    lambda c: unnormalised(c.alphas, c.dist),
                    "alphas must sum to 1 over the words of a sentence (or be all 0, when all are erased)",
                ),
            ),
            example=mine_example,
            vary={
                "batch": (1, 5),
                "rounds": (1, 2, 5),
                "sharpness": (0.1, 2.0),
                "max_entropy_bits": (4.0, 1.5, 0.3),
                "skip_empty": (True, False),
            },
            bench_sizes={"batch": 1024, "rounds": 5},
            no_gradient="mining decides; nothing is trained through it",
            exempt={"batch": "attention drawn anew would not sum to 1; tested by hand instead"},
            cost=Cost(
                time="rounds batch n",
                exponent=1.0,
                grows="words",
                flops=lambda c: 4.0 * c.rounds * c.batch * c.n,
                bytes=lambda c: (
                    c.batch * c.n * float(c.rounds * (2 * c.itemsize + 8) + 4 * c.itemsize)
                ),
                memory="rounds batch n (the data after each round)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "classify",
            headline=True,
            about="the memory network MN, its loss and the loss that supervises its attention",
            equations=(
                "(1) u = mean B[aspect]; each hop: alpha = softmax(A[x] . (u M)), o = sum alpha_i C[x_i], u <- o + u H",
                "(2) p = softmax(u W); class loss = mean cross-entropy",
                "(5) attention loss = mean over sentences of sum_i (amask_i alpha_i - avalue_i)^2",
                "(6) loss = class loss + lambda attention loss",
            ),
            inputs=(
                Array("text", "batch n", dtype="int", about="word ids"),
                Array("text_length", "batch", dtype="int", about="words beyond are padding"),
                Array("aspect", "batch aspects", dtype="int"),
                Array("polarity", "batch", dtype="int", about="0, 1 or 2"),
                Array("attention_mask", "batch n", dtype="flag", about="amask: supervised words"),
                Array("attention_value", "batch n", about="avalue: 1/|active| at active words"),
                Array(
                    "mask",
                    "batch n",
                    dtype="flag",
                    optional=True,
                    about="0 at erased words, as `mine` returns it; without it all words count",
                ),
                Array("embedding_A", "vocabulary dim", weight=True, about="keys"),
                Array("embedding_B", "vocabulary dim", weight=True, about="aspect words"),
                Array("embedding_C", "vocabulary dim", weight=True, about="values"),
                Array("M", "dim dim", weight=True, about="bilinear form of the scores"),
                Array("H", "dim dim", weight=True, about="carries u over a hop"),
                Array("W", "dim 3", weight=True, about="decoder"),
            ),
            options=(
                Option("hops", int, 1, "how often the memory is read", minimum=1),
                Option("lam", float, 1.0, "lambda of (6); enters `loss` alone", minimum=0),
                Option(
                    "value_norm",
                    str,
                    "given",
                    "attention_value is used as given; divided by max(1, its sum); or, as in the "
                    "released TNet code, by its sum: NaN in sentences without an active word",
                    choices=("given", "guarded", "released"),
                ),
            ),
            outputs=(
                Array("probabilities", "batch 3"),
                Array("alpha", "batch n", about="attention of the last hop"),
                Array("class_loss", "", about="nats"),
                Array("attention_loss", ""),
                Array("loss", "", optional=True, about="(6) without weight decay"),
            ),
            refuse=(
                LABELS,
                (
                    lambda c: bool(c.text_length.min() < 1) or bool(c.text_length.max() > c.n),
                    "text_length must be in 1..{n}: no sentence is empty",
                ),
                (
                    lambda c: outside(c.text, c.vocabulary),
                    "text: word ids must be in 0..{vocabulary}-1",
                ),
                (
                    lambda c: outside(c.aspect, c.vocabulary),
                    "aspect: word ids must be in 0..{vocabulary}-1",
                ),
            ),
            example=classify_example,
            vary={
                "batch": (1, 4),
                "vocabulary": (3, 30),
                "dim": (1, 4, 9),
                "aspects": (1, 3),
                "erased": (False, True),
                "hops": (1, 3),
                "lam": (1.0, 0.1),
                "value_norm": ("given", "guarded", "released"),
            },
            bench_sizes={"batch": 128, "vocabulary": 5000, "dim": 64},
            gradient=("embedding_A", "embedding_B", "embedding_C", "M", "H", "W"),
            cost=Cost(
                time="hops batch (n dim + dim^2)",
                exponent=1.0,
                grows="words",
                flops=lambda c: 4.0 * c.hops * c.batch * (c.n * c.dim + c.dim**2),
                bytes=lambda c: float(
                    c.itemsize * c.hops * (2 * c.batch * c.n * c.dim + 2 * c.dim**2)
                    + c.batch * c.n * (8 + 2 * c.itemsize)
                ),
                memory="batch n (gathered rows are never stored)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "gradient_weights",
            about="importance by smoothed gradient x embedding, where a model has many attentions",
            equations=(
                "s_i = mean over passes of sum_e emb_ie d logit / d emb_ie",
                "s <- 0 at target and special positions;  s <- (s - min s) mask;  alpha = s / sum s",
            ),
            inputs=(
                Array("gradients", "passes batch n dim", about="one noisy pass each"),
                Array("embedding", "batch n dim", about="input of the last layer"),
                Array("mask", "batch n", dtype="flag", about="0 at special tokens and padding"),
                Array("target_mask", "batch n", dtype="flag", about="1 at the aspect's tokens"),
            ),
            outputs=(Array("alpha", "batch n", about="sums to 1; all 0 where nothing differs"),),
            example=gradient_example,
            vary={"batch": (1, 4), "passes": (1, 3, 10), "dim": (1, 7)},
            bench_sizes={"batch": 16, "passes": 10, "dim": 256},
            gradient=("gradients", "embedding"),
            tolerance=(2e-4, 2e-5),
            cost=Cost(
                time="passes batch n dim",
                exponent=1.0,
                grows="words",
                flops=lambda c: 2.0 * c.passes * c.batch * c.n * c.dim,
                bytes=lambda c: float(c.itemsize * (c.passes + 1) * c.batch * c.n * c.dim),
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "read_lines",
            about="sentences whose aspect words carry /p, /n or /0",
            equations=(
                "y: /n 0, /p 1, /0 2;  beg_end = [first, last + 1) of the aspect words",
                "dist_i = last - i before the aspect, i - first from there on",
            ),
            paths=frozenset({"numpy"}),
            inputs=(Array("lines", "n", dtype="text", about="tokens parted by blanks"),),
            options=(
                Option(
                    "strip_characters",
                    bool,
                    False,
                    "strip the tag's characters at both ends, as the released reader does ('pizza/p' "
                    "becomes 'izza'), instead of cutting the tag",
                ),
            ),
            outputs=(
                Array("y", "n", dtype="int"),
                Array("target_words", "n", dtype="text", about="joined by blanks"),
                Array("words", "n", dtype="text", about="the sentence without tags"),
                Array("dist", "n _", dtype="int", about="padded with -1 to the longest sentence"),
                Array("beg_end", "n 2", dtype="int"),
            ),
            refuse=(
                (
                    lambda c: not all(str(line).split() for line in c.lines),
                    "lines: a sentence is empty",
                ),
                (
                    lambda c: not all(tagged(line, c.strip_characters) for line in c.lines),
                    "lines: a sentence has no word tagged /p, /n or /0",
                ),
            ),
            example=lines_example,
            no_gradient="strings",
            vary={"strip_characters": (False, True)},
        ),
        Operation(
            "evaluate",
            about="accuracy and macro-F1 over the three classes",
            equations=(
                "accuracy = mean [pred = gold]",
                "F1_c = 2 hits_c / (predicted_c + gold_c), 0 where both are 0;  macro-F1 = mean F1_c",
            ),
            paths=frozenset({"numpy", "numba"}),
            inputs=(
                Array("pred", "n", dtype="int", about="0, 1 or 2"),
                Array("gold", "n", dtype="int", about="0, 1 or 2"),
            ),
            outputs=(Array("accuracy", ""), Array("macro_f1", "")),
            refuse=(
                (lambda c: outside(c.pred, 3), "pred: labels must be 0, 1 or 2"),
                (lambda c: outside(c.gold, 3), "gold: labels must be 0, 1 or 2"),
            ),
            example=evaluate_example,
            vary={"classes": (1, 2, 3)},
            cost=Cost(
                time="n",
                exponent=1.0,
                grows="predictions",
                flops=lambda c: 3.0 * c.n,
                bytes=lambda c: 16.0 * c.n,
                memory_exponent=0.0,
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "eps = 4 bits is the entropy of 16 equal words: shorter sentences always lose a word.",
        "The paper's body was not available beyond its abstract; the authors' code is followed.",
        "A word extracted twice keeps the value 1 if either time it was active, as in the code.",
    ),
)
