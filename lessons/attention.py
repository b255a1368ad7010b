# ---
# minutes: 8
# ---
# %% [markdown]
# # Attention: every token may ask every other
# A language model reads one token at a time and must guess the next. To guess well it has to look
# back: which earlier word does this one continue, where did this phrase stand before? A recurrent
# network squeezes the past into one vector. *Attention* keeps all of it and, at each position, asks.
#
# Position i sends a **query** qᵢ. Every earlier position j holds up a **key** kⱼ, and the better the
# two match, the more of j's **value** vⱼ flows to i:
#
# ```math
# Sᵢⱼ  = qᵢ · kⱼ / √dim                     the score, hidden (-∞) where j lies in the future
# Aᵢⱼ  = exp(Sᵢⱼ) / Σⱼ exp(Sᵢⱼ)             a row of weights that sums to 1
# outᵢ = Σⱼ Aᵢⱼ vⱼ                          an average of the values
# ```
#
# The mechanism is from Vaswani et al., *Attention Is All You Need* (NeurIPS 2017), section 3.2. This
# lesson looks into the heads of a small transformer that was trained on the reference text of the
# Python language (it ships with every Python; `--text FILE` reads a text of yours instead, `--train`
# trains a model anew).
# %%
import numpy as np

from attnlab import lesson, registry
from attnlab.datasets.python_reference import python_reference
from attnlab.lesson import plots
from attnlab.models import language
from attnlab.models.heads import head_scores

attention = registry.find("attention")
lesson.source("attention/reference.py")

# %% [markdown]
# ## A model that reads
# Four layers of four heads each, 32 numbers wide. A token is a frequent piece of text (a space shows
# as `·`).
# %%
text = lesson.text() or python_reference().validation
if lesson.train():
    corpus = lesson.text() or python_reference().train
    limit = 8 if lesson.quick() else 40
    with lesson.progress("training") as done:
        model = language.train(
            corpus,
            seed=lesson.seed(),
            seconds=limit,
            progress=lambda p: done(min(p.seconds / limit, 1.0)),
        )
else:
    model = language.load()
bits = model.loss(text[:6000]) / np.log(2)
tokens = model.tokens(text)
print(f"{bits:.2f} bits per byte on this text; it begins: {' '.join(tokens[:12])}")

# %% [markdown]
# ## What do heads look at?
# Nobody told the heads what to do. Three habits are easy to recognise: to look at the token before, at the token
# that began the word, at the line break that began the line.
# %%
lesson.predict(
    "Sixteen heads, trained only to guess the next token. How alike will they be?",
    [
        "all look mostly at the token before",
        "each finds a habit of its own",
        "all spread their attention evenly",
    ],
    1,
    because="their values add up, so that a head which repeats another is of no use. Some, though, stay diffuse.",
)
# %% tags=["hide-input"]
scores = head_scores(model, text, n=min(256, len(tokens)), seed=lesson.seed())
habits = {
    "token before": scores.previous,
    "start of the word": scores.word_start,
    "start of the line": scores.line_start,
}
habits = {name: share for name, share in habits.items() if not np.isnan(share).any()}
names = [f"head {h}" for h in range(scores.previous.shape[1])]
layers = [f"layer {l}" for l in range(scores.previous.shape[0])]
figure, axes = plots.subplots(1, len(habits), figsize=(3.3 * len(habits), 2.8), squeeze=False)
for ax, (title, share) in zip(axes[0], habits.items()):
    plots.heat(share, layers, names, title=title, low=0, high=1, ax=ax)
strongest = max(habits, key=lambda name: habits[name].max())
lesson.figure(
    figure,
    caption="Share of attention that each head spends on each kind of place, while the model reads this text.",
    alt="Small heat maps of layers by heads, one for each kind of place",
    terminal=lesson.heat(
        habits[strongest],
        layers,
        names,
        title=f"share of attention on: {strongest}",
        low=0,
        high=1,
    ),
)
# %% [markdown]
# Two heads at work. Rows are readers, columns what they look at; the upper triangle is the future.
# %% tags=["hide-input"]
maps = model.attention_weights(model.encode(text)[: min(96, len(tokens))])
chosen = list(habits)[:2] if len(habits) < 3 else ["token before", "start of the line"]
places = [
    tuple(int(x) for x in np.unravel_index(habits[name].argmax(), habits[name].shape))
    for name in chosen
]
figure, axes = plots.subplots(1, 2, figsize=(9.0, 4.0))
for ax, name, (l, h) in zip(axes, chosen, places):
    plots.heat(
        maps[l, h],
        title=f"{name}: layer {l}, head {h}",
        xlabel="looked at",
        ylabel="reader",
        high=1,
        ax=ax,
    )
lesson.figure(
    figure,
    caption="Who attends to whom over the first tokens of the text. A stripe below the diagonal is the token before; "
    "vertical bars are places that everything after them looks at, here the line breaks.",
    alt="Two lower-triangular heat maps, one with a diagonal stripe, one with vertical bars",
    terminal=lesson.heat(
        maps[places[-1]],
        title=f"{chosen[-1]}: layer {places[-1][0]}, head {places[-1][1]} (rows read, columns are read)",
    ),
)
# %% tags=["hide-input"]
shown = min(16, len(tokens))
layer, head = (
    int(x) for x in np.unravel_index(np.nanargmax(scores.word_start), scores.word_start.shape)
)
window = model.attention_weights(model.encode(text)[:shown])[layer, head]
labels = tokens[:shown]
lesson.figure(
    plots.heat(
        window,
        labels,
        labels,
        title=f"layer {layer}, head {head} reads",
        xlabel="looked at",
        ylabel="reader",
    ),
    caption="One head on the first tokens of the text, word by word: a row tells where that token's information comes from.",
    alt="Lower-triangular heat map with tokens on both axes",
)

# %% [markdown]
# ## The same numbers on every path
# attnlab computes the mechanism four times: NumPy to read, Numba for the CPU, Numba CUDA, PyTorch to
# differentiate. They get the queries, keys and values that really enter layer 1 while the model reads.
# %%
n = min(512 if lesson.quick() else 1024, len(tokens))
real = model.attention_inputs(text, layer=1, n=n)
lesson.compare("attention", inputs={**real, "causal": True})


# %% [markdown]
# If a path is right, the model must not notice which one it runs on.
# %%
def on_numba(q, k, v):
    return attention.run(backend="numba", q=q, k=k, v=v, causal=True).out


excerpt = text[:2000]
fused, ours = model.loss(excerpt), model.loss(excerpt, on_numba)
print(
    f"loss with torch's kernel {fused:.6f}, with attnlab's {ours:.6f} nats per byte; difference {abs(fused - ours):.1e}"
)

# %% [markdown]
# ## What it costs
# Every pair of positions is compared: n² of them, or half as many under a causal mask.
# %%
lesson.predict(
    "Twice as many tokens: how much longer does attention take?",
    ["twice", "about four times", "eight times"],
    1,
    because="the score matrix has n² entries. Short texts hide it: there, fixed costs dominate.",
)
sizes = [256, 512, 1024, 2048] if lesson.quick() else [512, 1024, 2048, 4096, 8192]
grown = lesson.cost("attention", sizes, claimed=2.0, causal=True, heads=8, dim=64, batch=1)
# %% [markdown]
# The square is what the other exhibits set out to remove. Some look at few keys (sparse), some keep a
# state of fixed size (linear), some do away with queries and keys (mixers).
# %%
rows = []
for exhibit in registry.exhibits():
    cost = exhibit.headline.cost
    if cost and cost.grows == "tokens":
        rows.append([exhibit.name, exhibit.family, cost.time, f"{cost.exponent:g}"])
lesson.table(rows, ["exhibit", "family", "time", "exponent in n"], "What each card claims")

# %% [markdown]
# ## Claims of the paper, re-created
# **1. Why divide by √dim?** The paper suspects (section 3.2.1) that for wide keys the dot products grow
# large and push the softmax to where its gradients are tiny: the dot product of two vectors with
# independent entries of variance 1 has variance dim.
# %%
rng = lesson.rng()
widths = np.array([4, 16, 64, 256, 1024])
raw, scaled, gradient = [], [], []
for dim in widths:
    q, k = rng.standard_normal((2, 200, dim))
    s = q @ k.T
    raw.append(s.var())
    scaled.append((s / np.sqrt(dim)).var())
    A = np.exp(s - s.max(-1, keepdims=True))
    A /= A.sum(-1, keepdims=True)
    gradient.append((A * (1 - A)).sum(-1).mean())  # trace of the softmax's Jacobian: 0 is saturated


def slope(values):
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])


lesson.figure(
    plots.lines(
        {
            "scores q·k": (widths.astype(float), np.array(raw)),
            "scores / √dim": (widths.astype(float), np.array(scaled)),
        },
        logx=True,
        logy=True,
        xlabel="dim",
        ylabel="variance",
    ),
    caption="The variance of a dot product grows with its width; divided by √dim it stays at 1.",
    alt="Log-log plot: the variance of raw scores rises along slope 1, that of scaled scores is flat",
)
lesson.claim(
    "1",
    "The variance of a dot product of independent entries is dim",
    expected="slope 1 of log variance over log dim",
    seen=f"slope {slope(raw):.2f}",
    holds=abs(slope(raw) - 1) < 0.1,
    source="paper",
    control={
        "statement": "the same slope for scores divided by √dim",
        "seen": f"slope {slope(scaled):.2f}",
        "failed": abs(slope(scaled) - 1) > 0.5,
    },
)
lesson.claim(
    "1b",
    "Without the scale a wide softmax saturates: its gradient shrinks",
    expected="falls with dim",
    seen={f"dim {d}": round(float(g), 3) for d, g in zip(widths, gradient)},
    holds=gradient[-1] < gradient[0] / 2,
    source="paper",
    note="the paper only suspects this; the figure is the trace of the softmax's Jacobian, 0 when one weight is 1",
)
# %% [markdown]
# **2. Quadratic cost** (Table 1 of the paper: O(n² · d) a layer). The control is the mechanism of
# another exhibit on the same sizes, measured in the same way.
# %%
other = (
    lesson.cost("lightning", sizes, claimed=1.0, heads=8, dim=64, batch=1)
    if "lightning" in registry.names()
    else None
)
fit = grown["exponent"]["numba"][0]
linear = other["exponent"]["numba"][0] if other else float("nan")
lesson.claim(
    "2",
    "Time grows with the square of the length",
    expected="exponent 2",
    seen=f"exponent {fit:.2f}",
    holds=abs(fit - 2) < 0.35,
    source="paper",
    control={
        "statement": "linear attention at the same sizes",
        "seen": f"exponent {linear:.2f}",
        "failed": abs(linear - 2) > 0.35,
    },
    note="short inputs pull the exponent below 2: fixed costs do not grow",
)
# %% [markdown]
# **3. Attention has no sense of order** (section 3.5: without recurrence or convolution, positions must be
# put in). Shuffle the tokens, and the outputs are shuffled in the same way.
# %%
x = attention.headline.sample(64, seed=lesson.seed())
order = lesson.rng().permutation(64)
mixed = {name: a[:, :, order] for name, a in x.items()}


def disorder(**options):
    straight = attention.run(**x, **options).out[:, :, order]
    return float(np.abs(straight - attention.run(**mixed, **options).out).max())


lesson.claim(
    "3",
    "Shuffled inputs give shuffled outputs",
    expected="no difference",
    seen=f"largest difference {disorder():.1e}",
    holds=disorder() < 1e-12,
    source="paper",
    control={
        "statement": "with a causal mask, which knows what is earlier",
        "seen": f"{disorder(causal=True):.1e}",
        "failed": disorder(causal=True) > 1e-3,
    },
)
# %% [markdown]
# **4. Heads learn different tasks** (section 4: the authors see it in pictures of theirs). Here as a number: how
# much attention does the most specialised head spend on one kind of place, in the trained model and in the same
# model before training?
# %%
import torch

torch.manual_seed(lesson.seed())
untrained = language.LanguageModel(model.tokenizer, model.configuration).eval()
before = head_scores(untrained, text, n=min(256, len(tokens)), seed=lesson.seed())


def most_specialised(scores):
    kinds = (scores.previous, scores.word_start, scores.line_start)
    return float(max(share.max() for share in kinds if not np.isnan(share).any()))


trained_share, untrained_share = most_specialised(scores), most_specialised(before)
lesson.claim(
    "4",
    "Trained heads specialise",
    expected="one head does one thing",
    seen=f"{trained_share:.0%} of a head's attention on one kind of place",
    holds=trained_share > 0.3,
    source="paper",
    control={
        "statement": "the same model before training",
        "seen": f"{untrained_share:.0%}",
        "failed": untrained_share < 0.3,
    },
    note="places: the token before, the start of the word, the start of the line. The paper shows heads of a "
    "translation model that follow grammar; a model this small finds layout",
)
lesson.untried(
    "5",
    "28.4 BLEU on WMT 2014 English to German",
    reason="needs 4.5 million sentence pairs and days of training",
    source="paper",
)

# %% [markdown]
# ## Where it fails
# A softmax row must always spend its whole weight, even when nothing is worth reading; trained models
# park it on a token that carries nothing (an *attention sink*, the subject of `act`). And a text of 16
# thousand tokens has 268 million pairs a head, of which a few thousand matter. The lessons on
# `landmark`, `routing` and `hyper_attention` look for those, `lightning` and `based` do without them.
# %%
lesson.exercise(
    "attention",
    "Write `attend(q, k, v, mask, bias, causal, scale)` for NumPy arrays. It has to hold for grouped heads, for rows that "
    "see nothing, and for scores of a hundred and more. `attnlab show attention` tells the shapes.",
)
