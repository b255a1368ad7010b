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
# Nobody told the heads what to do. Feed the model the same 40 random tokens twice: nothing in the first
# half can be guessed, but all of the second half can, by whoever looks back to *what followed this token
# last time*. A head that does so is called an **induction head**.
# %%
lesson.predict(
    "The second copy begins at position 40. Where does an induction head at position 45 look?",
    [
        "at position 44, the token before",
        "at position 5, the same token",
        "at position 6, what came after it",
    ],
    2,
    because="it must find out what comes next, and that is what followed the same token last time.",
)
# %% tags=["hide-input"]
half = np.random.default_rng(lesson.seed()).choice(len(model.tokenizer), 40, replace=False)
twice = np.concatenate([half, half])
heads = model.attention_weights(twice)  # (layers, heads, n, n)
i = np.arange(40, 80)
induction = heads[:, :, i, i - 39].mean(-1)  # on what followed the token's first occurrence
previous = heads[:, :, np.arange(1, 80), np.arange(79)].mean(-1)
at = tuple(int(x) for x in np.unravel_index(induction.argmax(), induction.shape))
before = tuple(int(x) for x in np.unravel_index(previous.argmax(), previous.shape))
figure, (left, right) = plots.subplots(1, 2, figsize=(8.4, 4.0))
plots.heat(
    heads[before],
    title=f"looks at the token before: layer {before[0]}, head {before[1]}",
    xlabel="looked at",
    ylabel="reader",
    ax=left,
)
plots.heat(
    heads[at],
    title=f"induction: layer {at[0]}, head {at[1]}",
    xlabel="looked at",
    ylabel="reader",
    ax=right,
)
lesson.figure(
    figure,
    caption="Who attends to whom while 40 random tokens are read twice. Rows are readers, columns what they look at; "
    "the upper triangle is the future. The bright stripe on the right is 39 places back: what came after the same token.",
    alt="Two lower-triangular heat maps: one bright just below the diagonal, one with a bright stripe parallel to it in the second half",
    terminal=lesson.heat(
        heads[at],
        title=f"induction head: layer {at[0]}, head {at[1]} (rows read, columns are read)",
    ),
)
# %% [markdown]
# On real text the heads show milder habits. Here is the share of attention that each head of the model
# spends on the token before it, and, inside a word, on the token that began the word.
# %% tags=["hide-input"]
scores = head_scores(model, text, n=min(256, len(tokens)), seed=lesson.seed())
names = [f"head {h}" for h in range(scores.previous.shape[1])]
layers = [f"layer {l}" for l in range(scores.previous.shape[0])]
figure, axes = plots.subplots(1, 3, figsize=(9.6, 2.8))
for ax, (title, values) in zip(
    axes,
    {
        "token before": scores.previous,
        "start of the word": scores.word_start,
        "induction": scores.induction,
    }.items(),
):
    plots.heat(values, layers, names, title=title, low=0, high=1, ax=ax)
lesson.figure(
    figure,
    caption="Share of attention spent on three kinds of places. Induction was measured on random tokens read twice.",
    alt="Three small heat maps of layers by heads, one for each kind of place",
    terminal=lesson.heat(
        scores.word_start,
        layers,
        names,
        title="share of attention on the start of the word",
        low=0,
        high=1,
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
# **4. Induction heads are what copies.** Silence the heads with the highest induction score while the random
# tokens are read a second time, and compare with silencing as many others.
# %%
ranked = [divmod(int(x), induction.shape[1]) for x in np.argsort(-induction.ravel())]
copying, others = ranked[:2], ranked[-2:]


def repeat_loss(silent):
    """Nats per token over the second copy, with some heads' outputs set to zero."""
    import torch

    def without(layer):
        def attend(q, k, v):
            out = language.causal_attention(q, k, v).clone()
            for l, h in silent:
                if l == layer:
                    out[:, h] = 0
            return out

        return attend

    with torch.no_grad():
        logits = model(torch.as_tensor(twice), {l: without(l) for l in range(len(model.blocks))})
    chosen = torch.log_softmax(logits[39:79], -1)[torch.arange(40), torch.as_tensor(twice[40:80])]
    return float(-chosen.mean())


whole, broken, control = repeat_loss([]), repeat_loss(copying), repeat_loss(others)
lesson.claim(
    "4",
    "Without its two strongest induction heads the model no longer copies",
    expected="loss on the second copy rises",
    seen={"all heads": round(whole, 2), "without induction heads": round(broken, 2)},
    holds=broken > whole + 0.5,
    source="unverified",
    control={
        "statement": "two other heads silenced",
        "seen": round(control, 2),
        "failed": control < whole + (broken - whole) / 2,
    },
    note="the idea is from Olsson et al. 2022, on far larger models; a loss of log 1024 = 6.93 is guessing",
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
