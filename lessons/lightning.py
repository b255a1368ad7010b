# ---
# minutes: 9
# ---
# %% [markdown]
# # Lightning attention: a memory of fixed size, at the speed of matrix products
# Attention keeps every past token and reads all of them for each new one. *Linear* attention leaves the
# softmax out, and then something pleasant happens: the sum over the past no longer depends on who is
# asking. It can be kept in one small matrix and updated token by token, however long the text is.
#
# ```math
# oₜ  = Σⱼ≤ₜ λᵗ⁻ʲ (qₜ · kⱼ) vⱼ       fading by λ ≤ 1  (1)
#
# KVₜ = λ KVₜ₋₁ + kₜ vₜᵀ              the same from    (2)
# oₜ  = qₜᵀ KVₜ                       one matrix
# ```
#
# Why did this not replace attention at once? Because (2) is a chain of n tiny steps. Processors like few large
# products, not many small ones, and so linear attention was linear on paper and slow in practice. Qin et al.
# (*Various Lengths, Constant Speed*, 2024) walk in **blocks**. Inside a block of B tokens they use form (1), a
# masked product as in ordinary attention. Between blocks they carry the matrix of form (2).
# %%
import tracemalloc

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from attnlab import lesson, registry
from attnlab.datasets.files import DatasetMissing
from attnlab.datasets.python_reference import python_reference
from attnlab.datasets.text import SymbolText, shakespeare
from attnlab.lesson import plots
from attnlab.mechanisms.linear.lightning.slopes import slopes
from attnlab.models import sequence

lightning = registry.find("lightning")
lesson.source("attnlab.mechanisms.linear.lightning.reference.attend")

# %% [markdown]
# ## Two kinds of work
# Row t of the output needs all columns up to t. The tiles on the diagonal are multiplied out as attention
# does. Everything to their left has already been summed into the state, whatever the length of the text.
# %% tags=["hide-input"]
n, block = 32, 8
t = np.arange(n)
past = np.where(t[:, None] >= t, 1.0, np.nan)  # (n, n): 1 from the state, 2 inside the block
past[(t[:, None] // block == t // block) & (t[:, None] >= t)] = 2.0
faded = np.where(t[:, None] >= t, np.exp(-0.1 * np.maximum(t[:, None] - t, 0)), np.nan)
figure, (left, right) = plots.subplots(1, 2, figsize=(8.4, 3.9))
left.imshow(past, cmap=plots.mpl.colors.ListedColormap([plots.PALETTE[5], plots.PALETTE[1]]))
for edge in range(block, n, block):
    left.axhline(edge - 0.5, color=plots.PAPER, linewidth=1)
    left.axvline(edge - 0.5, color=plots.PAPER, linewidth=1)
left.text(0.6, 20, "carried in KV", color=plots.INK)
left.annotate(
    "multiplied out,\nblock by block",
    (10.5, 9.0),
    xytext=(16, 4),
    color=plots.INK,
    arrowprops={"arrowstyle": "->", "color": plots.INK},
)
left.set(title="who is reached how", xlabel="token that is read", ylabel="reader")
plots.heat(faded, title="weight λᵗ⁻ʲ, s = 0.1", xlabel="token that is read", ax=right)
lesson.figure(
    figure,
    caption="Left: 32 tokens in blocks of 8. Orange tiles on the diagonal are small masked products; the blue rest "
    "arrives through one state matrix. Right: the decay that both parts share.",
    alt="Two lower-triangular pictures: tiles on the diagonal in one colour and all tiles left of them in another; weights fading away from the diagonal",
    terminal=lesson.heat(past, title="bright: inside the block; dim: out of the state KV", low=0),
)
# %% [markdown]
# The decay is not learned. Head i of h forgets at the rate sᵢ = 2^(-8(i+1)/h), λ = exp(-s), and from layer to
# layer all heads forget more slowly. The last layer hardly forgets at all.
# %%
lesson.predict(
    "One head has s = 1/4. After how many tokens is a memory worth half?",
    ["about 3", "about 25", "about 400"],
    0,
    because="the half-life is ln 2 / s = 2.8 tokens. The slowest head of the same layer, s = 1/256, keeps half for 177.",
)
# %% tags=["hide-input"]
half_life = np.log(2) / np.stack([slopes(8, l, 6) for l in range(6)])
lesson.table(
    [[f"layer {l}", *(f"{x:,.0f}" for x in row)] for l, row in enumerate(half_life)],
    ["", *(f"h{h}" for h in range(8))],
    "Half-life in tokens: eight heads, six layers",
)

# %% [markdown]
# ## The block size is nobody's business
# B = 1 is the recurrence (2). B = n is the full sum (1). All values between must give the same output: the
# best test of the bookkeeping of powers. A common slip is to let the state fade by λⁱ for row i of a block
# where i + 1 steps have passed.
# %%
drawn = lightning.headline.sample(100, seed=lesson.seed())
whole = lightning.run(**drawn, block=100).o
for B in (1, 7, 64):
    print(
        f"B = {B:3d}: largest difference {np.abs(lightning.run(**drawn, block=B).o - whole).max():.1e}"
    )
# %% [markdown]
# A second slip is to build λᵗ⁻ʲ as λᵗ / λʲ. The factors leave the range of numbers long before the ratio does.
# %%
with np.errstate(all="ignore"):
    s, far = np.float32(0.25), np.float32(1000)
    print(
        f"λ³ as exp(-3s): {np.exp(-s * 3):.4f};  as λ¹⁰⁰⁰ / λ⁹⁹⁷: {np.exp(-s * far) / np.exp(-s * (far - 3)):.4f}"
    )


# %% [markdown]
# ## A model that reads through it
# In TransNormerLLM the mechanism sits in a *gated* layer: silu on q and k, no scale of 1/√dim, no denominator. A norm
# of the whole output takes the denominator's place, and a gate u decides what passes. Two such layers learn
# to read Shakespeare, character by character.
# %%
class GatedLinearAttention(nn.Module):
    """The exhibit's layer as a mixer: rates is one decay rate a head."""

    def __init__(self, width, rates):
        super().__init__()
        self.w_qkvu = nn.Parameter(torch.randn(4 * width, width) / width**0.5)
        self.w_out = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.register_buffer("slopes", torch.as_tensor(rates, dtype=torch.float32))

    def forward(self, x):
        weights = {"w_qkvu": self.w_qkvu, "w_out": self.w_out, "slopes": self.slopes}
        return lightning.run("gla", backend="torch", x=x, num_heads=len(self.slopes), **weights).y


try:
    corpus = SymbolText.of(lesson.text()) if lesson.text() else shakespeare()
except DatasetMissing:
    corpus = SymbolText.of(python_reference().train)
    print("Tiny Shakespeare is not on this machine: the Python reference text stands in.")

WIDTH, HEADS = 48, 4
CONTEXT, BATCH = (48, 12) if lesson.quick() else (96, 32)
steps = 90 if lesson.quick() else 150
held_out = sequence.consecutive_windows(corpus.validation, CONTEXT)
held_out = tuple(part[: 200 if lesson.quick() else None] for part in held_out)


def layer_rates():
    """The rates of layer 0, then of layer 1: a new mixer asks for the next."""
    return iter([slopes(HEADS, layer, 2) for layer in range(2)])


def trained(mixer, label):
    model = sequence.TinyTransformer(
        len(corpus.symbols), width=WIDTH, mixer=mixer, context=CONTEXT, seed=lesson.seed()
    )
    batches = sequence.text_batches(corpus.train, batch=BATCH, context=CONTEXT)
    # One thread: products this small gain nothing from two.
    with lesson.progress(label) as done, threadpool_limits(1):
        sequence.train(
            model,
            batches,
            steps,
            lr=2e-3,
            seed=lesson.seed(),
            progress=lambda i, of, loss: done(i / of),
        )
        return model, sequence.evaluate(model, *held_out)


# %%
rates = layer_rates()
reader, with_decay = trained(lambda: GatedLinearAttention(WIDTH, next(rates)), "with decay")
print(
    f"{with_decay:.3f} nats a character on held-out text; guessing is {np.log(len(corpus.symbols)):.3f}"
)
# %% [markdown]
# ## The same numbers on every path
# These queries, keys and values enter the first layer while that model reads.
# %% tags=["hide-input"]
mixer = reader.blocks[0].mixer
with torch.inference_mode():
    seen = reader.embedding(torch.as_tensor(held_out[0][:8])) + reader.place  # (8, n, width)
    qkvu = (reader.blocks[0].mixer_norm(seen) @ mixer.w_qkvu.T).chunk(4, -1)
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkvu[:3])
    real = {"q": nn.functional.silu(q), "k": nn.functional.silu(k), "v": v, "slopes": mixer.slopes}
# %%
with threadpool_limits(1):  # calls this short gain nothing from two cores
    lesson.compare("lightning", inputs={name: value.numpy() for name, value in real.items()})

# %% [markdown]
# ## What it costs
# %%
lesson.predict(
    "From 4 thousand tokens to 16 thousand: how much longer does it take?",
    ["4 times", "8 times", "16 times"],
    0,
    because="each block costs the same, and there are four times as many.",
)
sizes = [1024, 2048, 4096] if lesson.quick() else [1024, 2048, 4096, 8192, 16384]
alone = lesson.cost("lightning", sizes, claimed=1.0, repeat=15, batch=1, heads=4, dim=32)


# %% [markdown]
# ## Claims of the paper, re-created
# **1. Constant speed.** In the paper's Figure 1 the tokens a second of a model on lightning attention stay flat
# from 1 thousand to 128 thousand, while those of LLaMA with FlashAttention-2 fall. The authors' kernel table has
# 4.41 against 10.4 at n = 8192 and 17.7 against 162.9 at n = 32768 (forward pass, their GPU). Here the chunked
# form meets the parallel form of the same sum, `((Q Kᵀ) ⊙ M) V`, and the softmax attention of this laboratory.
# %%
def parallel_form(q, k, v, slopes):
    """(1) for all pairs at once, one head after the other: an n × n matrix each."""
    gap = np.maximum(np.subtract.outer(np.arange(q.shape[2]), np.arange(q.shape[2])), 0)
    heads = []
    for h, s in enumerate(slopes):
        M = np.tril(np.exp(-np.float32(s) * gap.astype(np.float32)))  # (n, n)
        heads.append((q[0, h] @ k[0, h].T * M) @ v[0, h])
    return np.stack(heads)[None]


def of_size(n):
    return lightning.headline.sample(
        n, seed=lesson.seed(), dtype="float32", batch=1, heads=4, dim=32
    )


def on(call):
    """What `cost` asks for: n -> a call on inputs of that size."""

    def prepare(n):
        x = of_size(n)
        return lambda: call(x)

    return prepare


def softmax(x):
    qkv = {name: x[name] for name in "qkv"}
    return registry.find("attention").run(backend="numba", causal=True, **qkv)


short = [512, 1024, 2048] if lesson.quick() else [1024, 2048, 4096]
with threadpool_limits(
    1
):  # NumPy's products on one core: steadier, and too slow by a factor 2 at most
    raced = lesson.cost(
        {
            "chunked": on(lambda x: lightning.run(backend="numba", **x)),
            "parallel form": on(lambda x: parallel_form(**x)),
            "softmax attention": on(softmax),
        },
        short,
        repeat=3,
    )
# %% tags=["hide-input"]
chunked, parallel = alone["exponent"]["numba"][0], raced["exponent"]["parallel form"][0]
times = raced["seconds"]
ratio = {
    n: times["parallel form"][n] / times["chunked"][n] for n in short if n in times["parallel form"]
}
lesson.claim(
    "1",
    "Time grows with the length, so the time for a token is constant",
    expected="exponent 1",
    seen=f"exponent {chunked:.2f}",
    holds=abs(chunked - 1) < 0.15,
    source="paper",
    control={
        "statement": "the parallel form of the same sum",
        "seen": f"exponent {parallel:.2f}",
        "failed": abs(parallel - 1) > 0.15,
    },
    note="on a CPU, with 4 heads of width 32; the paper trains whole models on GPUs. A machine that is busy with other "
    "work disturbs such timings",
)
lesson.claim(
    "1b",
    "The chunked form is the faster one from 1024 tokens on",
    expected="more than 1 × at n ≥ 1024",
    seen={f"n = {n}": f"{r:.1f} ×" for n, r in ratio.items() if n >= 1024},
    holds=all(r > 1 for n, r in ratio.items() if n >= 1024),
    source="paper",
    note="the authors' table has the crossing with FlashAttention-2 near n = 4096, for wider heads (128)",
)


# %% [markdown]
# **2. Memory.** The authors' table has 1024 MiB for inputs and outputs at n = 8192, 1028 for FlashAttention-2:
# both grow with n. Count what NumPy allocates in the reference and in the parallel form.
# %%
def peak(call, n):
    """Bytes held at the peak of a call, its inputs and output included."""
    x = of_size(n)
    call(x)  # what a first call loads is not what is asked
    tracemalloc.start()
    call(x)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most + sum(array.nbytes for array in x.values())


lengths = [1024, 2048] if lesson.quick() else [1024, 2048, 4096]
held = {
    "chunked": {n: peak(lambda x: lightning.run(**x), n) for n in lengths},
    "parallel form": {n: peak(lambda x: parallel_form(**x), n) for n in lengths},
}
lesson.figure(
    plots.lines(
        {
            name: (np.array(lengths, float), np.array(list(m.values())) / 2**20)
            for name, m in held.items()
        },
        logx=True,
        logy=True,
        xlabel="n",
        ylabel="MiB at the peak",
    ),
    caption="Memory held at the peak of a call, inputs and output included. One line follows n, the other n².",
    alt="Log-log plot of peak memory over n: the chunked form rises with slope 1, the parallel form with slope 2",
)
grows = {
    name: float(np.polyfit(np.log(lengths), np.log(list(m.values())), 1)[0])
    for name, m in held.items()
}
lesson.claim(
    "2",
    "Memory grows with the length",
    expected="exponent 1",
    seen=f"exponent {grows['chunked']:.2f}",
    holds=abs(grows["chunked"] - 1) < 0.15,
    source="paper",
    control={
        "statement": "the parallel form, which holds an n × n matrix",
        "seen": f"exponent {grows['parallel form']:.2f}",
        "failed": abs(grows["parallel form"] - 1) > 0.15,
    },
)


# %% [markdown]
# **3. Does the decay help?** Without it, every token of the past counts the same and far ones drown the near. A
# second model is trained like the one above, with λ = 1.
# %%
_, without = trained(lambda: GatedLinearAttention(WIDTH, np.zeros(HEADS)), "no decay")
# %% tags=["hide-input"]
losses = {"linear, with decay": with_decay, "linear, λ = 1": without}
if not lesson.quick():
    losses["softmax attention"] = trained(lambda: sequence.SelfAttention(WIDTH, HEADS), "softmax")[
        1
    ]
for block_ in reader.blocks:  # the same trained weights, memory no longer fading
    block_.mixer.slopes.zero_()
with threadpool_limits(1):
    unplugged = sequence.evaluate(reader, *held_out)
lesson.figure(
    plots.bars(losses, title=f"nats a character after {steps} steps", unit="nats"),
    caption="Loss on text that was held out; lower is better.",
    alt="Bars of validation loss: "
    + ", ".join(f"{name} {loss:.2f}" for name, loss in losses.items()),
)
lesson.claim(
    "3",
    "A fixed decay helps linear attention to model text",
    expected={"with decay": 2.218, "λ = 1": 2.429},
    seen={"with decay": round(with_decay, 3), "λ = 1": round(without, 3)},
    holds=with_decay < without - 0.02,
    source="sheet",
    control={
        "statement": "the model trained with decay, read with λ = 1",
        "seen": round(unplugged, 3),
        "failed": unplugged > without - 0.02,
    },
    note=f"expected: 300 steps, one seed; here {steps} with contexts of {CONTEXT} characters. Softmax attention had 2.422 then: a training this short "
    "rewards whoever looks nearby first, so the gap to softmax says little about large models",
)
lesson.untried(
    "3b",
    "Perplexity 4.77 against 5.16 (385M) and 3.729 against 4.765 (1B) for the Transformer",
    reason="needs billions of tokens and GPUs; the figures were seen as quoted by another page",
    source="unverified",
)
# %% [markdown]
# **4. A norm in place of the denominator.** With silu the products q·k may be negative, and a sum of weights of
# both signs can come close to zero. Dividing by it is dangerous. Dividing by the output's own size (SRMS) is not.
# %%
lesson.predict(
    "1000 random draws. How large is the largest output when weights are divided by their sum?",
    ["below 10", "some hundreds or more", "always below the largest value"],
    1,
    because="somewhere among the draws the sum is almost zero, and its inverse is huge.",
)
# %%
rng = lesson.rng()
q, k = (lambda z: z / (1 + np.exp(-z)))(rng.standard_normal((2, 1000, 1, 16, 8)))  # signed features
v = rng.standard_normal((1000, 1, 16, 8))
ones = np.ones((1000, 1, 16, 1))


def srms(o):
    return o / np.sqrt((o**2).mean(-1, keepdims=True) + 1e-6)


o, huge = lightning.run(q=q, k=k, v=v).o, lightning.run(q=1e3 * q, k=1e3 * k, v=v).o
divided = o / lightning.run(q=q, k=k, v=ones).o
moved = np.abs(srms(huge) - srms(o)).max(-1) / np.abs(srms(o)).max(-1)  # (1000, 1, 16)
raw_moved = (np.abs(huge - o).max(-1) / np.abs(o).max(-1)).min()
sizeable = (o**2).mean(-1) > 0.1  # below, the 10⁻⁶ under the root shows
bound = 8**0.5  # no entry of an SRMS row of width 8 can be larger
lesson.claim(
    "4",
    "The normed output is bounded",
    expected="at most √8 = 2.83",
    seen=f"{np.abs(srms(o)).max():.2f}",
    holds=np.abs(srms(o)).max() <= bound,
    source="sheet",
    control={
        "statement": "divided by the sum of its weights",
        "seen": f"{np.abs(divided).max():.3g}",
        "failed": np.abs(divided).max() > bound,
    },
)
lesson.claim(
    "4b",
    "Queries and keys a thousand times as large leave the normed output as it was",
    expected="relative change below 1e-5",
    seen=f"{moved[sizeable].max():.1e}",
    holds=moved[sizeable].max() < 1e-5,
    source="sheet",
    control={
        "statement": "without the norm",
        "seen": f"{raw_moved:.1e}",
        "failed": raw_moved > 1e-5,
    },
    note=f"in the {sizeable.mean():.0%} of rows whose mean square is above 0.1; in the smallest one the 10⁻⁶ under the "
    f"root of (7) shows, and it moves by {moved.max():.0e}",
)

# %% [markdown]
# ## Paper and code
# The paper writes the rates as (8h/H)(1 - l/L), evenly spaced over the heads: head 0 never forgets. The authors'
# code has a geometric series instead, with the factor 1 - l/(L-1) + 10⁻⁵. The exhibit follows the code. The difference is
# large: one head of eight keeps its memory in one version, most heads do in the other.
# %%
lesson.table(
    [
        ["text", *(f"{8 * h / 8:.3f}" for h in range(8))],
        ["code", *(f"{s:.3f}" for s in slopes(8, 0, 6))],
    ],
    ["rate s", *(f"h{h}" for h in range(8))],
    "First layer, eight heads: two versions of the decay",
)

# %% [markdown]
# ## Where it fails
# The state holds dim × dim numbers, and every token is added on top of the others. After dim keys no new one can be
# orthogonal to all that came before, and what is read comes back blurred. Ask for a value by its key:
# %% tags=["hide-input"]
counts, dim = [4, 8, 16, 32, 64, 128, 256], 32
hits = []
for pairs in counts:
    keys = rng.standard_normal((50, 1, pairs, dim), "float32")
    values = rng.standard_normal((50, 1, pairs, dim), "float32")
    state = lightning.run(backend="numba", q=keys, k=keys, v=values).state
    read = keys @ state  # (50, 1, pairs, dim): every key asked after all were stored
    hits.append(float(((read @ values.mT).argmax(-1) == np.arange(pairs)).mean()))
lesson.figure(
    plots.lines(
        {"recalled": (np.array(counts, float), np.array(hits))},
        logx=True,
        xlabel="pairs stored",
        ylabel="share",
    ),
    caption=f"Random keys and values of width {dim} in one state, no decay: the share of values that a key brings back.",
    alt="The share of recalled values falls from 1 as more pairs are stored than the state is wide",
)
# %% [markdown]
# Softmax attention would recall all of them, at the price of keeping all of them. The lesson on `based` goes on from
# here: it makes the state larger, and the recall with it.
# %%
lesson.exercise(
    "lightning",
    "Write `attend(q, k, v, slopes, block)` for NumPy arrays: two sums a block, then the state. It has to hold for a last "
    "block that is not full, for a head that forgets at once, and for any block size. `attnlab show lightning` tells the shapes.",
)
