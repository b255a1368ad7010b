# ---
# minutes: 10
# ---
# %% [markdown]
# # A song of (dis)agreement: who judges the judges?
# A model says that a review is positive. *Which words made it say so?* Attention gives an answer for free: the
# weights of the words it looked at. Around 2019 several papers took that answer to court. Their evidence: attention
# **ranks the words differently** than other attribution methods do. Little agreement, so attention is not an
# explanation.
#
# Neely, Schouten, Bleeker and Lucic (*A Song of (Dis)agreement*, HHAI 2022) put the evidence itself on trial. If the
# other methods do not agree among themselves, then disagreeing with one of them proves nothing.
#
# The yardstick is Kendall's rank correlation. Take every pair of words: the two methods either order it alike
# (concordant, C) or oppositely (discordant, D), or one of them gives both words the same score (T).
#
# ```math
# τ = (C − D) / √((C + D + Tₐ)(C + D + T_b))
#     1: same order   0: unrelated   −1: reversed
# ```
# %%
from functools import cache

import numpy as np
import torch

from attnlab import lesson, registry
from attnlab.datasets.synthetic import polar_words
from attnlab.explain import explain
from attnlab.explain.agreement import kendall_taus
from attnlab.explain.plausibility import auprc
from attnlab.kernels.cpu.product import product
from attnlab.lesson import plots
from attnlab.models.bilstm import BiLSTM, Configuration
from attnlab.models.classifier import Encoded
from attnlab.models.text_transformer import Configuration as TransformerConfiguration
from attnlab.models.text_transformer import TextTransformer
from attnlab.models.words import Vocabulary

torch.set_num_threads(1)  # matrices this small do not gain from a second thread
disagreement = registry.find("disagreement")
lesson.source("attnlab.mechanisms.explanation.disagreement.ranks.tau_b")

# %% [markdown]
# ## A language in which the answer is known
# Real reviews have no answer key. So here is a language of 200 words: 20 are positive, 20 negative, 160 mean nothing.
# A text of 8 to 20 random words (12 in a quick run) is positive if it has more positive words than negative ones.
# Two small models learn it: a **BiLSTM with additive attention**, as in the paper, and a **transformer** of two layers.
# %%
seeds = [lesson.seed() + i for i in range(1 if lesson.quick() else 3)]
rows, epochs, explained = (1600, 5, 30) if lesson.quick() else (2000, 8, 100)
size, rate = (80, 1.5e-2) if lesson.quick() else (50, 5e-3)  # a quick run: fewer steps, larger ones
longest, held = (
    (12, 1000) if lesson.quick() else (20, 2000)
)  # and shorter texts: an LSTM's work is its steps
vocabulary = Vocabulary(f"w{i}" for i in range(200))


class Uniform(BiLSTM):
    """The BiLSTM with its attention switched off: every word weighs the same."""

    def attention(self, h, mask):
        return mask / mask.sum(1, keepdim=True)


def build(kind):
    labels = ("negative", "positive")
    if kind == "transformer":
        return TextTransformer(vocabulary, labels, TransformerConfiguration(32, 2, 2, 64, 0.1))
    made = BiLSTM if kind == "BiLSTM" else Uniform
    return made(vocabulary, labels, Configuration(width=16, hidden=16, dropout=0.2))


# %% tags=["hide-input"]
def batch(model, data, chosen):
    """Ids with the model's leading tokens, mask and labels of the chosen rows."""
    lead = [model.vocabulary.ids[t] for t in model.leading]
    mask = np.pad(data.mask[chosen], ((0, 0), (len(lead), 0)), constant_values=True)
    ids = np.where(data.mask[chosen], data.tokens[chosen] + len(model.vocabulary) - 200, 0)
    ids = np.hstack([np.tile(np.array(lead, int), (len(chosen), 1)), ids])
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(data.labels[chosen])


def trained(kind, data, seed):
    """A model after `epochs` passes over the data in batches of `size`."""
    torch.manual_seed(seed)
    model = build(kind)
    adam = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(data.labels)).numpy().reshape(-1, size):
            ids, mask, labels = batch(model, data, chosen)
            logits = model(model.embed(ids, mask), mask)
            adam.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            adam.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, data):
    ids, mask, labels = batch(model, data, np.arange(len(data.labels)))
    return float((model(model.embed(ids, mask), mask).argmax(1) == labels).float().mean())


kinds = ("BiLSTM", "uniform", "transformer")
tests, models = {}, {}
for seed, kind in lesson.track([(s, k) for s in seeds for k in kinds], "training"):
    rng = np.random.default_rng(seed)
    data, tests[seed] = (polar_words(rng, n, longest=longest) for n in (rows, held))
    models[seed, kind] = trained(kind, data, seed)
right = {key: accuracy(model, tests[key[0]]) for key, model in models.items()}
lesson.table(
    [[kind, *(f"{right[s, kind]:.3f}" for s in seeds)] for kind in ("BiLSTM", "transformer")],
    ["model", *(f"seed {s}" for s in seeds)],
    f"Accuracy on {held} new texts",
)

# %% [markdown]
# ## The defendants and the witnesses
# **Attention**: for the BiLSTM the weights αₜ with which it pools its states; for the transformer the *rollout*, the
# product of its layers' attention matrices, seen from the [CLS] token. Against it:
#
# ```math
# IG         (x − x') · average of ∂F/∂x on the straight way
#            from x' (padding) to x
# Grad-SHAP  the same at 5 random points of the way
# DeepLIFT   (x − x') · ∂F/∂x, with slopes for derivatives
#            at the non-linearities it can see
# LIME       a linear model of F, fitted to 200 copies of
#            the text with random words blanked out
# ```
#
# All explain the probability F of the predicted class. A word's score is the absolute value of the *sum* over its
# embedding (the absolute value taken first would be another method). A row of random numbers keeps them company.
# %% tags=["hide-input"]
NAMES = {
    "lime": "LIME",
    "integrated_gradients": "IG",
    "deep_lift": "DeepLIFT",
    "gradient_shap": "Grad-SHAP",
}


def encoded(model, data, count):
    """The first texts as the model reads them."""
    lead = [model.vocabulary.ids[t] for t in model.leading]
    texts = []
    for tokens, mask in zip(data.tokens[:count], data.mask[:count]):
        words = tokens[mask]
        ids = np.array([*lead, *(words + len(model.vocabulary) - 200)])
        place = np.array([-1] * len(lead) + list(range(len(words))))
        names = (*model.leading, *(f"w{i}" for i in words))
        texts.append(Encoded(names, ids, place < 0, place))
    return texts


def judged(model, data, seed):
    """Texts, and for each the signed scores of attention, LIME, IG, DeepLIFT, Grad-SHAP, chance (6, n)."""
    own = "rollout" if isinstance(model, TextTransformer) else "attention"
    names = [own, *NAMES, "random"]
    texts = encoded(model, data, explained)
    found = explain(model, texts, names, seed=seed, options={"lime": {"n_samples": 200}})
    return texts, [np.stack([e.attributions[m].signed for m in names]) for e in found]


scores = {
    (seed, kind): judged(models[seed, kind], tests[seed], seed)
    for seed, kind in lesson.track(
        [(s, k) for s in seeds for k in kinds if k != "uniform"], "explaining"
    )
}
methods = ["attention", *NAMES.values(), "chance"]
# %% [markdown]
# One text under all of them. Each row is scaled by its largest value; `+` and `−` mark the words that matter.
# %% tags=["hide-input"]
texts, found = scores[seeds[0], "BiLSTM"]
shown = next(i for i, t in enumerate(texts) if len(t) == 12)
ids = tests[seeds[0]].tokens[shown][:12]
words = [f"w{i}" + ("+" if i < 20 else "−" if i < 40 else "") for i in ids]
picture = np.abs(found[shown]) / np.abs(found[shown]).max(1, keepdims=True)
lesson.figure(
    plots.heat(picture, methods, words, title="BiLSTM, one text", low=0, high=1),
    caption="What each method thinks the prediction rests on. Six pictures, one text, one model.",
    alt="Heat map: a row a method, a column a word; the marked words are bright in most rows",
    terminal=lesson.heat(picture, methods, words, title="BiLSTM, one text", low=0, high=1),
)

# %% [markdown]
# ## Do they agree?
# %%
lesson.predict(
    "Five methods, ten pairs. Which pair will agree best?",
    ["attention and IG", "LIME and DeepLIFT", "IG and Grad-SHAP"],
    2,
    because="Grad-SHAP is IG with five random points instead of fifty chosen ones: the same algorithm, sampled.",
)
# %%
first, then = np.indices((6, 6)).reshape(2, -1)


def taus(kind):
    """tau of every pair of methods: (seeds, texts, 6, 6)."""
    of = [[np.abs(s) for s in scores[seed, kind][1]] for seed in seeds]
    return np.array([[kendall_taus(s[first], s[then]).reshape(6, 6) for s in some] for some in of])


tau = {kind: taus(kind) for kind in ("BiLSTM", "transformer")}
undefined = {kind: int(np.isnan(t).any((2, 3)).sum()) for kind, t in tau.items()}
mean = {kind: np.nanmean(t, axis=(0, 1)) for kind, t in tau.items()}
print(
    f"texts on which some tau is undefined (a constant row of scores), left out of means: {undefined}"
)
# %% tags=["hide-input"]
figure, axes = plots.subplots(1, 2, figsize=(11.0, 5.6))
for ax, (kind, m) in zip(axes, mean.items()):
    plots.heat(m, methods, methods, title=f"{kind}: mean τ", low=0, high=1, ax=ax)
lesson.figure(
    figure,
    caption="Mean Kendall tau of every pair of methods, BiLSTM beside transformer. The last row is chance.",
    alt="Two heat maps of six by six; the square of IG and Grad-SHAP is the brightest off the diagonal",
)
lesson.table(
    [[a, b, *(f"{mean[k][i, j]:.2f} ± {np.nanstd(tau[k][..., i, j]):.2f}" for k in mean)]
     for i, a in enumerate(methods) for j, b in enumerate(methods) if i < j < 5],
    ["method", "method", *mean],
    "Mean tau and its standard deviation over texts",
)  # fmt: skip


# %% [markdown]
# **1. The same family wins.** In every column of the paper's Tables 1 and 2, IG–Grad-SHAP is the pair that agrees best
# or second best. The test: does it agree better than attention does with anyone, for every seed? The control puts a
# row of random numbers in Grad-SHAP's place.
# %%
def family(kind, other=4):
    """Per seed: tau of IG with method `other`, and the largest entry of attention's row."""
    per_seed = np.nanmean(tau[kind], axis=1)  # (seeds, 6, 6)
    return per_seed[:, 2, other], per_seed[:, 0, 1:5].max(1)


published = {"BiLSTM": "SST-2: .9707 against .1400", "transformer": "SST-2: .4987 against .1359"}
for id, kind in (("1", "BiLSTM"), ("1b", "transformer")):
    pair, attention_row = family(kind)
    chance, _ = family(kind, other=5)
    lesson.claim(
        id,
        f"IG–Grad-SHAP agree better than attention with any method ({kind})",
        expected=published[kind],
        seen=f"{pair.mean():.2f} against {attention_row.mean():.2f}",
        holds=(pair > attention_row).all(),
        source="paper",
        control={
            "statement": "random scores in Grad-SHAP's place",
            "seen": f"{chance.mean():.2f}",
            "failed": not (chance > attention_row).all(),
        },
        note=f"{len(seeds)} seed(s), {explained} texts each of at most {longest} words, synthetic language. "
        + (
            "The paper's transformer is DistilBERT; an earlier run of ours with another small one saw .86 against .26"
            if kind == "transformer"
            else "By seed: " + ", ".join(f"{p:.2f}" for p in pair)
        ),
    )


# %% [markdown]
# **2. Attention is the odd one out.** On the paper's BiLSTM (Table 2, SST-2) attention's row lies at .11 to .14, all
# other pairs at .44 to .97. The test: of the five methods, does attention agree least with the others, on average? The
# control asks whether LIME does.
# %%
def with_others(kind):
    """Mean tau of each of the five methods with the other four."""
    return (mean[kind][:5, :5].sum(1) - 1) / 4


def single_pairs(kind):
    row, rest = mean[kind][0, 1:5].max(), mean[kind][1:5, 1:5].min()
    return f"with attention at most {row:.2f}, all others at least {rest:.2f}"


published = {
    "BiLSTM": "pairs with attention .11 to .14, all others .44 to .97",
    "transformer": "pairs with attention .05 to .14, all others .04 to .50",
}
for id, kind in (("2", "BiLSTM"), ("2b", "transformer")):
    average = with_others(kind)
    lesson.claim(
        id,
        f"Attention agrees least with the other methods ({kind})",
        expected=published[kind],
        seen=f"{single_pairs(kind)}; means {average[0]:.2f} and {average[1:].min():.2f} or more",
        holds=average[0] < average[1:].min(),
        source="paper",
        control={
            "statement": "LIME agrees least",
            "seen": f"mean {average[1]:.2f}, the others {np.delete(average, 1).min():.2f} or more",
            "failed": average[1] >= np.delete(average, 1).min(),
        },
        note="expected: SST-2 in Tables 1 and 2, Deep-SHAP included"
        + ("; a quick run: one model of each kind, short texts" if lesson.quick() else ""),
    )
# %% [markdown]
# **An open question.** On the paper's transformer the methods do not even agree with each other: IG–DeepLIFT falls from
# .8683 (BiLSTM, SST-2) to .0498 (DistilBERT). Here:
# %%
for a, b in ((2, 3), (2, 4), (1, 2)):
    pair = " and ".join((methods[a], methods[b]))
    print(
        f"{pair:18} BiLSTM {mean['BiLSTM'][a, b]:.2f}, transformer {mean['transformer'][a, b]:.2f}"
    )
# %% [markdown]
# An earlier run of ours, with another small transformer, saw the reverse (IG–DeepLIFT .53 in the transformer, .31 in the
# BiLSTM). So neither two layers nor attention as such decide it. Depth? Pre-training? The attention layer that this
# lesson comes to below? Nobody has taken it apart yet.
# %%
lesson.untried(
    "2c",
    "In DistilBERT the methods disagree among themselves (IG–DeepLIFT .0498 on SST-2 against .8683 in the BiLSTM)",
    reason="needs the fine-tuned DistilBERT; small transformers go one way or the other, depending on their training",
    source="paper",
)
lesson.untried(
    "2d",
    "DeepLIFT–Deep-SHAP .4514 (DistilBERT) and .8729 (BiLSTM) on SST-2",
    reason="with the padding token as the only baseline the two are one computation (see below); where the published "
    "difference comes from is not known",
    source="paper",
)

# %% [markdown]
# ## Low agreement, and yet both right
# Here the answer is known: the positive and negative words. Let each method name them, and measure the area under its
# precision-recall curve: 1 means that all of them rank above all meaningless words.
# %%
lesson.predict(
    "Attention's τ with the gradient methods is about a third. How well does it find the words that matter?",
    ["hardly better than chance", "half as well as IG", "about as well as IG"],
    2,
    because="τ counts all pairs of words, and most words mean nothing: their order is noise, and it dominates the sum.",
)


# %% tags=["hide-input"]
def key(kind):
    """Mean AUPRC of each method against the words that matter."""
    areas = []
    for seed in seeds:
        texts, found = scores[seed, kind]
        for text, s in zip(texts, found):
            own = ~text.special
            word = text.ids[own] - (len(vocabulary) - 200)
            areas.append([auprc(np.abs(row[own]), word < 40) for row in s])
    return np.nanmean(areas, axis=0)


quality = {kind: key(kind) for kind in mean}
lesson.figure(
    plots.bars(
        dict(zip(methods, quality["BiLSTM"])),
        title="BiLSTM: finds the words that matter (AUPRC)",
        high=1,
    ),
    caption="Area under precision and recall against the words that matter, mean over texts.",
    alt="Horizontal bars: all five methods are far above chance",
)
lesson.table(
    [[m, *(f"{quality[k][i]:.2f}" for k in quality)] for i, m in enumerate(methods)],
    ["method", *quality],
    "Area under the precision-recall curve",
)


# %% [markdown]
# **3. Alike pictures, τ near 0.** The paper opens with two heat maps that look alike and have τ = .01 (its Figure 1). The
# recipe needs no model: two score vectors that share their top three words, and independent noise elsewhere.
# %% tags=["hide-input"]
def alike(n, rng, shared=3):
    """Two score vectors of n words with the same top words in the same order."""
    a, b = 0.12 * rng.random((2, n))
    top = rng.choice(n, shared, replace=False)
    a[top] = b[top] = 1 - 0.15 * np.arange(shared)
    return a, b


pair = alike(20, lesson.rng())
between = float(kendall_taus(pair[0][None], pair[1][None])[0])
lesson.figure(
    plots.heat(
        np.stack(pair),
        ["method A", "method B"],
        range(1, 21),
        title=f"alike to the eye: τ = {between:.2f}",
        low=0,
        high=1,
    ),
    caption="Two methods that name the same three words, in the same order. The rest is noise, too faint to see.",
    alt="Two rows of twenty cells with three bright cells at the same places",
)
# %%
draws, rng = 200 if lesson.quick() else 1000, lesson.rng()
full, top = {}, {}
for n in (10, 20, 40):
    a, b = np.array([alike(n, rng) for _ in range(draws)]).swapaxes(0, 1)
    full[n] = float(kendall_taus(a, b).mean())
    top[n] = np.mean([
        disagreement.run("agreement", backend="numba", a=x, b=y, ks=[3], alphas=[1.0]).topk_p05[0]
        for x, y in zip(a[:50], b[:50])
    ])  # fmt: skip
lesson.claim(
    "3",
    "Sharing all the words one sees leaves τ low, the lower the longer the text",
    expected={"10 words": 0.54, "20 words": 0.27, "40 words": 0.14},
    seen={f"{n} words": round(t, 2) for n, t in full.items()},
    holds=full[10] > full[20] > full[40] and full[40] < 0.2,
    source="sheet",
    control={
        "statement": "top-3 Kendall (Fagin et al.) on the same vectors falls with length, too",
        "seen": {f"{n} words": round(float(t), 2) for n, t in top.items()},
        "failed": not (top[40] < 0.2),
    },
    note="by counting: three shared words decide 3 + 3(n−3) of n(n−1)/2 pairs, the rest is a coin toss: 24/45, 54/190, 114/780. "
    "The figures expected are an earlier run of ours; the paper shows one example, τ = .01",
)
# %% [markdown]
# A second trap: short texts. For unrelated rankings of n words τ has variance 2(2n+5) / 9n(n−1).
# %%
noise = {n: float(kendall_taus(*rng.random((2, 4000, n))).std()) for n in (8, 20, 60)}
by_formula = {n: (2 * (2 * n + 5) / (9 * n * (n - 1))) ** 0.5 for n in noise}
lesson.table(
    [[n, f"{noise[n]:.3f}", f"{by_formula[n]:.3f}"] for n in noise],
    ["words", "seen", "formula"],
    "Standard deviation of tau between unrelated scores",
)

# %% [markdown]
# ## Is attention needed at all?
# **4.** The paper's Table 3: a BiLSTM whose attention is replaced by a plain average loses almost nothing (SST-2: .823
# against .826; at most 0.8 points on five data sets). If attention can be switched off, what could it explain?
# %%
lesson.predict(
    "Switch the BiLSTM's attention off and train it anew. What does it cost here?",
    ["about a point of accuracy", "ten points", "it no longer learns"],
    0,
    because="the LSTM's states already hold the text; averaging them is enough.",
)
# %%
gap = 100 * np.mean([right[s, "BiLSTM"] - right[s, "uniform"] for s in seeds])
level = np.mean([right[s, k] for s in seeds for k in ("BiLSTM", "uniform")])
slack = 100 * 2 * (2 * level * (1 - level) / (held * len(seeds))) ** 0.5  # two standard errors
torch.manual_seed(seeds[0])
untrained = 100 * (right[seeds[0], "BiLSTM"] - accuracy(build("BiLSTM").eval(), tests[seeds[0]]))
lesson.claim(
    "4",
    "Uniform attention costs a BiLSTM at most about one point of accuracy",
    expected="0.3 points on SST-2, at most 0.8",
    seen=f"{gap:.1f} points (sampling error ± {slack:.1f})",
    holds=abs(gap) <= 1 + slack,
    source="paper",
    control={
        "statement": "the same model untrained",
        "seen": f"{untrained:.0f} points",
        "failed": abs(untrained) > 1 + slack,
    },
    note="by seed: "
    + ", ".join(f"{100 * (right[s, 'BiLSTM'] - right[s, 'uniform']):.1f}" for s in seeds),
)

# %% [markdown]
# ## Reading the released code
# **A matrix the wrong way round.** To report what each word *writes* (attention times the length of its value vector),
# the authors rebuilt DistilBERT's attention layer. A linear layer stores its weight as (out, in) and multiplies by the
# transpose. Their layer multiplies the values by the output projection as it is stored, and only then cuts the columns
# into heads:
#
# ```math
# standard   context = [α₁V₁ … α_HV_H] Wᵀ + b
# released   F = V W,  context = [α₁F₁ … α_HF_H] + b
# ```
#
# Pre-trained weights are copied in unchanged. `self_attend` offers both. Take the first layer of our trained
# transformer and a real text:
# %%
model, data = models[seeds[0], "transformer"], tests[seeds[0]]
ids, mask, _ = batch(model, data, np.arange(50))
with torch.no_grad():
    hidden = model.embed(ids, mask)
    layer = model.blocks[0]
    x = layer.attention_norm(hidden)
    own = layer.attention(x, mask).numpy()


def weights_of(attention):
    """A trained layer under the names of the released code."""
    parts = {
        "q": attention.query,
        "k": attention.key,
        "v": attention.value,
        "out": attention.output,
    }
    weights = {f"{n}_lin_weight": p.weight.detach() for n, p in parts.items()}
    return weights | {f"{n}_lin_bias": p.bias.detach() for n, p in parts.items()}


def rebuilt(attention, x, mask, projection):
    return disagreement.run(
        "self_attend", backend="torch", x=x, mask=mask, n_heads=attention.heads, projection=projection,
        **weights_of(attention),
    ).context  # fmt: skip


error = {
    p: float(
        np.linalg.norm(rebuilt(layer.attention, x, mask, p).numpy() - own) / np.linalg.norm(own)
    )
    for p in ("standard", "released")
}


# %%
def accuracy_with(projection):
    """The trained transformer with its attention layers computed as asked."""
    for block in model.blocks:
        block.attention.forward = lambda x, mask, a=block.attention: rebuilt(a, x, mask, projection)
    seen = accuracy(model, data)
    for block in model.blocks:
        del block.attention.forward
    return seen


kept = {p: accuracy_with(p) for p in ("standard", "released")}
lesson.claim(
    "5",
    "The released attention layer is not the layer whose weights it copies",
    expected="context = αVW in heads, not αVWᵀ",
    seen=f"differs by {error['released']:.0%} of the layer's length; accuracy {right[seeds[0], 'transformer']:.3f} → {kept['released']:.3f}",
    holds=error["released"] > 0.1,
    source="sheet",
    control={
        "statement": "the standard projection differs, too",
        "seen": f"{error['standard']:.1e}; accuracy {kept['standard']:.3f}",
        "failed": error["standard"] < 1e-4,
    },
    note="read off sfschouten/court-of-xai; the authors fine-tune afterwards, which repairs accuracy but no longer explains DistilBERT",
)
# %% [markdown]
# With one head and a symmetric matrix the two agree: a test on such a case would not have found it. (Try it.)
#
# **A DeepLIFT that sees nothing.** DeepLIFT works by replacing derivatives at the non-linearities it *knows*. An LSTM
# computes its own inside one call, and a function is no module that a hook could find. On the paper's BiLSTM, "DeepLIFT"
# is gradient × (x − padding), and Deep-SHAP with padding baselines is the same thing again. The exhibit runs the
# study's definitions on our BiLSTM:
# %%
model = models[seeds[0], "BiLSTM"]
text = texts[shown]
with torch.no_grad():
    ids, mask = torch.from_numpy(text.ids)[None], torch.ones(1, len(text), dtype=torch.bool)
    embedded, padding = model.embed(ids, mask).numpy(), model.baseline(ids, mask).numpy()
state = {k: v.detach().numpy() for k, v in model.state_dict().items()}
rng = lesson.rng()
case = {
    "embedded": embedded, "baseline": padding, "mask": mask.numpy(),
    "baselines2": np.repeat(padding, 2, axis=0),
    "shap_coefficients": rng.random(5), "shap_choice": rng.integers(0, 2, 5),
    "lime_masks": rng.integers(0, 2, (200, len(text))),
    "att_alignment_layer1_weight": state["alignment.weight"],
    "att_alignment_layer1_bias": state["alignment.bias"],
    "att_alignment_layer2_weight": state["score.weight"],
    "dec_weight": state["decoder.weight"][1:] - state["decoder.weight"][:1],
    "dec_bias": state["decoder.bias"][1:] - state["decoder.bias"][:1],
} | {f"enc_{k[8:]}": v for k, v in state.items() if k.startswith("encoder.")}  # fmt: skip
case = {k: v.astype(float) if v.dtype.kind == "f" else v for k, v in case.items()}
seen = disagreement.run("attribute_bilstm", backend="numba", **case)
same = float(np.abs(seen.raw_deepshap - seen.raw_deeplift).max())
ig = explain(model, [text], ["integrated_gradients"])[0].attributions["integrated_gradients"]
print(f"Deep-SHAP − DeepLIFT: at most {same:.1e}")
print(
    f"IG here and in the laboratory (`attnlab explain`): at most {np.abs(seen.tok_intgrad[0] - ig.unsigned).max():.1e} apart"
)

# %% [markdown]
# ## The same numbers on every path
# The explained text through NumPy, Numba and PyTorch (whose gradients come from autograd; the others are by hand).
# %%
lesson.compare(
    "disagreement",
    "attribute_bilstm",
    inputs=case,
    dtype="float64",
    repeat=1 if lesson.quick() else 3,
)

# %% [markdown]
# ## What it costs: the rollout
# Rollout multiplies the attention matrices of all layers, each with the identity added and its rows divided by two:
# n³ for every layer. But only one row of the product is read, that of [CLS]. A row times a matrix costs n².
# %%
lesson.source("attnlab.mechanisms.explanation.disagreement.reference.aggregate_attention")
# %%
lesson.predict(
    "The row of [CLS] alone, for a text twice as long: how much longer?",
    ["twice", "four times", "eight times"],
    1,
    because="every layer's n² weights are read once, and nothing else is done with them.",
)


# %%
@cache
def maps(n):
    return disagreement.headline.sample(n, lesson.seed(), "float32", layers=2, heads=8, batch=1)


def one_row(n):
    return lambda: disagreement.run("aggregate_attention", backend="numba", **maps(n))


def whole(n):
    A = (maps(n)["attention"][0].mean(1) + np.eye(n, dtype="float32")) / 2
    return lambda: product(A[1], A[0])  # on the kernels' own threads, as the row


sizes = [512, 724, 1024] if lesson.quick() else [512, 724, 1024, 1448, 2048]
grown = lesson.cost({"one row": one_row, "whole product": whole}, sizes, claimed=2.0)
slopes = {name: fit[0] for name, fit in grown["exponent"].items()}
lesson.claim(
    "6",
    "The rollout of one token costs O(layers n²)",
    expected="exponent 2",
    seen=f"exponent {slopes['one row']:.2f}",
    holds=abs(slopes["one row"] - 2) < 0.4,
    source="sheet",
    control={
        "statement": "the whole product",
        "seen": f"exponent {slopes['whole product']:.2f}",
        "failed": slopes["whole product"] > 2.4,
    },
    note="on a busy machine the line bends; benchmarks/rollout.py measures up to n = 8192 on maps that no cache holds",
)

# %% [markdown]
# ## What to measure instead
# Agreement compares explanations with each other. **Faithfulness** compares an explanation with the model: take away
# the words it names, and see what the prediction does. Comprehensiveness is the drop without them (high is good),
# sufficiency the drop with them alone (low is good). The exhibit's `faithfulness` does it for a classifier so simple
# that the right explanation is known: P = sigmoid(sum of word weights).
# %%
weights = np.zeros(200)
weights[:20], weights[20:40] = 1.0, -1.0
positive = [i for i in range(explained) if tests[seeds[0]].labels[i] == 1]
explanations = {"the weights": [], "IG (BiLSTM)": [], "attention (BiLSTM)": [], "chance": []}
for i in positive:
    ids = tests[seeds[0]].tokens[i][tests[seeds[0]].mask[i]]
    given = {"token_ids": ids, "rationale": ids < 20, "w": weights, "u": np.zeros((200, 200))}
    for name, s in zip(explanations, [weights[ids], *found[i][[2, 0, 5]]]):
        explanations[name].append(disagreement.run("faithfulness", scores=s, mask_id=199, **given))
lesson.table(
    [
        [name, *(f"{np.nanmean([getattr(r, f) for r in results]):.2f}" for f in (
            "aopc_comprehensiveness", "aopc_sufficiency", "tau_loo", "auprc"))]
        for name, results in explanations.items()
    ],
    ["explanation", "comprehensiveness", "sufficiency", "τ-LOO", "AUPRC"],
    f"Positive texts ({len(positive)}): taking the named words away",
)  # fmt: skip
# %% [markdown]
# Three things to see. Attention has no sign: it names negative words as well, and taking those away *raises* the
# probability. IG can score higher than the classifier's own weights: the mean runs over rationales of growing size, and
# an explanation with few positive scores offers only short ones. And τ-LOO, a *faithfulness* measure in current
# libraries, is the rank correlation of an explanation with leave-one-out: agreement again, with all its faults.
#
# ## Where it fails
# A toy language of independent words has no negation, no irony, no grammar; its right answer is a set of words. In real
# texts there may be no such set, and then neither agreement nor an answer key helps. `attnlab explain bench --data FILE`
# makes this lesson's table for your data, with intervals, a random floor and a model with random weights beside it.
# %%
lesson.exercise(
    "disagreement",
    "Write `aggregate_attention(attention)`: the average, and the rollout of token 0 in O(layers n²). Then: prove that IG "
    "is Grad-SHAP in expectation for one baseline; write τ in O(n log n) with ties; find the transposed matrix yourself "
    "from the vectors of the case `mhsa`.",
)
