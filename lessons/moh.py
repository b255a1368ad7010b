# ---
# minutes: 8
# ---
# %% [markdown]
# # MoH: every token picks its heads
# Multi-head attention computes eight heads, or thirty-two, for each token, and adds them all up. Does each token need
# each of them? Add up, indeed: to set the heads side by side and multiply with W_o is the same as a *sum* over heads,
# each with its own slice of W_o and with weight 1. Jin et al. (*MoH: Multi-Head Attention as Mixture-of-Head
# Attention*, 2024) replace that 1 by a **gate** that each token sets for itself:
#
# ```math
# y = Σₕ gₕ · (headₕ W_oʰ)          plain multi-head attention: all gₕ = 1            (6)
# p = softmax(W_r x)                over the E routed heads; T = the K largest        (1)
# rₑ = K pₑ / Σ_T p  in T, else 0   chosen heads                                      (2)
# s = S softmax(W_s x)              the S shared heads, always on                     (3)
# (a₁, a₂) = 2 softmax(W_h x)       how much the two groups count                     (4)
# g = [a₁ s, a₂ r]                                                                    (5)
# ```
#
# A gate of 0 means that the head need not be computed for this token at all. A weight other than 1 makes the sum
# more flexible. It is a mixture of experts whose experts are heads.
# %%
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from attnlab import lesson, registry
from attnlab.datasets.synthetic import ring_retrieval
from attnlab.lesson import plots
from attnlab.models import sequence

moh = registry.find("moh")
lesson.source("attnlab.mechanisms.dense.moh.reference.two_stage")
# %%
lesson.source("attnlab.mechanisms.dense.moh.reference.attend")

# %% [markdown]
# ## A sum over heads
# **2.** First the identity on which all rests. Take the heads before they are gated, multiply each with its own slice of
# W_o and add up. Then force all gates to 1: with every head shared and W_s = 0, (3) gives S · 1/S. That must be plain
# attention.
# %%
lesson.predict(
    "Swap the slices of W_o of two heads and leave the heads alone. Does the output change?",
    ["no, a sum has no order", "yes, each head has its own slice", "only by rounding"],
    1,
    because="the sum has no order, but its terms are pairs of a head and its slice.",
)
# %%
x = moh.headline.sample(24, seed=lesson.seed(), n_head=4, head_dim=8, n_shared=4, top_k=0)
x["W_s"] = np.zeros_like(x["W_s"])
full = moh.run(want=["heads"], **x)
slices = x["W_o"].reshape(-1, 4, 8).transpose(1, 2, 0)  # (heads, head_dim, channels)
summed = sum(full.heads[:, :, h] @ slices[h] for h in range(4)) + x["b_o"]
swapped = sum(full.heads[:, :, h] @ slices[[1, 0, 2, 3][h]] for h in range(4)) + x["b_o"]

qkv = (x["x"] @ x["W_qkv"].T + x["b_qkv"]).reshape(*x["x"].shape[:2], 3, 4, 8)
q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (batch, heads, n, head_dim)
plain = registry.find("attention").run(q=q, k=k, v=v).out
plain = plain.transpose(0, 2, 1, 3).reshape(*x["x"].shape) @ x["W_o"].T + x["b_o"]


def difference(other):
    return float(np.abs(full.y - other).max())


lesson.claim(
    "2",
    "Concatenating and projecting is a sum over heads; with all gates at 1 it is multi-head attention",
    expected="below 1e-12",
    seen={
        "sum over heads": f"{difference(summed):.1e}",
        "multi-head": f"{difference(plain):.1e}",
    },
    holds=max(difference(summed), difference(plain)) < 1e-12,
    source="sheet",
    control={
        "statement": "two slices of W_o swapped",
        "seen": f"{difference(swapped):.2f}",
        "failed": difference(swapped) > 1e-12,
    },
)

# %% [markdown]
# ## A task that asks for a choice
# Sixteen places on a ring, each with one of six symbols. Each token also has a type, 0 to 3, that tells which symbol it
# must name: the one 1, 2, 3 or 5 places to its left. Four types, four patterns of attention; a token needs one.
# A model has one layer of attention and no MLP: width 64, heads of 16.
# %%
BETA = 0.01  # weight of the load balance (7) in the loss
WIDTH, PLACES = 64, 16


class MixtureOfHeads(nn.Module):
    """The exhibit as a mixer. It keeps the load balance of its last call."""

    def __init__(self, heads, shared, chosen):
        super().__init__()
        self.layer = moh.headline.module(
            channels=WIDTH,
            n_head=heads,
            head_dim=WIDTH // heads,
            n_shared=shared,
            top_k=chosen,
        )

    def forward(self, x):
        result = self.layer(x=x)
        self.balance = result.aux
        return result.y


class OneHead(nn.Module):
    """A single head of 16, for all types."""

    def __init__(self):
        super().__init__()
        self.qkv, self.output = nn.Linear(WIDTH, 48), nn.Linear(16, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)  # (batch, 1, n, 16)
        return self.output(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])


def trained(mixer, steps, seed, label, beta=BETA):
    model = sequence.TinyTransformer(
        24, width=WIDTH, mixer=mixer, context=PLACES, layers=1, outputs=6, expand=0, seed=seed
    )

    def loss(model, inputs, labels):
        task = sequence.cross_entropy(model, inputs, labels)
        balance = getattr(model.blocks[0].mixer, "balance", None)
        return task if balance is None or beta == 0 else task + beta * balance

    with lesson.progress(label) as done, threadpool_limits(1):
        sequence.train(
            model,
            lambda rng: ring_retrieval(rng, 32 if lesson.quick() else 64),
            steps,
            lr=1.5e-2 if lesson.quick() else 4e-3,  # fewer steps, larger ones
            optimizer="adam",
            clip=None,
            loss=loss,
            seed=seed,
            progress=lambda step, of, _: done(step / of),
        )
    return model


test = ring_retrieval(np.random.default_rng(lesson.seed() + 1000), 500)
# %%
lesson.predict(
    "Four heads, but each token may use only two of them. How does the accuracy compare with all four?",
    ["clearly lower", "about equal, or higher", "one half of it"],
    1,
    because="a token has one pattern to follow. A gate that drops what the others bring removes noise.",
)
# %%
runs = 1 if lesson.quick() else 2
steps = 110 if lesson.quick() else 500
models = {
    "multi-head, 4 heads": lambda: sequence.SelfAttention(WIDTH, 4, causal=False),
    "MoH, 2 of 4": lambda: MixtureOfHeads(4, 0, 2),
    "MoH, 1 shared + 1 of 3": lambda: MixtureOfHeads(4, 1, 1),
    "one head": OneHead,
}
if not lesson.quick():
    models["MoH, 3 of 4"] = lambda: MixtureOfHeads(4, 0, 3)
kept, accuracy = {}, {}
for name, mixer in models.items():
    of = [trained(mixer, steps, lesson.seed() + r, name) for r in range(runs)]
    kept[name] = of[0]
    accuracy[name] = [round(sequence.accuracy(model, *test), 3) for model in of]


# %% [markdown]
# Who picked which head? Left, the gates of 16 tokens of one ring, in the model with a shared head. Right, the mean gate of
# each type of token where two of four are chosen freely. Nobody told the router about types.
# %% tags=["hide-input"]
def routed(model, inputs):
    """What enters the layer, and the layer's results, on some inputs."""
    with torch.inference_mode():
        x = model.embedding(torch.as_tensor(inputs)) + model.place
        x = model.blocks[0].mixer_norm(x)
        return x, model.blocks[0].mixer.layer(x=x, want=["gates"])


kinds = test[0] // 6
shared_gates = routed(kept["MoH, 1 shared + 1 of 3"], test[0])[1].gates.numpy()
free_gates = routed(kept["MoH, 2 of 4"], test[0])[1].gates.numpy()
by_kind = np.stack([free_gates[kinds == kind].mean(0) for kind in range(4)])
by_place = np.stack([free_gates[:, place].mean(0) for place in range(PLACES)])
ring = [f"type {kind}" for kind in kinds[0]]
left_heads = ["shared", *(f"routed {h}" for h in range(3))]
right_heads = [f"head {h}" for h in range(4)]
right_kinds = [f"type {kind}: {step} left" for kind, step in enumerate((1, 2, 3, 5))]
figure, (left, right) = plots.subplots(
    1, 2, figsize=(8.8, 4.6), gridspec_kw={"width_ratios": (1, 1.1)}
)
plots.heat(shared_gates[0], ring, left_heads, "gates of 16 tokens", low=0, ax=left)
plots.heat(by_kind, right_kinds, right_heads, "mean gate by type", low=0, ax=right)
lesson.figure(
    figure,
    caption="Left: the first column is computed for every token, though it may count little; each token adds one routed head. Right: the types spread over the heads "
    "in different mixtures. Dark is 0: not computed for this token.",
    alt="Two heat maps of gates: tokens by heads, with a solid first column and one bright cell a row among the rest; types by heads with unequal rows",
    terminal=lesson.heat(
        shared_gates[0], ring, left_heads, "gates of 16 tokens: one shared, one chosen", low=0
    ),
)
spread = {"type": float(by_kind.std(0).mean()), "place": float(by_place.std(0).mean())}
print("how much the mean gate varies: " + ", ".join(f"by {k} {s:.2f}" for k, s in spread.items()))
# %% tags=["hide-input"]
mean = {name: float(np.mean(values)) for name, values in accuracy.items()}
full_heads = mean["multi-head, 4 heads"]
lesson.claim(
    "1",
    "Equal or better accuracy with half of the heads",
    expected={
        "multi-head, 4 heads": "0.98 to 0.99",
        "MoH, 2 of 4": 1.00,
        "MoH, 3 of 4": 1.00,
        "one head": "0.70 to 0.78",
    },
    seen=accuracy,
    holds=mean["MoH, 2 of 4"] >= full_heads - 0.01,
    source="sheet",
    control={
        "statement": "fewer heads without a choice: one for all tokens",
        "seen": accuracy["one head"],
        "failed": mean["one head"] < full_heads - 0.01,
    },
    note=f"{steps} steps, {runs} seed{'s' * (runs > 1)}; a guess is right in 0.17 of the cases",
)
lesson.untried(
    "1b",
    "LLaMA3-8B with 75 % of the heads: 64.0 on average over 14 tasks, 2.4 more than without",
    reason="needs a model of 8 billion weights and its further training",
    source="paper",
)
lesson.untried(
    "1c",
    "ImageNet: MoH-ViT-B 84.9 % top-1 with 75 % of the heads. DiT-XL/2: FID 2.94 against 3.22",
    reason="needs those models and GPUs for days",
    source="unverified",
)
# %% [markdown]
# ## Keeping all heads in work
# A router likes what it knows. A head that is picked often learns much and is picked more often still. Therefore the loss
# has a term that grows when the choice is lopsided, with weight 0.01:
#
# ```math
# L_b = E Σₑ fₑ Pₑ                        (7)
# fₑ: share of tokens that chose head e
# Pₑ: mean of pₑ over the tokens
# ```
#
# It is K when all heads are used alike. **3.** Train with eight heads, one for each token, with and without it.
# %%
lesson.predict(
    "What does the balance cost or bring in accuracy?",
    ["it brings a lot", "nothing either way", "it can cost a little"],
    2,
    because="four types need four heads, and now tokens are pushed towards eight. The term is there for the hardware, and for unused heads.",
)
# %%
steps = 60 if lesson.quick() else 400
usage = {}
for beta in (0.0, BETA):
    model = trained(
        lambda: MixtureOfHeads(8, 0, 1), steps, lesson.seed(), f"balance weight {beta}", beta
    )
    result = routed(model, test[0])[1]
    share = (result.gates.numpy() > 0).mean((0, 1))  # (heads,), adds up to 1
    usage[beta] = {
        "share": share,
        "entropy": float(-(share * np.log(share + 1e-12)).sum()),
        "L_b": float(result.aux),
        "accuracy": sequence.accuracy(model, *test),
    }
# %% tags=["hide-input"]
figure, axes = plots.subplots(1, 2, figsize=(8.4, 2.6), sharey=True)
for ax, (beta, of) in zip(axes, usage.items()):
    ax.bar([str(h) for h in range(8)], of["share"], color=plots.PALETTE[0])
    ax.axhline(1 / 8, color=plots.INK, linewidth=1, linestyle="--", marker="")
    ax.set(title=f"weight of the balance {beta:g}", xlabel="head")
axes[0].set_ylabel("share of tokens")
lesson.figure(
    figure,
    caption="How many tokens chose each of eight heads. The dashed line is equal use.",
    alt="Two bar charts of eight heads: uneven without the balance term, near one eighth each with it",
)


def balanced(of):
    """Within 2 % of the largest entropy and of the least L_b."""
    return of["entropy"] > 0.98 * np.log(8) and abs(of["L_b"] - 1) < 0.02


shown = {
    f"weight {beta:g}": {name: round(of[name], 3) for name in ("entropy", "L_b", "accuracy")}
    for beta, of in usage.items()
}
lesson.claim(
    "3",
    "With the balance term all heads are used alike",
    expected={
        "weight 0": {"entropy": 1.905, "L_b": 1.144, "accuracy": 0.94},
        "weight 0.01": {"entropy": 2.074, "L_b": 1.001, "accuracy": 0.91},
    },
    seen=shown,
    holds=balanced(usage[BETA]),
    source="sheet",
    control={
        "statement": "the same training without the term is balanced too",
        "seen": shown["weight 0"],
        "failed": not balanced(usage[0.0]),
    },
    note=f"{steps} steps, one seed; equal use has entropy ln 8 = {np.log(8):.3f} and L_b = 1",
)
# %% [markdown]
# L_b can be fooled. It is the product of choice and probability; where the probabilities are all equal it is K, *whatever*
# the choice. A router of zeros sends every token to head 0, because ties go to the lower index:
# %%
zeros = moh.run("gates", x=np.ones((1, 64, 4)), W_r=np.zeros((8, 4)), n_head=8, n_shared=0, top_k=1)
used = (zeros.gates > 0).mean((0, 1))
print(f"L_b = {float(zeros.aux):.3f}; shares of the heads: {used.astype(int).tolist()}")

# %% [markdown]
# ## The same numbers on every path
# The tokens that enter the trained layer, with its weights. The NumPy and torch paths compute all heads and then gate
# them, as the authors' code does. The others list the tokens of each head first.
# %%
trained_layer = kept["MoH, 1 shared + 1 of 3"].blocks[0].mixer.layer
weights = {name: w.detach().numpy() for name, w in trained_layer.named_parameters()}
entering = routed(kept["MoH, 1 shared + 1 of 3"], test[0][:64])[0].numpy()
with threadpool_limits(1):  # calls this short gain nothing from two cores
    lesson.compare("moh", inputs={"x": entering, **weights, **trained_layer.options})

# %% [markdown]
# ## What it costs
# **4.** A head's keys and values are needed for every token, since others may ask. But a *query* that did not pick the head can be left
# out. Per head: gather the queries of its tokens, let them attend to all keys, put the results back where they came from.
# %%
lesson.predict(
    "The authors' code computes all heads and multiplies by the gates. Half of the heads are on: how much time does it save?",
    ["half", "about a quarter", "none"],
    2,
    because="a product with 0 takes as long as any other.",
)
# %%
sizes = [256, 512] if lesson.quick() else [512, 1024, 2048]
HEADS = 8


def on(backend, chosen):
    """What `cost` asks for: n -> a call with `chosen` of 8 heads on."""

    def prepare(n):
        x = moh.headline.sample(
            n,
            seed=lesson.seed(),
            dtype="float32",
            batch=1,
            n_head=HEADS,
            head_dim=16,
            n_shared=0,
            top_k=chosen,
        )
        if backend == "torch":
            x = {k: torch.as_tensor(a) if isinstance(a, np.ndarray) else a for k, a in x.items()}
        return lambda: moh.run(backend=backend, **x)

    return prepare


with threadpool_limits(1):  # torch's products on one core: the two rows of a form are compared
    timed = lesson.cost(
        {
            "gathered, 4 of 8": on("numba", 4),
            "gathered, 8 of 8": on("numba", 8),
            "as released, 4 of 8": on("torch", 4),
            "as released, 8 of 8": on("torch", 8),
        },
        sizes,
        claimed=2.0,
        repeat=3 if lesson.quick() else 9,
    )
# %% tags=["hide-input"]
largest = moh.headline.sample(
    sizes[-1], seed=lesson.seed(), batch=1, n_head=HEADS, head_dim=16, n_shared=0, top_k=4
)
routers = {name: largest[name] for name in ("x", "W_r", "n_head", "n_shared", "top_k")}
pairs = float((moh.run("gates", **routers).gates > 0).mean())  # of all (token, head)


def ratio(form):
    """Time at 4 of 8 heads over time at 8 of 8, the median over sizes."""
    half, whole = (timed["seconds"][f"{form}, {k} of 8"] for k in (4, 8))
    return float(np.median([half[n] / whole[n] for n in half if n in whole]))


released, gathered = ratio("as released"), ratio("gathered")
lesson.claim(
    "4",
    "Half of the heads save time only where queries are gathered",
    expected="score operations 0.5 ×; the released form is no faster",
    seen={
        "score operations": f"{pairs:.2f} ×",
        "time as released": f"{released:.2f} ×",
        "time gathered": f"{gathered:.2f} ×",
    },
    holds=abs(pairs - 0.5) < 1e-9 and released > 0.85,
    source="sheet",
    control={
        "statement": "the gathered form is no faster either",
        "seen": f"{gathered:.2f} ×",
        "failed": gathered < 0.85,
    },
    note="0.85 leaves room for the noise of a shared machine. The projections stay whole, so the gathered form cannot reach 0.5 ×",
)
# %% [markdown]
# ## Without parameters, and other turns
# For a finished model (the paper continues LLaMA3-8B) there is a router without weights: a routed head's score is the *norm* of its
# query, in units of the standard deviation over the routed heads. Gates are then 0 or 1, so that the outputs keep the
# size that the model is used to; gradients go straight through to the scores.
# %%
q = np.random.default_rng(lesson.seed()).standard_normal((1, 5, 8, 16))
norms = moh.run("norm_gates", q=q, n_shared=4, top_k=2)
larger = moh.run("norm_gates", q=100 * q, n_shared=4, top_k=2)
print("gates of the first token:", norms.gates[0, 0].astype(int))
print(
    f"queries 100 times as large change the scores by {np.abs(norms.scores - larger.scores).max():.0e}"
)
# %% [markdown]
# Why the factors S, K and 2 in (2) to (4)? The paper's equations leave them out; its code has them. An untrained
# gate should be about 1, as in the model that one starts from. Without them the sum over heads shrinks:
# %% tags=["hide-input"]
drawn = moh.operation("gates").sample(
    500, seed=lesson.seed(), n_head=8, n_shared=2, top_k=2, channels=64
)
with_factors = moh.run(
    "gates", **{**drawn, **{w: 0.1 * drawn[w] for w in ("W_r", "W_s", "W_h")}}
).gates
bare = np.concatenate([with_factors[..., :2] / (2 * 2), with_factors[..., 2:] / (2 * 2)], -1)
lesson.table(
    [
        ["with S, K and 2", f"{with_factors[with_factors > 0].mean():.2f}"],
        ["without", f"{bare[bare > 0].mean():.2f}"],
    ],
    ["factors", "mean gate of an active head, nearly untrained router"],
)
# %% [markdown]
# More turns to know. The balance takes p *before* it is renormalised: afterwards each row sums to K whatever the router thinks. The
# choice T is a constant for the gradient. The released DiT file fails for one shared head; the ViT file gives it weight 1, as
# here. And the LLaMA file shapes the shared part of its mask like the routed part, which is right only where both have
# as many heads.
#
# ## Where it fails
# The saving is smaller than it sounds. Keys and values of all heads must be computed, and stay in the cache: memory for long
# texts does not shrink at all. Lists of tokens of different lengths are awkward for GPUs. And a choice by the query's own token
# cannot know whether a head will find anything: it decides before it has looked.
# %%
lesson.exercise(
    "moh",
    "Write the two-stage router and the gated sum. Then gather: for each head the list of tokens that chose it, attention of "
    "those queries to all keys, and back to their places. At last, show that a single head cannot solve the ring task "
    "for four types, whatever its weights. `attnlab show moh` tells the shapes.",
)
