# ---
# minutes: 7
# ---
# %% [markdown]
# # Attention sinks, and what to do about them
# A softmax row sums to 1, whether or not there is anything worth reading. Trained decoders solve this with a
# habit: they pour the weight that has nowhere to go onto a token that means little, a full stop, the very first
# token. Such a token is called an **attention sink**. Yu et al. (*Unveiling and Harnessing Hidden Attention
# Sinks*, ICML 2024) found sinks not only at the first token but later in the text too, and report that many of
# the later ones cost accuracy. Their remedy, ACT, needs no training. It finds the columns of the attention map
# that receive too much, turns them down by a factor β, and gives the freed weight to the other keys of the row.
#
# ```math
# mₜ   = (Σₖ A[k,t]) / (n - t)                 mean of column t  (1)
# S'   = { t : mₜ > threshold }, its first element spared        (2)
# free = (1 - β) Σ over S' of A[k,t]           given back        (3)
# A'   = β A on S',  A (1 + free / rest) elsewhere            (4, 5)
# ```
#
# The divisor n - t matters: only n - t queries can see key t at all.
# %%
import numpy as np

from attnlab import lesson, registry
from attnlab.datasets.python_reference import python_reference
from attnlab.lesson import plots
from attnlab.models import language

act = registry.find("act")
lesson.source("act/reference.py")

# %% [markdown]
# ## Sinks in a real model
# The small language model of the first lesson reads reference text. For each of its heads, here is the share of
# attention that the most visited column receives.
# %%
text = lesson.text() or python_reference().validation
model = language.load()
ids = model.encode(text)[:128]
maps = model.attention_weights(ids)  # (layers, heads, n, n)
n = len(ids)
visible = n - np.arange(n)  # queries that can see each key
received = maps.sum(2) / visible  # (layers, heads, n): equation (1)
early = received[..., : n - 16]  # the last columns are means of few queries
lesson.predict(
    "A column of the last layer's maps is looked at by every later token. What does its mean weight have to beat to "
    "be above average in a text of 128 tokens?",
    ["1/128", "about 1/64", "0.1"],
    1,
    because="the rows are causal: query k spreads its weight over k + 1 keys, half of 128 on average. ACT's released threshold is 0.1, far above.",
)
# %% tags=["hide-input"]
lesson.figure(
    plots.heat(
        early.max(-1),
        [f"layer {i}" for i in range(maps.shape[0])],
        [f"head {i}" for i in range(maps.shape[1])],
        title="mean weight of the most visited column",
        low=0,
        high=max(0.2, float(early.max())),
    ),
    caption="Heads above 0.1 have a sink by the released rule. A model this small, on texts this short, has few.",
    alt="Heat map of four layers by four heads",
)

# %% [markdown]
# ## A model whose truth is known
# Real models do not tell what a token is for. So we build attention that does: 48 tokens, four classes. Eight
# tokens carry the class; token 0 and two later tokens are sinks that draw a score of 3 and 4 more than the rest.
# The answer is read off the last token's output. What the sinks *carry* is ours to choose: garbage, nothing, or
# the very answer.
# %%
N, D, CLASSES, PER_CASE = 48, 16, 4, 100 if lesson.quick() else 400
SEEDS = 1 if lesson.quick() else 3


def toy(rng, kind, strength=1.0, noise=2.5):
    """One sequence: (logits, values, label, class means). Sinks carry `kind`."""
    means = toy.means
    label = int(rng.integers(CLASSES))
    values = 1.2 * rng.standard_normal((N, D))
    semantic = rng.choice(np.arange(1, N - 1), 8, replace=False)
    sinks = rng.choice(np.setdiff1d(np.arange(8, 38), semantic), 2, replace=False)
    if kind == "useful":
        values[sinks] = means[label] + noise * rng.standard_normal((2, D))
    else:
        values[semantic] += strength * means[label]
        values[sinks] = 3 * rng.standard_normal((2, D)) if kind == "garbage" else 0.0
    logits = 0.7 * rng.standard_normal((N, N))
    logits[:, semantic] += 1.5
    logits[:, sinks] += 4
    logits[:, 0] += 3
    values[0] = 0
    return np.where(np.tri(N, dtype=bool), logits, -np.inf), values, label


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def outputs(kind, betas, seed, count, **options):
    """The last token's output for each beta (one of which is 1: untouched), and the labels."""
    rng = np.random.default_rng(seed)
    toy.means = rng.standard_normal((CLASSES, D))
    cases = [toy(rng, kind, **options) for _ in range(count)]
    A = softmax(np.stack([c[0] for c in cases]))  # (count, n, n): each sequence as one "head"
    values = np.stack([c[1] for c in cases])
    last = {
        beta: np.einsum(
            "ct,ctd->cd", act.run("calibrate", A=A, beta=beta).A_calibrated[:, -1], values
        )
        for beta in betas
    }
    return last, np.array([c[2] for c in cases])


def accuracy(kind, betas):
    """Accuracy for each beta, mean over the seeds."""
    found = []
    for seed in range(SEEDS):
        last, labels = outputs(kind, betas, lesson.seed() + seed, PER_CASE)
        found.append(
            [float(((out @ toy.means.T).argmax(-1) == labels).mean()) for out in last.values()]
        )
    return np.array(found)


# %% tags=["hide-input"]
rng = lesson.rng()
toy.means = rng.standard_normal((CLASSES, D))
logits, _, _ = toy(rng, "garbage")
A = softmax(logits)
fixed = act.run("calibrate", A=A[None], beta=0.4)
figure, (left, middle, right) = plots.subplots(1, 3, figsize=(10.5, 3.4))
plots.heat(A, title="before", low=0, high=0.5, xlabel="key", ylabel="query", ax=left)
plots.heat(fixed.A_calibrated[0], title="after, β = 0.4", low=0, high=0.5, xlabel="key", ax=middle)
hit = fixed.sink_mask[0]
right.bar(
    np.arange(N),
    fixed.column_mean[0],
    color=[plots.PALETTE[4] if s else plots.PALETTE[0] for s in hit],
)
right.axhline(0.1, color=plots.INK, linewidth=1)
right.set(title="column means and the threshold", xlabel="key")
lesson.figure(
    figure,
    caption="Bright vertical stripes are sinks. Right: the column means; orange columns are turned down, the first one "
    "above the line (token 0) is spared. The last columns are means of one or two queries and may cross the line by chance.",
    alt="Two attention maps with bright stripes, weaker in the second, and a bar chart of column means with a line at 0.1",
    terminal=lesson.heat(
        A, title="before: bright columns are sinks (rows are queries)", low=0, high=0.5
    ),
)
# %% [markdown]
# Rows still sum to 1: what the sinks lose, the others get.
# %%
print(
    "row sums",
    fixed.A_calibrated[0].sum(-1).min().round(12),
    fixed.A_calibrated[0].sum(-1).max().round(12),
)
print("calibrated columns:", np.flatnonzero(hit))

# %%
lesson.predict(
    "The sinks carry garbage. Without ACT the toy is right in 44 of 100 cases. How many with β = 0?",
    ["about 50", "about 75", "nearly all"],
    2,
    because="the eight tokens that carry the class then receive all of the weight that the garbage had.",
)
# %% [markdown]
# ## Three kinds of sinks
# %%
betas = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
garbage, empty, useful = (accuracy(kind, betas) for kind in ("garbage", "empty", "useful"))
lesson.figure(
    plots.lines(
        {
            name: (np.array(betas), rows.mean(0))
            for name, rows in (("garbage", garbage), ("nothing", empty), ("the label", useful))
        },
        xlabel="β, what is left of a sink (1: untouched)",
        ylabel="accuracy",
    ),
    caption="Turning sinks down helps when they carry garbage, does nothing when they are empty, and harms when they "
    "carry what one is looking for.",
    alt="Accuracy over beta for three kinds of sinks: one rises to 1 as beta falls, one is flat near 1, one falls",
)


def listed(rows):
    return {f"β = {b:g}": round(float(a), 3) for b, a in zip(betas, rows.mean(0))}


mean = garbage.mean(0)
# The same edit on as many random columns: removing weight at random must not help like this.
random_columns = []
for seed in range(SEEDS):
    rng = np.random.default_rng(lesson.seed() + seed)
    toy.means = rng.standard_normal((CLASSES, D))
    right_ = 0
    for _ in range(PER_CASE):
        logits, values, label = toy(rng, "garbage")
        row = softmax(logits)[-1]
        row[rng.choice(np.arange(1, N), 2, replace=False)] = 0
        right_ += int((toy.means @ (row / row.sum() @ values)).argmax() == label)
    random_columns.append(right_ / PER_CASE)
chance = float(np.mean(random_columns))
lesson.claim(
    "1",
    "Sinks that carry garbage: accuracy rises as β falls",
    expected={
        "β = 1": 0.443,
        "β = 0.8": 0.538,
        "β = 0.6": 0.661,
        "β = 0.4": 0.815,
        "β = 0.2": 0.960,
        "β = 0": 0.999,
    },
    seen=listed(garbage),
    holds=bool((np.diff(mean) > -0.02).all() and mean[-1] - mean[0] > 0.3),
    source="sheet",
    control={
        "statement": "two random columns removed instead of the sinks",
        "seen": round(chance, 3),
        "failed": chance - mean[0] < 0.3,
    },
    note="the paper reports gains of up to 7.30 % on average (Llama-30B) on real tasks; a toy exaggerates",
)
lesson.claim(
    "2",
    "Sinks that carry nothing are harmless: no gain",
    expected="0.999 throughout",
    seen=listed(empty),
    holds=bool(np.ptp(empty.mean(0)) < 0.02),
    source="sheet",
    control={
        "statement": "the same spread for garbage sinks",
        "seen": round(float(np.ptp(mean)), 3),
        "failed": np.ptp(mean) > 0.02,
    },
)
lesson.claim(
    "3",
    "Sinks that carry the label: turning them down harms",
    expected={
        "β = 1": 0.758,
        "β = 0.8": 0.756,
        "β = 0.6": 0.753,
        "β = 0.4": 0.718,
        "β = 0.2": 0.621,
        "β = 0": 0.246,
    },
    seen=listed(useful),
    holds=bool(useful.mean(0)[-1] < useful.mean(0)[0] - 0.2),
    source="sheet",
    control={
        "statement": "garbage sinks: β = 0 minus β = 1",
        "seen": round(float(mean[-1] - mean[0]), 3),
        "failed": mean[-1] > mean[0] - 0.2,
    },
)

# %% [markdown]
# ## Which heads to edit
# Not all sinks are bad, so ACT searches: edit one head at a time on a small labelled set and keep the heads for
# which accuracy rises. Our toy gets four heads whose outputs add up: two with garbage sinks, one with empty sinks,
# one whose sinks carry the label.
# %%
KINDS = [
    ("garbage", {"strength": 0.6}),
    ("garbage", {"strength": 0.6}),
    ("empty", {"strength": 0.6}),
    ("useful", {"noise": 1.0}),
]


def heads_of(seed, count):
    """Outputs of each head with and without ACT at β = 0.4: (heads, 2, count, dim), and labels."""
    means, labels = (
        np.random.default_rng(seed).standard_normal((CLASSES, D)),
        np.random.default_rng(seed + 1).integers(CLASSES, size=count),
    )
    made = []
    for index, (kind, options) in enumerate(KINDS):
        rng = np.random.default_rng((seed, index))
        toy.means = means
        rows = [one_of(rng, kind, int(label), options) for label in labels]
        A, values = softmax(np.stack([r[0] for r in rows])), np.stack([r[1] for r in rows])
        edited = act.run("calibrate", A=A, beta=0.4).A_calibrated
        made.append([np.einsum("ct,ctd->cd", m[:, -1], values) for m in (A, edited)])
    return np.array(made), labels, means


def one_of(rng, kind, label, options):
    """A toy sequence of a given label."""
    while True:
        logits, values, drawn = toy(rng, kind, **options)
        if drawn == label:
            return logits, values


def right(made, labels, means, edit):
    total = sum(made[h][int(h in edit)] for h in range(len(KINDS)))
    return float(((total @ means.T).argmax(-1) == labels).mean())


search, test = (60, 80) if lesson.quick() else (300, 400)
chosen, figures = [], []
for seed in range(SEEDS):
    made, labels, means = heads_of(1000 + lesson.seed() + seed, search + test)
    small = made[:, :, :search], labels[:search], means
    held = made[:, :, search:], labels[search:], means
    base = right(*small, edit=())
    kept = [h for h in range(len(KINDS)) if right(*small, edit=(h,)) > base]
    chosen.append(kept)
    figures.append([right(*held, edit=()), right(*held, edit=range(4)), right(*held, edit=kept)])
none, everything, searched = np.mean(figures, axis=0)
lesson.table(
    [
        [seed, ", ".join(map(str, kept)) or "none", *(f"{x:.2f}" for x in row)]
        for seed, (kept, row) in enumerate(zip(chosen, figures))
    ],
    ["seed", "heads kept", "none edited", "all edited", "searched"],
    "Held-out accuracy (head 3 carries the label in its sinks)",
)
lesson.claim(
    "4",
    "The search keeps the garbage heads, leaves the useful one, and beats editing all",
    expected={"none": "0.72–0.73", "all": "0.91–0.96", "searched": "0.96–0.99"},
    seen={
        "none": round(float(none), 2),
        "all": round(float(everything), 2),
        "searched": round(float(searched), 2),
        "kept": chosen,
    },
    holds=bool(
        searched > everything - 0.005
        and searched > none + 0.1
        and all({0, 1} <= set(k) and 3 not in k for k in chosen)
    ),
    source="sheet",
    control={
        "statement": "editing only the useful head",
        "seen": round(right(*held, edit=(3,)), 2),
        "failed": right(*held, edit=(3,)) <= figures[-1][0],
    },
    note="the empty head may or may not be kept: editing it changes little",
)
lesson.untried(
    "5",
    "13.26 % more on Hellaswag, 7.30 % on average for Llama-30B",
    reason="needs the 30-billion-parameter model",
    source="paper",
)

# %% [markdown]
# ## The paths, and what it costs
# The column means need the whole map before a single row can be edited, so one pass cannot do it: the fast path
# makes statistics first and outputs second, and never stores n × n numbers unless the maps are asked for.
# %%
lesson.compare(
    "act",
    n=128 if lesson.quick() else 256,
    **{k: v for k, v in act.headline.bench_sizes.items() if k != "batch"},
)
lesson.cost(
    "act", [128, 256, 512, 1024] if lesson.quick() else [256, 512, 1024, 2048, 4096], claimed=2.0
)

# %% [markdown]
# ## Paper versus code
# The paper says "keep the first sink". The released code drops the first *detected* column, whether or not it is
# token 0. If token 0 stays under the threshold, a real later sink is spared. Here token 0 receives little:
# %%
rng = lesson.rng()
logits = 0.3 * rng.standard_normal((24, 24))
logits[:, 0] -= 2
logits[:, 6] += 3
logits[:, 12] += 3
quirk = act.run(
    "calibrate", A=softmax(np.where(np.tri(24, dtype=bool), logits, -np.inf))[None], threshold=0.13
)
above = np.flatnonzero(quirk.column_mean[0] > 0.13)
print("above the threshold:", above, " turned down:", np.flatnonzero(quirk.sink_mask[0]))
# %% [markdown]
# ## Where it fails
# A threshold of 0.1 means less and less as texts grow: in 1000 tokens a column at 0.1 takes a hundred times its
# fair share. The paper's own form is α/n. And no threshold can tell garbage from the answer; only labels can,
# which is why the heads must be searched anew for every model and every kind of task.
# %%
lesson.exercise(
    "act",
    "Write `calibrated_attend`. Show that its rows still sum to 1, and that (5) is the same as: sinks β·a, all others "
    "a·(1 + free/rest). What would happen if you divided the row by its new sum instead?",
)
