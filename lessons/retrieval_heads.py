# ---
# minutes: 9
# ---
# %% [markdown]
# # Retrieval heads: who fetches the needle?
# Hide one sentence in fifty thousand tokens of text and ask a language model for it. It answers. Somewhere in a
# thousand attention heads, the sentence was carried from far back to the place where the answer is written. By
# which of them?
#
# Wu et al. (*Retrieval Head Mechanistically Explains Long-Context Factuality*, 2024) watch every head at every
# step of the answer. A head that puts its **largest** weight on a needle token, just when that very token is
# written, has copied it. For a needle at places [s, e) of the prompt and an answer g₁ g₂ … :
#
# ```math
# j = argmax of the head's row
# copy event:  s ≤ j < e  and  prompt[j] = g_t             (1)
# score = copy events over the answer / (e - s)            (2)
# ```
#
# Averaged over many needles, lengths and depths, the score singles out a few heads. Then comes the test that makes
# it an explanation: take these heads away and see whether the fact is lost.
# %%
import numpy as np
import torch

from attnlab import lesson, registry
from attnlab.explain import heads as probe
from attnlab.explain.decoders import CircuitDecoder
from attnlab.lesson import plots
from attnlab.models import circuit_training, circuits, sequence

exhibit = registry.find("retrieval_heads")
lesson.source("attnlab.mechanisms.explanation.retrieval_heads.reference.score_heads")

# %% [markdown]
# ## A head caught in the act
# This model is small enough to see all of it: two layers of four heads, no feed-forward part, trained to continue
# what it has read before. The prompt is random words; eight of them are the needle, and its two leading words end the
# prompt.
# %%
copier = CircuitDecoder(circuits.load("induction"))
needle = probe.needles(copier, runs=5, seed=lesson.seed(), answer=8)[2]
answer = probe.run(copier, needle)
print("needle:", *copier.labels(needle.wanted))
print("answer:", *copier.labels(answer.generated))
scores, _ = probe.copied(answer)

# %%
lesson.predict(
    "Draw a dot where a copying head looks while it writes the answer, step by step. What do the dots form?",
    [
        "a vertical line on the needle",
        "a diagonal through the needle",
        "a cloud all over the prompt",
    ],
    1,
    because="word after word is written, and each must be looked at when its turn comes: one place further at each step.",
)
# %% tags=["hide-input"]
looked = answer.attention.argmax(-1)  # (T, layers, heads)
best = tuple(int(i) for i in np.unravel_index(scores.argmax(), scores.shape))
worst = (0, int(scores[0].argmin()))
places = np.arange(len(answer.generated))
figure, axes = plots.subplots(2, 1, figsize=(7.2, 4.4), sharex=True)
for ax, head, colour in zip(axes, (best, worst), (plots.PALETTE[4], plots.PALETTE[0])):
    ax.axvspan(needle.start - 0.5, needle.end - 0.5, color=plots.PALETTE[1], alpha=0.3, linewidth=0)
    ax.scatter(looked[:, head[0], head[1]], places, color=colour, s=26, zorder=3)
    ax.set_yticks(places, copier.labels(answer.generated), fontsize=7)
    ax.invert_yaxis()
    ax.set(
        title=f"layer {head[0]}, head {head[1]}",
        ylabel="written",
        xlim=(-1, len(needle.prompt) + 8),
    )
axes[1].set_xlabel("place looked at (the needle is shaded)")
grid = np.zeros((len(places), len(needle.prompt)))
grid[:, needle.start : needle.end] = 0.3
grid[places, np.minimum(looked[:, best[0], best[1]], len(needle.prompt) - 1)] = 1
lesson.figure(
    figure,
    caption="Where a head's largest weight lies at each step of the answer. The upper head walks through the needle, "
    "one word ahead of what was just written: it copies. The lower one looks elsewhere.",
    alt="Two dot plots: a diagonal of eight dots inside a shaded band, and scattered dots",
    terminal=lesson.heat(
        grid,
        copier.labels(answer.generated),
        title=f"layer {best[0]}, head {best[1]}: needle grey, looked at bright",
    ),
)
# %% [markdown]
# Its score (2) is the number of dots inside the band that are also *right*. All eight heads, for this one answer:
# %% tags=["hide-input"]
names = [f"h{h}" for h in range(4)]
lesson.figure(
    plots.heat(
        scores, ["layer 0", "layer 1"], names, title="retrieval score of one answer", low=0, high=1
    ),
    caption="Layer 1 copies, layer 0 does not.",
    alt="Heat map of two layers by four heads: the lower row bright, the upper dark",
)
# %% [markdown]
# ## The same numbers on every path
# The rows of the answer above, as they left the model.
# %%
lesson.compare(
    "retrieval_heads",
    inputs={
        "prompt_ids": needle.prompt,
        "needle_span": np.array([needle.start, needle.end]),
        "generated": answer.generated,
        "attention": answer.attention,
    },
)
# %% [markdown]
# ## What it costs
# Scores are read off while the model answers. A row is one pass over n keys for each head and step; the softmax is
# not even needed, because it keeps the order of the scores.
# %%
lesson.predict(
    "The prompt grows eightfold. How much longer does scoring one step take?",
    ["as long as before", "eight times", "64 times"],
    1,
    because="one query is compared with n keys. The square belongs to reading the prompt, which needs no weights.",
)
largest = 17 if lesson.quick() else 20
grown = lesson.cost(
    "retrieval_heads",
    [2**p for p in range(14, largest)],
    claimed=1.0,
    backends=("numba", "torch"),
    steps=1,
    layers=2,
    heads=4,
)
# %% [markdown]
# The compiled path looks up the needle first and stops reading a row as soon as a larger weight is found elsewhere: a head
# that does not copy costs next to nothing. What remains linear is that look, and the check that no weight is NaN.
#
# ## They appear by themselves
# Nobody asks for retrieval heads. This second model reads ten keys with their values, then one of the keys, and learns to
# say its value: the smallest needle test there is. Here is its loss.
# %%
lesson.predict(
    "2500 steps of training on one small task. How does the loss fall?",
    ["smoothly from the first step on", "hardly at first, then suddenly", "it does not fall"],
    1,
    because="a layer that looks up values is of no use before another has written each key beside its value. "
    "Once one half is there, the other is found quickly.",
)
# %%
torch.set_num_threads(1)  # matrices this small are slower on two
if lesson.train():
    with lesson.progress("training") as done:
        model, losses = circuit_training.train("retrieval", progress=lambda i, n, _: done(i / n))
    every = 1
else:
    model, losses, every = (
        circuits.load("retrieval"),
        circuits.losses("retrieval"),
        circuits.LOSS_EVERY,
    )
steps = every * np.arange(1, len(losses) + 1)
print(model.task(1).show(0), "->", model.decode(model.task(1).answers))
# %% tags=["hide-input"]
lesson.figure(
    plots.lines(
        {"loss": (steps.astype(float), np.asarray(losses))}, xlabel="step", ylabel="nats an answer"
    ),
    caption="A plateau, then a cliff. The plateau lies a little above 2.3 nats, an even guess among the ten values; within "
    "two hundred steps the model goes from guessing to knowing.",
    alt="Loss over training steps: flat between 2.3 and 3 for a thousand steps, then a sudden drop to 0",
)
rows = 40 if lesson.quick() else 200
reader = CircuitDecoder(model)
tests = probe.needles(reader, runs=rows, seed=lesson.seed())
seen = probe.head_scores(reader, tests, prompts=8, seed=lesson.seed())
# %%
lesson.table(
    [
        [
            f"({l}, {h})",
            f"{seen.retrieval[l, h]:.2f}",
            f"{seen.frequency[l, h]:.2f}",
            f"{seen.previous[l, h]:.2f}",
        ]
        for l in range(2)
        for h in range(4)
    ],
    ["(layer, head)", "retrieval score", "in how many runs", "attention on the token before"],
    f"{seen.counted} of {seen.runs} answers are right and count",
)
fresh = CircuitDecoder(circuit_training.untrained("retrieval").eval())


def gap(decoder):
    """Layer 1's least score less layer 0's largest, over all runs, whether or not they count."""
    total = sum(probe.copied(probe.run(decoder, test))[0] for test in tests) / len(tests)
    return float(total[1].min() - total[0].max())


trained_gap, fresh_gap = gap(reader), gap(fresh)
lesson.claim(
    "2",
    "Retrieval heads appear by themselves, all in the second layer",
    expected="a gap above 0.8 between the layers (0.98–1.0 against 0.04–0.10), accuracy 1.00",
    seen=f"gap {trained_gap:.2f} ({seen.retrieval[1].min():.2f}–{seen.retrieval[1].max():.2f} against "
    f"{seen.retrieval[0].min():.2f}–{seen.retrieval[0].max():.2f}), accuracy {model.accuracy(model.task(500)):.2f}",
    holds=trained_gap > 0.8,
    source="sheet",
    control={
        "statement": "the same model before training",
        "seen": f"gap {fresh_gap:.2f}",
        "failed": fresh_gap < 0.2,
    },
    note="of ten values a head that looks at random hits the right one in a tenth of the runs: that is layer 0's score",
)
# %% [markdown]
# ## Few and always on?
# In published models the picture is far more extreme. From the score files that the authors share (an earlier count of
# ours): of the 1024 heads of Llama-2-7B-80K, 3.2 % score at least 0.1, 70 % never copied anything in 586 runs, and 12
# were active in *every* run.
# %% tags=["hide-input"]
order = np.argsort(-seen.retrieval.ravel())
figure, axes = plots.subplots(1, 2, figsize=(8.0, 3.0))
plots.lines(
    {"score": (np.arange(1.0, 9.0), seen.retrieval.ravel()[order])},
    title="sorted retrieval scores",
    xlabel="rank",
    ax=axes[0],
)
axes[1].scatter(seen.frequency.ravel(), seen.retrieval.ravel(), color=plots.PALETTE[0])
axes[1].set(title="how often and how much", xlabel="share of runs with a copy", ylabel="score")
lesson.figure(
    figure,
    caption="Left: the toy's scores fall off a cliff after the fourth head. Right: with needles of one token a score is "
    "a frequency; with longer ones a head may copy rarely, but then much.",
    alt="Sorted scores with a drop after rank four, and a scatter of score over frequency on the diagonal",
    terminal=lesson.bars(
        {f"({i // 4}, {i % 4})": float(seen.retrieval.ravel()[i]) for i in order},
        title="sorted retrieval scores",
        high=1.0,
    ),
)
share = float((seen.retrieval >= 0.5).mean())
lesson.claim(
    "1",
    "Retrieval heads are few: under 5 % of the heads",
    expected="below 0.05",
    seen=f"{share:.2f} ({round(share * 8)} of 8 heads score at least 0.5)",
    holds=share < 0.05,
    source="paper",
    note="a model with eight heads that does nothing but retrieve cannot show it: one head would be 12 % already",
)
copiers = seen.retrieval >= 0.5
always = float(seen.frequency[copiers].min())
others = float(seen.frequency[~copiers].max())
lesson.claim(
    "1b",
    "The strongest heads are active in every run",
    expected="12 heads of Llama-2-7B-80K in 586 of 586 runs",
    seen=f"{int((seen.frequency > 0.95).sum())} heads, each in at least {always:.0%} of {seen.counted} runs",
    holds=always > 0.95,
    source="sheet",
    control={
        "statement": "the busiest of the other heads",
        "seen": f"in {others:.0%} of the runs",
        "failed": others < 0.95,
    },
    note="counted by us from the score files; five of the seven published models have such heads, two have none",
)
lesson.untried(
    "1c",
    "Shares of retrieval heads in seven models from 7B to 8x7B parameters",
    reason="needs those models and hundreds of runs of up to 50 000 tokens",
    source="sheet",
)
# %% [markdown]
# ## Take them away
# To **mask** a head is to *flatten* it: its scores become 0, so that it attends to everything equally. (To zero its
# output is another lesion.) The paper does so only while the answer is written. In Llama-2-7B-80K, with 30 retrieval
# heads flattened, the needle was found with a mean score of 43.7; with 30 random heads flattened, 88.4 (colours of the
# authors' heat maps, read back to numbers by us).
# %%
lesson.predict(
    "The toy has four copying heads in layer 1. Flatten one of them. What happens to its accuracy of 1.00?",
    ["it falls to about 0.75", "hardly anything", "it falls to chance, 0.10"],
    1,
    because="all four learned the same, and three of them still agree. Redundancy hides what a head does.",
)
# %%
task = model.task(300 if lesson.quick() else 1000, seed=lesson.seed() + 5)
ranked = seen.top(8)
removed = [model.accuracy(task, ranked[:k]) for k in range(5)]


def read_but_not_answer(heads):
    """Heads flattened while the prompt is read, whole in the step that answers."""
    right = 0
    for prompt, allowed in zip(task.positives[:100], task.allowed):
        logits, _, _ = model.step(prompt[-1], model.prefill(prompt[:-1], heads))
        right += allowed[logits.argmax()]
    return right / 100


elsewhere = read_but_not_answer(ranked[:4])
lesson.claim(
    "3",
    "Accuracy falls as more of the copying heads are flattened",
    expected={"1 head": 0.94, "2 heads": 0.77},
    seen={f"{k} head{'s' if k > 1 else ''}": round(removed[k], 2) for k in range(1, 5)},
    holds=all(np.diff(removed) <= 0) and removed[4] < 0.5,
    source="sheet",
    control={
        "statement": "the same four heads flattened while the prompt is read, but not in the step that answers",
        "seen": f"accuracy {elsewhere:.2f}",
        "failed": elsewhere > 0.9,
    },
    note="how much the first two cost depends on how evenly the copying is shared, and differs from training to "
    "training; all four together cost everything",
)
# %% [markdown]
# So far, so good. But is it true that *other* heads do not matter?
# %%
lesson.predict(
    "Flatten the four heads of layer 0, whose retrieval scores are near zero.",
    ["nothing happens: they retrieve nothing", "accuracy falls far", "accuracy rises"],
    1,
    because="someone must have written each key beside its value before anyone could look a value up by its key.",
)
# %%
single = {f"(0, {h})": model.accuracy(task, [(0, h)]) for h in range(4)}
low = model.accuracy(task, [(0, h) for h in range(4)])
helper = min(single, key=single.get)
lesson.figure(
    plots.lines(
        {
            "top heads by retrieval score": (np.arange(5.0), np.array(removed)),
            "bottom heads": (
                np.arange(5.0),
                np.array([model.accuracy(task, ranked[8 - k :]) for k in range(5)]),
            ),
        },
        xlabel="heads flattened",
        ylabel="accuracy",
    ),
    caption="Flattening heads from the top and from the bottom of the ranking. Both ends reach the floor.",
    alt="Two falling curves of accuracy over the number of flattened heads",
)
lesson.claim(
    "3b",
    "Heads with the lowest scores matter too: they build what the others look up",
    expected="two layer-0 heads flattened leave 0.50",
    seen=f"head {helper} alone leaves {single[helper]:.2f}, all four of layer 0 leave {low:.2f}",
    holds=low < 0.7,
    source="sheet",
    control={
        "statement": "the layer-0 head that matters least",
        "seen": f"leaves {max(single.values()):.2f}",
        "failed": max(single.values()) > 0.9,
    },
    note=f"head {helper} looks at the token before ({seen.previous[0, int(helper[4])]:.2f} of its attention): at a value's "
    'place it fetches the key. "Random heads do not matter" needs a large model; compare within a layer',
)
lesson.untried(
    "3c",
    "30 retrieval heads against 30 random ones in Llama-2-7B-80K: 43.7 against 88.4",
    reason="needs the 7B model and prompts of up to 98 692 tokens",
    source="sheet",
)
# %% [markdown]
# The lesion itself matters. Flattened, zeroed, or replaced by its average over prompts whose key is not there:
# %%
kinds = {kind: circuits.ablation(model, task, kind) for kind in ("flatten", "zero", "mean")}
lesson.table(
    [
        [f"({l}, {h})", *(f"{kinds[kind][l, h]:.2f}" for kind in kinds)]
        for l in range(2)
        for h in range(4)
    ],
    ["(layer, head)", "flattened", "zeroed", "averaged"],
    "Accuracy that is lost without one head",
)
# %% [markdown]
# ## The same heads in longer prompts
# The paper holds that retrieval heads are *intrinsic*: further training on longer contexts keeps the heads that were
# there. The toy goes on with 20 pairs instead of 10, and new positions from 21 on.
# %%
from dataclasses import replace


def longer(old, context):
    """The same weights in a model with more positions, the new ones as in a fresh model."""
    made = circuits.CircuitTransformer(
        replace(old.configuration, context=context), seed=lesson.seed()
    )
    place = made.place.detach().clone()
    place[: len(old.place)] = old.place
    made.load_state_dict({**old.state_dict(), "place": place})
    return made


def batches(rng):
    drawn = circuits.circuit_tasks.retrieval(rng, 32, pairs=20)
    return drawn.positives, drawn.labels


more = 60 if lesson.quick() else 600
extended = longer(model, 41)
with lesson.progress("20 pairs") as done:
    sequence.train(
        extended, batches, more, 1e-3, seed=lesson.seed(), progress=lambda i, n, _: done(i / n)
    )
long_task = circuits.circuit_tasks.retrieval(
    np.random.default_rng(lesson.seed() + 9), rows, pairs=20
)


def scores_of(decoder):
    found = [
        probe.copied(probe.run(decoder, probe.Needle(p, int(s), int(s) + 1)))[0]
        for p, s in zip(long_task.positives, long_task.source)
    ]
    return np.mean(found, axis=0)


after = scores_of(CircuitDecoder(extended.eval()))
unrelated = scores_of(CircuitDecoder(longer(fresh.model, 41).eval()))


def correlation(a, b):
    """Pearson's; 0 where one of them is constant."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if np.ptp(a) * np.ptp(b) > 0 else 0.0


same, random_same = correlation(seen.retrieval, after), correlation(seen.retrieval, unrelated)
lesson.claim(
    "4",
    "The same heads retrieve after training on longer prompts",
    expected="the same set of heads (asked here: correlation of the scores above 0.9)",
    seen=f"{same:.3f} after {more} steps with 20 pairs, accuracy {extended.accuracy(long_task):.2f}",
    holds=same > 0.9,
    source="unverified",
    control={
        "statement": "an untrained model on the same prompts",
        "seen": f"{random_same:.2f}",
        "failed": random_same < 0.9,
    },
    note="eight heads in two groups make a high correlation easy; that no head changes sides is what counts",
)
# %% [markdown]
# ## Paper versus code: three finds
# **The span starts one early.** The released code looks for the needle as the first window that holds more than 90 % of
# the needle's distinct tokens.
# %%
lesson.predict(
    "A needle of 12 distinct tokens stands at places 30 to 41. The window that starts at 29 holds 11 of the 12. What is reported?",
    ["30 to 41", "29 to 40", "not found"],
    1,
    because="11 / 12 is above 0.9, and that window comes first. From 11 distinct tokens on, the search stops one early.",
)
rows_ = []
for m in (6, 10, 11, 12, 20):
    prompt = np.concatenate([np.arange(30), 100 + np.arange(m), np.arange(10)])[None]
    spans = [
        exhibit.run("find_needle", needle_ids=100 + np.arange(m), prompts=prompt, rule=rule).spans[
            0
        ]
        for rule in ("first", "aligned")
    ]
    rows_.append([m, f"{m - 1}/{m} = {(m - 1) / m:.2f}", *(f"[{a}, {b})" for a, b in spans)])
lesson.table(
    rows_, ["needle", "one early holds", "released rule", "aligned rule"], "The needle starts at 30"
)
# %% [markdown]
# The last token of such a needle can then never score, and a token that is no part of it can: for the answer above, with the span
# one early, the best head loses an eighth.
# %%
shifted = probe.Run(
    probe.Needle(needle.prompt, needle.start - 1, needle.end - 1),
    answer.generated,
    answer.attention,
    1.0,
)
print("true span:", scores.max().round(3), " one early:", probe.copied(shifted)[0].max().round(3))
# %% [markdown]
# **Events or a set?** The paper's text counts the *set* of needle tokens that a head copied; the code adds 1/(e - s) for
# every event. A model that says the same word three times scores three times.
# %%
given = {
    "prompt_ids": np.array([5, 7, 8, 9, 5]),
    "needle_span": np.array([1, 4]),
    "generated": np.array([7, 7, 7, 7]),
    "attention": np.eye(9)[[1, 1, 1, 1]][:, None, None],
}
made = exhibit.run(want=["set_score"], **given)
print(f"code: {made.retrieval_score.item():.2f}   text: {made.set_score.item():.2f}")
# %% [markdown]
# **The causal mask goes, too.** The eager code overwrites the whole matrix of a masked head, so that its queries see the
# future. While decoding there is one query and no future: harmless. For a prompt it is a leak.
# %%
layer = exhibit.operation("mask_heads").sample(10, seed=lesson.seed(), batch=1, masked=1)
both = {
    causal: exhibit.run("mask_heads", want="all", causal=causal, **layer)
    for causal in (False, True)
}
flat = int(layer["block_heads"][0])
# %% tags=["hide-input"]
figure, axes = plots.subplots(1, 3, figsize=(9.6, 3.0))
views = {
    "whole": both[True].weights_plain,
    "flattened, released code": both[False].weights_masked,
    "flattened, causal=True": both[True].weights_masked,
}
for ax, (title, weights) in zip(axes, views.items()):
    plots.heat(weights[0, flat], title=title, low=0, high=1, xlabel="key", ylabel="query", ax=ax)
lesson.figure(
    figure,
    caption="One head whole and flattened. In the middle its queries see keys that come later; the last row, the only one that "
    "decoding uses, is the same as on the right.",
    alt="Three heat maps: a causal pattern, a uniform square, a triangle whose rows are uniform",
    terminal=lesson.heat(
        both[False].weights_masked[0, flat],
        title="flattened, released code: the future is seen",
        low=0,
        high=0.2,
    ),
)
leak = np.abs(both[False].out_masked - both[True].out_masked)[0].max(-1)
print(
    f"outputs differ by up to {leak[:-1].max():.2f} in the prompt, by {leak[-1]:.1e} at the last token"
)

# %% [markdown]
# ## Where it fails
# The score sees copying and nothing else: an answer in other words, a date worked out, a fact combined from two places
# score 0 though they were retrieved. Only answers that came out right are counted, so that a model which never finds the
# needle has no retrieval heads by definition. The released comparison with random heads means to leave out the best
# hundred, but compares lists with tuples, and may draw them after all. And a head may matter without
# copying anything, as layer 0 did. `attnlab explain heads --model NAME --ablate` asks all this of a model of yours.
# %%
lesson.exercise(
    "retrieval_heads",
    "Write `score_heads(prompt_ids, needle_span, generated, attention, top_k)`. Then write the set version, show by how much top_k "
    "above 1 raises the score of a head that looks at random, and find the argmax of a row while its scores are computed, "
    "without storing them.",
)
