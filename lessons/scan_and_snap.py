# ---
# minutes: 7
# ---
# %% [markdown]
# # Scan and snap: how attention forms
# Where does a trained attention pattern come from? Tian et al. (*Scan and Snap*, NeurIPS 2023) take the smallest
# transformer in which the question makes sense. One attention layer; the query is the last token m; no positions;
# the attention output is divided by its length and decoded linearly into the next token n. For this model the whole
# course of training can be written down.
#
# ```math
# c_l = P(l | m,n) exp(z_ml) / Σ        the share of token l in the attention, given the fact (m, n)   (6)
# f   = c / ‖c‖,   α = softmax(Yᵀ f)    what the decoder predicts
# dY  = η_Y E[ f (e_n - α)ᵀ ]           the decoder learns                                            (7)
# dz_m = η_Z E[ diag(c)(I - 1cᵀ)(I - ffᵀ)/‖c‖ · Y (e_n - α) ]   the attention learns                  (8)
# ```
#
# Every fact "after m comes n" has keys that come with it. **Common** tokens come with many next tokens,
# **distinct** tokens with one only. The paper's story has two acts. First attention *scans*: common tokens lose,
# distinct tokens gain, the more often they occur the faster. Then it *snaps*: the decoder fits, the gradient dies,
# and what stands is frozen.
# %%
import numpy as np
from scipy.stats import spearmanr

from attnlab import lesson, registry
from attnlab.lesson import plots

exhibit = registry.find("scan_and_snap")
lesson.source("attnlab.mechanisms.training.scan_and_snap.reference.population_train")

# %% [markdown]
# ## The facts
# Two last tokens, one next token each; ten common keys and ten distinct keys a fact, of which the most frequent
# occurs ten times as often as the least.
# %%
PLAIN = {"num_common": 10, "num_common_per_last": 0, "num_unique_per_next": 10}


def facts(num_last, num_next):
    made = exhibit.run("facts", num_last=num_last, num_next_per_last=num_next, **PLAIN)
    return {"fact_probs": made.fact_probs, "fact_last": made.fact_last, "fact_next": made.fact_next}


def momentum_train(facts, steps, eta_y=1.0, eta_z=1.0, momentum=0.9, normalize=True):
    """Equations (6)–(8) with momentum, as the authors' figures were made (their code; the paper has gradient flow).

    Returns c before each step and after the last (steps + 1, facts, M), and the largest |dz| of each step.
    """
    P, last, following = facts["fact_probs"], facts["fact_last"], facts["fact_next"]
    F, M = P.shape
    Y, Z, vY, vZ = (np.zeros((M, M)) for _ in range(4))
    history, moved = [], []
    for _ in range(steps + 1):
        e = P * np.exp(Z[last])
        c = e / e.sum(1, keepdims=True)  # (facts, M)
        history.append(c)
        norm = np.linalg.norm(c, axis=1, keepdims=True) if normalize else np.ones((F, 1))
        f = c / norm
        logits = f @ Y
        alpha = np.exp(logits - logits.max(1, keepdims=True))
        alpha /= alpha.sum(1, keepdims=True)
        error = np.eye(M)[following] - alpha
        back = error @ Y.T  # gradient at f
        if normalize:
            back = (back - f * (f * back).sum(1, keepdims=True)) / norm
        dz = c * (back - (c * back).sum(1, keepdims=True))
        dZ = np.zeros((M, M))
        np.add.at(dZ, last, dz / F)
        vY, vZ = momentum * vY + f.T @ error / F, momentum * vZ + dZ
        Y, Z = Y + eta_y * vY, Z + eta_z * vZ
        moved.append(float(np.abs(eta_z * vZ).max()))
    momentum_train.Z = Z
    return np.array(history), np.array(moved)


two = facts(2, 1)
# The hand-written loop with momentum 0 is the exhibit's `population_train`.
check, _ = momentum_train(two, 14, momentum=0.0)
exact = exhibit.run("population_train", steps=15, **two).c_history
print(f"momentum 0 agrees with the exhibit: largest difference {np.abs(check - exact).max():.1e}")

# %% [markdown]
# ## Scan
# %%
lesson.predict(
    "At the start the common tokens hold 64 % of the attention. After training?",
    ["they still do", "about 40 %", "nothing is left"],
    1,
    because="they lose, because they do not tell which token comes next. But the gradient dies before they are gone.",
)
history, moved = momentum_train(two, 100)
Z = momentum_train.Z
c = history[:, 0]  # of the first fact
common, distinct = np.arange(10), np.arange(10, 20)
# %% tags=["hide-input"]
figure, (left, right) = plots.subplots(1, 2, figsize=(9.4, 3.6))
plots.heat(
    c[:, :20].T,
    title="share of attention, token by step",
    xlabel="step",
    ylabel="key token",
    ax=left,
)
left.axhline(9.5, color=plots.PAPER, linewidth=1.5)
left.set_aspect("auto")
steps = np.arange(101.0)
plots.lines(
    {
        "all common": (steps, c[:, common].sum(1)),
        "most frequent distinct": (steps, c[:, 19]),
        "least frequent distinct": (steps, c[:, 10]),
    },
    xlabel="step",
    ylabel="share",
    ax=right,
)
lesson.figure(
    figure,
    caption="Above the line the ten common tokens: they fade. Below it the distinct ones, the most frequent at the "
    "bottom: it gains most. After fifty steps nothing moves any more.",
    alt="Heat map of twenty tokens over a hundred steps, and three lines: the common tokens' share falls, the most frequent distinct token's rises, then all are flat",
    terminal=lesson.heat(
        c[::4, :20].T,
        title="share of attention: rows are tokens (10 common, then 10 distinct), columns steps",
    ),
)
at = [0, 10, 20, 50, 100]
seen = {
    "common": [round(float(c[s, common].sum()), 3) for s in at],
    "most frequent": [round(float(c[s, 19]), 4) for s in at],
    "least frequent": [round(float(c[s, 10]), 4) for s in at],
}
rank = float(spearmanr(Z[two["fact_last"][0], distinct], two["fact_probs"][0, distinct]).statistic)
# Control: facts whose "distinct" keys are common to both facts, so that no key tells anything.
blurred = dict(
    two, fact_probs=np.tile(two["fact_probs"].mean(0), (2, 1)), fact_last=np.zeros(2, int)
)
blind, _ = momentum_train(blurred, 100)
lost = float(blind[0, 0, common].sum() - blind[-1, 0, common].sum())
lesson.claim(
    "1",
    "Common tokens lose, distinct tokens gain in the order of their frequency",
    expected={
        "common": [0.645, 0.564, 0.461, 0.406, 0.403],
        "most frequent": [0.0645, 0.0925, 0.135, 0.161, 0.162],
        "least frequent": [0.0065, 0.0065, 0.0063, 0.0060, 0.0060],
    },
    seen=seen | {"rank correlation of score and frequency": round(rank, 3)},
    holds=bool(
        c[100, common].sum() < c[0, common].sum() - 0.1
        and c[100, 19] > 2 * c[0, 19]
        and rank > 0.95
    ),
    source="sheet",
    control={
        "statement": "what common tokens lose when no key tells the facts apart",
        "seen": round(lost, 3),
        "failed": lost < 0.1,
    },
    note="the paper shows this as figure 4; steps 0, 10, 20, 50, 100, both learning rates 1, momentum 0.9",
)
# %% [markdown]
# ## Snap
# %%
quick = lesson.quick()
slow_steps = 1000 if quick else 10000
slow = exhibit.run("population_train", backend="numba", steps=slow_steps, **two)
late = slow.c_history[-1, 0]
entropy = float(-(late[late > 0] * np.log(late[late > 0])).sum())
marks = [0, 5, 10, 20, 30, 50, 80]
pace = [round(float(moved[s]), 4) for s in marks]
lesson.claim(
    "2",
    "Then the scores freeze, and attention is sparse but not one-hot",
    expected={
        "largest |dz| at steps 0, 5, 10, 20, 30, 50, 80": [
            0,
            0.049,
            0.061,
            0.023,
            0.008,
            0.001,
            "< 1e-4",
        ],
        "entropy of c at the end": 2.85,
    },
    seen={"largest |dz|": pace, f"entropy of c after {slow_steps} plain steps": round(entropy, 2)},
    holds=bool(moved[80] < 1e-3 and max(moved) > 0.03 and entropy > 2.0),
    source="sheet",
    control={
        "statement": "largest |dz| at its peak, against 1e-3",
        "seen": round(max(moved), 3),
        "failed": max(moved) > 1e-3,
    },
    note="a one-hot attention would have entropy 0. The theorem (growth slows from log t to log log t at t ≈ 2 ln M / η_Y) is recalled, not checked here",
)


# %% [markdown]
# ## Who learns faster?
# The paper assumes that the decoder learns faster than the attention. The ratio of the learning rates then decides
# how far attention gets before the gradient dies: the faster the decoder, the more tokens keep a share.
# %%
def final_entropy(facts, eta_y, eta_z):
    rows = momentum_train(facts, 100, eta_y, eta_z)[0][-1]
    return float(np.mean([-(c[c > 0] * np.log(c[c > 0])).sum() for c in rows]))


ratios = [1, 2, 5, 10, 20]
one, five = facts(1, 2), facts(5, 2)
grid = {
    "1 last token, η_Z = 1": [final_entropy(one, r, 1.0) for r in ratios],
    "1 last token, η_Z = 2": [final_entropy(one, 2.0 * r, 2.0) for r in ratios],
    "5 last tokens, η_Z = 1": [final_entropy(five, r, 1.0) for r in ratios],
}
lesson.figure(
    plots.lines(
        {k: (np.array(ratios, float), np.array(v)) for k, v in grid.items()},
        logx=True,
        xlabel="η_Y / η_Z",
        ylabel="entropy of c (nats)",
    ),
    caption="From a ratio of 2 upwards the attention stays the softer the faster the decoder learns.",
    alt="Three lines of entropy over the ratio of learning rates, rising from ratio 2",
)
rising = all(np.all(np.diff(v[1:]) > 0) for v in grid.values())
first, second = grid["1 last token, η_Z = 1"], grid["1 last token, η_Z = 2"]
softer = np.mean(first) > np.mean(second)
still = [final_entropy(one, r, 1e-9) for r in ratios]
lesson.claim(
    "3",
    "The entropy of the attention rises with η_Y/η_Z and falls with η_Z",
    expected={
        "1 last token, η_Z = 1": [2.740, 2.821, 2.885, 2.899, 2.907],
        "1 last token, η_Z = 2": "2.587 … 2.902",
        "5 last tokens, η_Z = 1": [2.688, 2.653, 2.775, 2.846, 2.885],
    },
    seen={k: [round(x, 3) for x in v] for k, v in grid.items()},
    holds=bool(rising and softer),
    source="sheet",
    control={
        "statement": "attention that does not learn: spread over the ratios",
        "seen": float(np.ptp(still)),
        "failed": bool(np.ptp(still) < 1e-3),
    },
    note="the paper's figure 6; ratios 1, 2, 5, 10, 20. The fall with η_Z is judged by the mean over the ratios",
)
lesson.untried(
    "4",
    "On WikiText, the entropy of a one-layer model's attention first falls, then flattens",
    reason="a training run longer than a lesson",
)

# %% [markdown]
# ## With samples instead of expectations
# Real training sees batches. The exhibit's `train` is the authors' loop: 128 sequences of 128 tokens a step,
# momentum 0.9.
# %%
batches, length, steps = (32, 64, 60) if quick else (128, 128, 100)
rng = lesson.rng()
M = two["fact_probs"].shape[1]
which = rng.integers(0, 2, (steps, batches))
draws = np.stack([rng.choice(M, (steps, batches, length - 1), p=p) for p in two["fact_probs"]])
keys = np.take_along_axis(draws, which[None, ..., None], axis=0)[0]
x = np.concatenate([keys, two["fact_last"][which][..., None]], axis=-1)
trained = exhibit.run(
    "train",
    backend="numba",
    x=x,
    label=two["fact_next"][which],
    M=M,
    fact_probs=two["fact_probs"],
    fact_last=two["fact_last"],
)
lesson.table(
    [
        [
            "expectation",
            f"{history[min(steps, 100), 0, common].sum():.3f}",
            f"{history[min(steps, 100), 0, 19]:.3f}",
        ],
        ["batches", f"{trained.c[0, common].sum():.3f}", f"{trained.c[0, 19]:.3f}"],
    ],
    ["trained on", "common tokens", "most frequent distinct"],
    f"Shares of attention after {steps} steps",
)
# %% [markdown]
# ## Paths and cost
# One step costs as much as the tokens it reads: with a single query the attention is linear in the length.
# %%
lesson.compare("scan_and_snap", n=512)
lesson.cost(
    "scan_and_snap",
    [512, 2048, 8192, 32768] if quick else [512, 2048, 8192, 32768, 131072],
    claimed=1.0,
)
# %% [markdown]
# ## Where it fails
# No positions, one layer, one query, and facts in which the next token can be read off the keys alone: last token m
# only selects a row of scores. What happens when two layers train together is not said.
# %%
lesson.exercise(
    "scan_and_snap",
    "Derive (4) and check it by finite differences. Show that adding a constant to a row of K2 changes nothing, so that "
    "each row of its gradient sums to 0. Then leave the normalisation out and compare.",
)
