"""What each head of a causal model does, and what the answer loses without it.

    decoder = open_decoder("induction")
    tests = needles(decoder, runs=40)
    scores = head_scores(decoder, tests)               # retrieval, induction, previous, sink, entropy
    cost = ablate(decoder, tests, scores, ks=(1, 2))   # recall without the top heads, without others

Sources. retrieval: Wu et al., "Retrieval head mechanistically explains long-context factuality",
2024. induction and previous token, on repeated random tokens: Olsson et al., "In-context learning
and induction heads", 2022. sink: Xiao et al., "Efficient streaming language models with attention
sinks", 2023. entropy: of a row, divided by the log of the number of keys it may see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from attnlab.explain.decoders import CircuitDecoder, Decoder, Heads
from attnlab.explain.statistics import Difference, Mean, Running, mean, paired_test
from attnlab.models.heads import share
from attnlab.registry import find

Map = Float[np.ndarray, "layers heads"]
KINDS = ("retrieval", "induction", "previous", "sink", "entropy")
COUNTS = 0.5  # a run counts when the answer holds more than this share of the needle
THRESHOLD = 0.1  # the paper's: from this score on a head is a retrieval head


@dataclass(frozen=True)
class Needle:
    """A prompt, the needle's place in it [s, e), and what is to be answered: prompt[s:e]."""

    prompt: Int[np.ndarray, "n"]
    start: int
    end: int

    @property
    def wanted(self) -> Int[np.ndarray, "needle"]:
        return self.prompt[self.start : self.end]


@dataclass(frozen=True)
class Run:
    """One answer: the tokens, the attention row behind each (0 behind its end), the needle's recall."""

    needle: Needle
    generated: Int[np.ndarray, "T"]
    attention: Float[np.ndarray, "T layers heads keys"]
    recall: float

    @property
    def counts(self) -> bool:
        return self.recall > COUNTS


@dataclass(frozen=True)
class HeadScores:
    """Every head's scores; retrieval, set and frequency are NaN where no run counted.

    retrieval  copy events / needle tokens, mean over the runs that count, with low and high of its
               bootstrap interval; set: the paper's text, copied tokens / needle tokens
    frequency  share of the counted runs in which the head copied anything
    induction  on random tokens that repeat: attention on what followed the token's last occurrence
    previous   attention on the token before; sink: of the second half of a prompt, on the first
               token; entropy in [0, 1]: 0 looks at one key, 1 at all equally
    """

    model: str
    sampled: str
    retrieval: Map
    low: Map
    high: Map
    set: Map
    frequency: Map
    induction: Map
    previous: Map
    sink: Map
    entropy: Map
    recall: Mean
    runs: int
    counted: int
    prompts: int
    seed: int

    def of(self, kind: str) -> Map:
        """One kind of score by name. ValueError for a kind there is not."""
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        return getattr(self, kind)

    def top(self, k: int, kind: str = "retrieval") -> list[tuple[int, int]]:
        """The k heads with the largest score, the first of equals first (entropy: the smallest).

        ValueError for k outside 1..heads and for scores that are not defined.
        """
        scores = -self.of(kind) if kind == "entropy" else self.of(kind)
        if not 1 <= k <= scores.size:
            raise ValueError(f"k must be 1 to {scores.size}, the number of heads, not {k}")
        if np.isnan(scores).any():
            raise ValueError(
                f"{kind} scores are not defined: no answer held more than {COUNTS:.0%} of its needle"
            )
        order = np.argsort(-scores.ravel(), kind="stable")[:k]
        return [(int(i) // scores.shape[1], int(i) % scores.shape[1]) for i in order]

    def as_dict(self) -> dict[str, Any]:
        maps = ("low", "high", "set", "frequency")
        return {
            "model": self.model,
            "samples": self.sampled,
            "seed": self.seed,
            "runs": self.runs,
            "counted": self.counted,
            "prompts": self.prompts,
            "recall": self.recall.as_dict(),
            "scores": {kind: self.of(kind).tolist() for kind in KINDS},
            **{f"retrieval_{name}": getattr(self, name).tolist() for name in maps},
        }


# --- needles ---------------------------------------------------------------------------------


def needles(
    decoder: Decoder, runs: int = 40, *, seed: int = 0, answer: int = 8, haystack: int = 128
) -> list[Needle]:
    """`runs` needle tests that suit the model.

    A toy model of a circuit task gets that task's prompts: the needle is what the answer copies
    (with induction, `answer` tokens). Any other model gets a haystack of its own samples with a
    needle of random tokens at depths from 0 to 100 %; two random tokens lead to it, and end the
    prompt. ValueError where the task copies nothing or the context is too short.
    """
    if isinstance(decoder, CircuitDecoder) and decoder.name != "induction":
        task = decoder.model.task(runs, seed)
        if (task.source < 0).any():
            raise ValueError(
                f"the answers of task {decoder.name} are no copies: there is no needle"
            )
        return [Needle(p, int(s), int(s) + 1) for p, s in zip(task.positives, task.source)]
    rng, lead = np.random.default_rng([seed, 1]), 2  # not the stream that samples are drawn from
    length = min(haystack, decoder.context - len(decoder.begin) - 2 * lead - 2 * answer)
    if length < 4:
        raise ValueError(f"a context of {decoder.context} tokens has no room for a needle test")
    distinct = isinstance(decoder, CircuitDecoder)  # it never saw a token twice outside the copy
    if distinct:
        length = min(length, len(decoder.ids) - lead - answer)
    made = []
    for run, sample in enumerate(decoder.samples(runs, seed)):
        drawn = rng.choice(decoder.ids, length + lead + answer, replace=not distinct)
        needle = drawn[: lead + answer]
        hay = drawn[lead + answer :] if distinct else sample[len(decoder.begin) :][:length]
        at = round(len(hay) * run / max(1, runs - 1))
        parts = [np.array(decoder.begin), hay[:at], needle, hay[at:], needle[:lead]]
        start = len(decoder.begin) + at + lead
        made.append(Needle(np.concatenate(parts).astype(np.int64), start, start + answer))
    return made


def run(decoder: Decoder, needle: Needle, masked: Heads = (), *, everywhere: bool = False) -> Run:
    """Answer greedily, as many tokens as the needle has.

    masked heads are flattened while decoding, as in the paper; everywhere: while the prompt is
    read, too.
    """
    prompt, steps = needle.prompt, needle.end - needle.start
    state = decoder.prefill(prompt[:-1], masked if everywhere else ())
    attention = np.zeros((steps, decoder.layers, decoder.heads, len(prompt) + steps), np.float32)
    token, generated = int(prompt[-1]), []
    for t in range(steps):
        logits, rows, state = decoder.step(token, state, masked)
        attention[t, ..., : rows.shape[-1]] = rows
        token = int(logits.argmax())
        generated.append(token)
    found = Counter(generated) & Counter(needle.wanted.tolist())
    return Run(needle, np.array(generated), attention, found.total() / steps)


def copied(one: Run, top_k: int = 1) -> tuple[Map, Map]:
    """(2) of a run: retrieval score as released, and over sets."""
    made = find("retrieval_heads").run(
        "score_heads",
        backend="torch",
        want=["set_score"],
        prompt_ids=one.needle.prompt,
        needle_span=np.array([one.needle.start, one.needle.end]),
        generated=one.generated,
        attention=one.attention,
        top_k=top_k,
    )
    return made.retrieval_score.numpy(), made.set_score.numpy()


# --- scores ----------------------------------------------------------------------------------


def head_scores(
    decoder: Decoder,
    tests: Sequence[Needle],
    *,
    prompts: int = 20,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> HeadScores:
    """All scores of all heads. progress(share) is called as the needle tests go on.

    tests may be empty (a model that copies nothing): retrieval is NaN then.
    """
    shape = (decoder.layers, decoder.heads)
    retrieval, sets = Running(shape[0] * shape[1], seed=seed), np.zeros(shape)
    frequency, recalls = np.zeros(shape), []
    for i, test in enumerate(tests):
        one = run(decoder, test)
        recalls.append(one.recall)
        if one.counts:  # (3)
            score, as_set = copied(one)
            retrieval.add(score.ravel())
            sets += as_set
            frequency += score > 0
        if progress is not None:
            progress((i + 1) / len(tests))
    means, counted = retrieval.means(), retrieval.texts
    made = np.array([(m.value, m.low, m.high) for m in means]).reshape(*shape, 3)
    nothing = np.full(shape, np.nan)
    samples = [decoder.attention(ids) for ids in decoder.samples(prompts, seed + 1)]
    return HeadScores(
        model=decoder.name,
        sampled=decoder.sampled,
        retrieval=made[..., 0],
        low=made[..., 1],
        high=made[..., 2],
        set=sets / counted if counted else nothing,
        frequency=frequency / counted if counted else nothing,
        induction=induction_scores(decoder, repeats=min(8, prompts), seed=seed),
        previous=np.mean(
            [share(A, np.eye(A.shape[-1], k=-1, dtype=bool)) for A in samples], axis=0
        ),
        sink=np.mean([A[:, :, A.shape[-1] // 2 :, 0].mean(-1) for A in samples], axis=0),
        entropy=np.mean([entropy(A) for A in samples], axis=0),
        recall=mean(recalls, seed=seed),
        runs=len(tests),
        counted=counted,
        prompts=prompts,
        seed=seed,
    )


def induction_scores(decoder: Decoder, repeats: int = 8, seed: int = 0) -> Map:
    """Random tokens twice: attention, the second time, on what followed the token the first time.

    The first half begins with the model's own first tokens; halves have up to 64 tokens.
    """
    rng, begin = np.random.default_rng(seed), len(decoder.begin)
    half = min(64, (decoder.context - begin) // 2)
    n = begin + 2 * half
    at = np.zeros((n, n), bool)
    later = np.arange(begin + half, n)
    at[later, later - half + 1] = True
    total = np.zeros((decoder.layers, decoder.heads))
    for _ in range(repeats):
        once = rng.choice(decoder.ids, half, replace=len(decoder.ids) < half)
        ids = np.concatenate([np.array(decoder.begin, np.int64), once, once])
        total += share(decoder.attention(ids), at)
    return total / repeats


def entropy(A: Float[np.ndarray, "layers heads n n"]) -> Map:
    """Mean entropy of the rows, divided by the log of how many keys they may see; rows from 1 on."""
    rows = A[:, :, 1:].astype(np.float64)
    H = -(rows * np.log(np.where(rows > 0, rows, 1.0))).sum(-1)  # (layers, heads, n-1), nats
    return (H / np.log(np.arange(2, A.shape[2] + 1))).mean(-1)


# --- lesions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What is left without the top k heads, and without k others.

    recall, loss: without the top heads; other_recall, other_loss: means over `draws` random choices
    among the other heads (None where fewer than k are left). difference: recall without the others
    minus recall without the top ones, paired over the needles. loss: nats a token on the model's own
    samples, None for the toy models, which continue nothing but their task.
    """

    k: int
    heads: list[tuple[int, int]]
    recall: Mean
    loss: float | None
    other_recall: Mean | None
    other_loss: float | None
    difference: Difference | None

    def as_dict(self) -> dict[str, Any]:
        parts = {
            name: None if (value := getattr(self, name)) is None else value.as_dict()
            for name in ("recall", "other_recall", "difference")
        }
        losses = {"loss": self.loss, "other_loss": self.other_loss}
        return {"k": self.k, "heads": self.heads} | losses | parts


@dataclass(frozen=True)
class Ablation:
    """Recall (and loss) with all heads, then without k of them for several k."""

    kind: str
    whole: Mean
    loss: float | None
    costs: list[Cost]
    draws: int
    everywhere: bool
    same_layers: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "ranked_by": self.kind,
            "where": "prompt and answer" if self.everywhere else "answer",
            "others_from": "the same layers" if self.same_layers else "all layers",
            "draws": self.draws,
            "recall": self.whole.as_dict(),
            "loss": self.loss,
            "without": [cost.as_dict() for cost in self.costs],
        }


def ablate(
    decoder: Decoder,
    tests: Sequence[Needle],
    scores: HeadScores,
    ks: Sequence[int] = (1, 2, 4),
    *,
    kind: str = "retrieval",
    draws: int = 3,
    everywhere: bool = False,
    same_layers: bool = False,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Ablation:
    """Flatten the k heads with the largest score of a kind, and as many others, and ask again.

    same_layers draws the others from the layers of the top heads: in a model of few layers, others
    may be the heads that the top ones build upon. The others are never top heads (the released code
    means to leave the best 100 out, but compares lists with tuples, and leaves out none).
    ValueError for k larger than the number of heads, and where there are no needle tests.
    """
    if not tests:
        raise ValueError(f"{decoder.name} has no needle tests: there is no recall to lose")
    rng, done = np.random.default_rng(seed), 0
    every = [(layer, head) for layer in range(decoder.layers) for head in range(decoder.heads)]
    chosen = {k: scores.top(k, kind) for k in ks}
    windows = [] if isinstance(decoder, CircuitDecoder) else decoder.samples(4, seed + 2)

    def ask(heads: Heads) -> tuple[np.ndarray, float | None]:
        nonlocal done
        recalls = [run(decoder, test, heads, everywhere=everywhere).recall for test in tests]
        done += 1
        if progress is not None:
            progress(min(1.0, done / (1 + len(chosen) * (1 + draws))))
        losses = [_loss(decoder, ids, heads) for ids in windows]
        return np.array(recalls), float(np.mean(losses)) if losses else None

    whole, loss = ask(())
    costs = []
    for k, top in chosen.items():
        recall, lost = ask(top)
        layers = {layer for layer, _ in top}
        rest = [h for h in every if h not in top and (not same_layers or h[0] in layers)]
        others = None
        if len(rest) >= k:
            picks = [[rest[i] for i in rng.permutation(len(rest))[:k]] for _ in range(draws)]
            others = [ask(pick) for pick in picks]
        other_recall = None if others is None else np.stack([r for r, _ in others])
        other_losses = [x for _, x in others or () if x is not None]
        costs.append(
            Cost(
                k=k,
                heads=top,
                recall=mean(recall, seed=seed),
                loss=lost,
                other_recall=None if other_recall is None else mean(other_recall, seed=seed),
                other_loss=float(np.mean(other_losses)) if other_losses else None,
                difference=None
                if other_recall is None
                else paired_test(other_recall.mean(0), recall, seed=seed),
            )
        )
    return Ablation(kind, mean(whole, seed=seed), loss, costs, draws, everywhere, same_layers)


def _loss(decoder: Decoder, ids: Int[np.ndarray, "n"], heads: Heads) -> float:
    """Nats a token, the first one given."""
    logits = decoder.logits(ids, heads)[:-1].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    chosen = logits[np.arange(len(ids) - 1), ids[1:]]
    return float((np.log(np.exp(logits).sum(-1)) - chosen).mean())


def retrieval_heads(scores: HeadScores, threshold: float = THRESHOLD) -> Bool[np.ndarray, "l h"]:
    """Heads whose retrieval score reaches the threshold."""
    return scores.retrieval >= threshold
