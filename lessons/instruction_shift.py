# ---
# minutes: 8
# ---
# %% [markdown]
# # What does instruction tuning change?
# A language model continues text. After instruction tuning the same network does what it is told. Wu et al. (*From
# Language Modeling to Instruction Following*, NAACL 2024) put the two twins side by side and ask for every prompt
# token xᵢ and response token yⱼ: how much does xᵢ move the probability of yⱼ?
#
# ```math
# Iᵢⱼ = eᵢ · ∂ p(yⱼ | x, y₍<ⱼ₎) / ∂ eᵢ                        embedding times gradient    (1)
# lᵢⱼ = ⌈ 10 · max(Iᵢⱼ, 0) / (maxᵢ Iᵢⱼ + ε) ⌉,  0 if lᵢⱼ ≤ 7    levels, per response token  (2)
# aᵢ  = ‖lᵢ‖₁ / (‖lᵢ‖₄ + ε)                                  density                     (3)
# score = Σ_instruction aᵢ / max a  / log₂(2 + their number)                              (5)
# ```
#
# The *density* (3) is the heart of it. A token that matters for one response token has density 1, however much it
# matters; a token that matters for all m of them has m^¾. An instruction that is followed should be dense: it is
# needed for every word of the answer.
# %%
import copy
from functools import cache

import numpy as np
import torch
from scipy.special import stdtr

from attnlab import lesson, registry
from attnlab.lesson import plots
from attnlab.models.sequence import IGNORED, SelfAttention, TinyTransformer, train

torch.set_num_threads(1)  # matrices this small only wait for a second thread
instruction_shift = registry.find("instruction_shift")
lesson.source("attnlab.mechanisms.explanation.instruction_shift.reference.attribute")

# %% [markdown]
# ## Two twins
# The authors compare LLaMA with Vicuna. We grow a pair of our own: 41 words, four verbs, and documents such as
# `please reverse : b f f k -> k f f b .` In the **text** on which the base model grows up the verb stands there, but
# the continuation is any one of the four: a verb is a word like others. **Tuning** goes on with the same sentences
# in which the verb decides.
# %%
LETTERS, LENGTH = "abcdefghijklmnop", 4
VERBS = ["copy", "reverse", "sort", "upper"]
WORDS = ["<s>", "please", ":", "->", ".", *VERBS, *LETTERS, *LETTERS.upper()]
ID = {word: i for i, word in enumerate(WORDS)}
PLEASE, VERB, ARROW, PROMPT = 0, 1, 7, 8  # places in a prompt, <s> not counted
ROWS = 48 if lesson.quick() else 64  # documents in a batch


def obey(verb, letters):
    """(rows, 4) answers of one verb each; letters (rows, 4)."""
    made = np.stack([letters, letters[:, ::-1], np.sort(letters, 1), letters + 16])
    return made[verb, np.arange(len(verb))]


def ask(rng, rows):
    """Prompts (rows, 9), their verbs (rows,) and the right answers (rows, 4)."""
    verb, letters = rng.integers(4, size=rows), ID["a"] + rng.integers(16, size=(rows, LENGTH))

    def column(word):
        return np.full((rows, 1), ID[word])

    asked = (ID["copy"] + verb)[:, None]
    parts = [column("<s>"), column("please"), asked, column(":"), letters, column("->")]
    return np.concatenate(parts, 1), verb, obey(verb, letters), letters


def documents(tuned, rows=ROWS):
    """Batches for `train`; with tuning only the answer is learned."""

    def batch(rng):
        prompts, verb, _, letters = ask(rng, rows)
        answer = obey(verb if tuned else rng.integers(4, size=rows), letters)
        ids = np.concatenate([prompts, answer, np.full((rows, 1), ID["."])], 1)
        labels = ids[:, 1:].copy()
        if tuned:
            labels[:, :PROMPT] = IGNORED
        return ids[:, :-1], labels

    return batch


def respond(model, prompts):
    """Prompts and the model's own likeliest continuation, (rows, 13)."""
    ids = torch.as_tensor(prompts)
    with torch.no_grad():
        for _ in range(LENGTH):
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    return ids.numpy()


seed = lesson.seed()
prompts, verb, right, _ = ask(lesson.rng(), 100)
steps, rate, pieces, tuning_rate = (100, 4e-3, 7, 3e-3) if lesson.quick() else (800, 2e-3, 20, 1e-3)
base = TinyTransformer(
    len(WORDS), width=64, mixer=lambda: SelfAttention(64, heads=4), context=16, seed=seed
)
with lesson.progress("growing up on text") as done:
    losses = train(
        base, documents(tuned=False), steps, rate, seed=seed, progress=lambda s, n, _: done(s / n)
    )


def correct(model):
    return (respond(model, prompts)[:, PROMPT + 1 :] == right).all(1)


tuned, half = copy.deepcopy(base), None
for piece in lesson.track(range(pieces), "tuning"):
    train(tuned, documents(tuned=True), 10, tuning_rate, warmup=1, seed=seed + piece)
    if half is None and correct(tuned).mean() >= 0.5:
        half = copy.deepcopy(tuned)  # the first checkpoint that gets half of them right
half = half or tuned
more = copy.deepcopy(base)  # the control: as many steps, of plain text
train(more, documents(tuned=False), 10 * pieces, tuning_rate, seed=seed + 1)
for name, model in (("base", base), ("half tuned", half), ("tuned", tuned), ("more text", more)):
    print(f"{name:10} answers {correct(model).mean():4.0%} of 100 prompts rightly")


# %% [markdown]
# ## Who moves whom
# (1) needs one backward pass for each response token. Prompts do not see each other, so one pass serves a whole batch.
# %%
def importance(model, ids):
    """(1) for a batch: (rows, 8 prompt tokens, 4 response tokens)."""
    ids = torch.as_tensor(ids)
    e = model.embedding(ids).detach().requires_grad_()  # (rows, 13, width)
    x = e + model.place[: ids.shape[1]]
    p = model.head(model.norm(model.blocks(x))).softmax(-1)
    columns = []
    for j in range(PROMPT, PROMPT + LENGTH):  # <s> is 0, so place 8, the arrow, predicts y_1
        said = p[torch.arange(len(ids)), j, ids[:, j + 1]]
        (grad,) = torch.autograd.grad(said.sum(), e, retain_graph=True)
        columns.append((grad * e)[:, 1 : PROMPT + 1].sum(-1).detach())
    return torch.stack(columns, dim=-1).double().numpy()


def densities(I, b=7):
    """(2)-(4) of every prompt: (rows, 8)."""
    runs = (
        instruction_shift.run("density", backend="numba", importance=row, thresholds=[b])
        for row in I
    )
    return np.stack([run.density_b[b] for run in runs])


def instruction_score(a, places=(VERB,)):
    """(5)"""
    return a[:, list(places)].sum(1) / np.log2(2 + len(places))


lesson.predict(
    "When tuning begins to work: on which of the answer's four letters does the verb act first?",
    ["on the first letter", "on all of them alike", "on the last"],
    0,
    because="once the first letter stands there, the old habits can finish the answer: it tells which of the four "
    "continuations has begun.",
)
# %% tags=["hide-input"]
places = ["please", "VERB", ":", "1st letter", "2nd", "3rd", "4th", "->"]
models = {"base": base, "half tuned": half, "tuned": tuned, "more text": more}
I = {name: importance(model, respond(model, prompts)) for name, model in models.items()}
a = {name: densities(value) for name, value in I.items()}
levels = {  # (2) before the cut, (rows, 8, 4)
    name: np.ceil(10 * value.clip(0) / (value.clip(0).max(1, keepdims=True) + 1e-9))
    for name, value in I.items()
}
reverse = verb == VERBS.index("reverse")
said = ["y1", "y2", "y3", "y4"]
figure, axes = plots.subplots(1, 2, figsize=(9.2, 3.6))
for ax, name in zip(axes, ("base", "tuned")):
    rows = [f"{place} {x:.2f}" for place, x in zip(places, a[name][reverse].mean(0))]
    plots.heat(levels[name][reverse].mean(0), rows, said, title=f"{name} model", low=0, ax=ax)
lesson.figure(
    figure,
    caption="Prompts that say reverse: mean level (0 to 10) of each prompt token for each token of the model's answer, "
    "beside its normalised density. In the tuned model the letters' diagonal runs backwards, and the verb joins in.",
    alt="Two heat maps of eight prompt places by four response tokens; the tuned model's shows a backward diagonal of letters and a brighter verb row",
    terminal=lesson.heat(
        levels["tuned"][reverse].mean(0), rows, said, title="tuned model, prompts that say reverse"
    ),
)
lesson.table(
    [[name, *(f"{x:.1f}" for x in value[:, VERB].mean(0))] for name, value in levels.items()],
    ["model", *said],
    "Mean level of the verb for each letter of the answer",
)

# %% [markdown]
# ## Claim: tuning makes instructions dense
# A hundred prompts, each model with its own answers. Controls: the base model after as many more steps of plain text.
# %%
s = {name: instruction_score(value) for name, value in a.items()}


def above(x, y):
    """One-sided Welch test: p that x is not larger than y."""
    a, b = (z.var(ddof=1) / len(z) for z in (x, y))
    freedom = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))
    return float(stdtr(freedom, (y.mean() - x.mean()) / np.sqrt(a + b)))


def pair(x):
    return f"{x.mean():.3f} ± {x.std():.3f}"


lesson.figure(
    plots.bars(
        dict(zip(places, a["tuned"].mean(0))), "tuned model: mean normalised density, by place"
    ),
    caption="Letters are denser than the verb: the list is the matter, the verb the manner.",
    alt="Bars of mean density for the eight places of the prompt",
)
lesson.table(
    [[name, *(f"{x:.2f}" for x in (v[:, VERB].mean(), v[:, PLEASE].mean(), v[:, 3:7].mean(), v[:, ARROW].mean()))] for name, v in a.items()],
    ["model", "verb", "please", "letters", "arrow"],
    "Mean normalised density of the prompt's words",
)  # fmt: skip
tests = {name: above(s[name], s["base"]) for name in ("tuned", "more text")}
lesson.claim(
    "1",
    "Tuning raises the density of instructions",
    expected={"LIMA": "1.064 -> 1.348", "MT-Bench": ".935 -> 1.117", "Self-Instruct": ".999 -> 1.189"},
    seen=f"{pair(s['base'])} -> {pair(s['tuned'])}, p = {tests['tuned']:.0e}",
    holds=bool(s["tuned"].mean() > s["base"].mean() and tests["tuned"] < 0.05),
    source="sheet",
    control={
        "statement": "the base model after as many steps of plain text",
        "seen": f"{pair(s['more text'])}, p = {tests['more text']:.1g}",
        "failed": tests["more text"] >= 0.05,
    },
    note="expected: LLaMA-7B -> Vicuna-7B, recomputed by us from the attributions that the authors released (p = 3e-13, "
    ".015, 2e-5); only the direction can carry over to two layers and 41 words. One-sided Welch test"
    + (". A quick run, which tunes until about half of the answers are right" if lesson.quick() else ""),
)  # fmt: skip

# %% [markdown]
# ## Claim: what is followed is denser
# Half-way through tuning the model obeys about half of the prompts. Are those the ones whose verb is dense? Four hundred
# new prompts, because the difference may be small.
# %%
asked, told, wanted, _ = ask(np.random.default_rng(seed + 2), 400)
answered = respond(models["half tuned"], asked)
followed = (answered[:, PROMPT + 1 :] == wanted).all(1)
a_half = densities(importance(models["half tuned"], answered))
verb_score = instruction_score(a_half)
by_please = instruction_score(a_half, (PLEASE,))
p_verb = above(verb_score[followed], verb_score[~followed])
p_please = above(by_please[followed], by_please[~followed])
lesson.claim(
    "2",
    "Instructions that are followed are denser than those that are not",
    expected={
        "LIMA": "1.403 over 1.090",
        "MT-Bench": "1.206 over .792",
        "Self-Instruct": "1.285 over .975",
    },
    seen=f"{pair(verb_score[followed])} ({followed.sum()}) over {pair(verb_score[~followed])} "
    f"({(~followed).sum()}), p = {p_verb:.2g}",
    holds=bool(verb_score[followed].mean() > verb_score[~followed].mean() and p_verb < 0.05),
    source="sheet",
    control={
        "statement": "the same test on the word please, which decides nothing",
        "seen": f"{pair(by_please[followed])} over {pair(by_please[~followed])}, p = {p_please:.2g}",
        "failed": p_please >= 0.05,
    },
    note="expected: Vicuna-7B, recomputed by us from the released attributions, p from < .0001 to .002. Verbs are not "
    "equally hard here, so a difference may stand between verbs rather than between answers: see the table",
)
rows = []
for v, name in enumerate(VERBS):
    of = told == v
    yes, no = verb_score[of & followed], verb_score[of & ~followed]
    rows.append(
        [name, len(yes), len(no), *(f"{x.mean():.2f}" if len(x) else "-" for x in (yes, no))]
    )
lesson.table(rows, ["verb", "followed", "not", "score if followed", "if not"], "Verb by verb")

# %% [markdown]
# ## Claim: density is not importance
# One token matters enormously for one response token, another a little for each of sixteen.
# %%
lesson.predict(
    "Ranked by the sum of its importances the first wins. And by density?",
    ["the first too", "the second, by a factor of 8", "they are equal"],
    1,
    because="levels are relative within a response token, so the little token is at level 10 sixteen times: 16^¾ = 8.",
)
# %%
small = np.zeros((2, 17))
small[0, 0], small[1, 1:] = 50.0, 1e-3
sums = small.sum(1)


def raw(importance):
    """(2), (3) by the exhibit, relative to a token that is dense once."""
    made = instruction_shift.run("density", importance=importance).density_b[7]
    return made / made[0]


ratio = float(raw(small)[1])
growth = {m: float(raw(np.array([[1.0] + [0] * m, [0.0] + [1.0] * m]))[1]) for m in (2, 4, 16, 64)}
worst = max(abs(g - m**0.75) for m, g in growth.items())
by_sum = int(sums.argmax()), int(raw(small).argmax())
lesson.claim(
    "3",
    "The density ranks the steady token first: m^¾ against 1",
    expected={m: round(m**0.75, 2) for m in growth},
    seen={m: round(g, 2) for m, g in growth.items()},
    holds=worst < 1e-5 and by_sum[1] == 1,
    source="sheet",
    control={
        "statement": "the same ranking by the sum of importances",
        "seen": f"{sums[1]:.3f} against {sums[0]:.0f}",
        "failed": by_sum[0] == 0,
    },
    note=f"for m = 16 the density is {ratio:.2f} times that of the token with 3000 times the sum",
)

# %% [markdown]
# ## Claim: verbs appear in more word pairs
# The second lens looks at weights alone. Dimension r of a head has a number for every word as a query and as a key;
# the words with the largest numbers, if they also mean similar things, are a *pattern* of that dimension. "Mean
# similar things" needs static word vectors (the authors: GloVe). Ours come from counting neighbours in the text.
# %%
inputs, _ = documents(tuned=True, rows=4000)(np.random.default_rng(1))
counts = np.zeros((len(WORDS), 4 * len(WORDS)))
for block, offset in enumerate((-2, -1, 1, 2)):
    left, other = (inputs[:, : -abs(offset)], inputs[:, abs(offset) :])[:: 1 if offset > 0 else -1]
    np.add.at(counts, (left.ravel(), block * len(WORDS) + other.ravel()), 1)
expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
ppmi = np.log(np.maximum(counts, 1e-9) / np.maximum(expected, 1e-9)).clip(0)
U, S, _ = np.linalg.svd(ppmi, full_matrices=False)
static = U[:, :12] * S[:12]


@cache
def patterns(model, layer):
    """Word pairs of every head of a layer, and the words of its feed-forward directions."""
    part = model.blocks[layer]
    embedding = model.embedding.weight.detach().double().numpy()
    W = part.mixer.qkv.weight.detach().double().numpy()  # (3 width, width)
    return instruction_shift.run(
        "word_patterns",
        backend="numba",
        word_embed_in=embedding,
        word_embed_out=model.head.weight.detach().double().numpy(),
        static_embed=static,
        q_proj=W[:64],
        k_proj=W[64:128],
        input_norm=part.mixer_norm.weight.detach().double().numpy(),
        down_proj=part.mlp[3].weight.detach().double().numpy(),
        n_q_heads=4,
        n_kv_heads=4,
        top_k=12,
        ffn_top_k=8,
        ffn_rank=4,
    )


def word_counts(head):
    """How often each word stands in pairs that more than one dimension of the head has."""
    seen = {}
    for dimension in head["pairs_k_q"]:
        own = {tuple(sorted(WORDS[w].lower() for w in p)) for p in dimension if p[0] >= 0}
        for words in own:
            seen[words] = seen.get(words, 0) + 1
    found = {}
    for words, times in seen.items():
        for word in words if times > 1 else ():
            found[word] = found.get(word, 0) + times
    return found


def win_rate(words, after):
    """Share of heads in which a word gained among those in which its count changed; mean over words."""
    rates, changed = [], 0
    for word in words:
        gained, moved = 0, 0
        for layer in (0, 1):
            for x, y in zip(patterns(base, layer).head, patterns(after, layer).head):
                one, two = word_counts(x).get(word, 0), word_counts(y).get(word, 0)
                gained, moved = gained + (two > one), moved + (two != one)
        changed += moved
        if moved:
            rates.append(gained / moved)
    return (float(np.mean(rates)) if rates else float("nan")), changed


verbs, letters = win_rate(VERBS, tuned), win_rate(LETTERS, tuned)
untuned = win_rate(VERBS, more)
lesson.claim(
    "4",
    "Instruction verbs gain patterns: win rate above .5",
    expected="above .5",
    seen=f"{verbs[0]:.2f} (of {verbs[1]} changes)",
    holds=bool(verbs[0] > 0.5),
    source="paper",
    control={
        "statement": "verbs after more plain text",
        "seen": f"{untuned[0]:.2f} (of {untuned[1]})",
        "failed": not untuned[0] > 0.5,
    },
    note="the paper (its README, for Table 3) finds it in lower and middle layers of a 7B model with 37 verbs; here four "
    "verbs and two layers of four heads, so that a rate rests on few changes. It is above that of general verbs, too; here the "
    f"other words, letters, changed {letters[1]} times: they are all alike, and likeness is measured against the average",
)
# %% [markdown]
# The third lens: the strongest directions in which a feed-forward layer writes, read as words.
# %%
rows = []
for name, model in (("base", base), ("tuned", tuned)):
    made = patterns(model, 1)
    for r in range(2):
        words = " ".join(WORDS[w] for w in made.ffn_top_words[r])
        rows.append([name, f"{made.ffn_variance_share[r]:.0%}", words])
lesson.table(
    rows, ["model", "variance", "words"], "Principal directions of the last layer's output"
)


def verbs_among(model):
    """How many of the eight words of the first four directions of both layers are verbs."""
    tops = np.stack([patterns(model, layer).ffn_top_words for layer in (0, 1)])  # (2, 4, 8)
    return int(np.isin(tops, [ID[v] for v in VERBS]).sum())


print(
    f"verbs among the {2 * 4 * 8} words: base {verbs_among(base)}, tuned {verbs_among(tuned)}, more text {verbs_among(more)}"
)
# %% [markdown]
# A first direction made of verbs looks like a find. The count over all directions says how far to trust it: the base
# model, for which verbs decide nothing, has such directions too.
# %%
lesson.untried(
    "5",
    "Concepts rotate towards user tasks (Table 5: shares of writing, math, coding, translation)",
    reason="needs a 7B model and another one that describes lists of words",
)
lesson.untried(
    "6",
    "Followed against not followed on LIMA, MT-Bench and Self-Instruct (Table 1)",
    reason="needs Vicuna-7B and human ratings; the figures stand under claim 2",
)

# %% [markdown]
# ## Every path, and what it costs
# The exhibit's model has one layer, so that all T backward passes have a closed form: with c = (∂p/∂h) · v the
# importance is A c + A (c - c̄) S, products of matrices. A deep model needs T passes.
# %%
repeat = 1 if lesson.quick() else 3
lesson.compare("instruction_shift", "attribute", n=48, dim=32, vocabulary=64, repeat=repeat)
sizes = [128, 256, 512] if lesson.quick() else [256, 512, 1024, 2048]
lesson.cost("instruction_shift", sizes, "attribute", claimed=2.0)

# %% [markdown]
# ## Paper versus code, and other traps
# **A view is not a copy.** The code collects each gradient with `.cpu()`. From a GPU that copies. On a CPU it is the
# tensor itself, which the next backward pass overwrites: every row becomes the last.
# %%
ids = torch.as_tensor(respond(tuned, prompts[:1]))
e = tuned.embedding(ids).detach().requires_grad_()
p = tuned.head(tuned.norm(tuned.blocks(e + tuned.place[: ids.shape[1]]))).softmax(-1)
kept, copied = [], []
for j in range(PROMPT, PROMPT + LENGTH):
    p[0, j, ids[0, j + 1]].backward(retain_graph=True)
    kept.append(e.grad.cpu())
    copied.append(e.grad.clone())
    e.grad.zero_()
print("rows that are equal:", sum(torch.equal(k, kept[-1]) for k in kept), "of 4 without a copy,",
      sum(torch.equal(k, copied[-1]) for k in copied), "of 4 with one")  # fmt: skip
# %% [markdown]
# **Probability or its logarithm?** d log p = dp / p: unlikely tokens would explode. Levels are relative within a
# response token, so they hide it (but for ε).
#
# **ε decides about confident models.** Where p is almost 1 its gradient is almost 0, and next to ε = 1e-7 (the
# generator's) or 1e-9 (the analysis') nothing may be left.
# %%
left = {}
for eps in (1e-9, 1e-7, 1e-5, 1e-3):
    made = [
        instruction_shift.run("density", importance=row, eps=eps).density_b[7] for row in I["tuned"]
    ]
    score = instruction_score(np.stack(made))
    left[eps] = [f"{eps:g}", f"{score.mean():.3f}", f"{(np.stack(made).max(1) == 0).mean():.0%}"]
lesson.table(
    list(left.values()), ["ε", "mean score", "prompts without any level"], "The tuned model"
)
# %% [markdown]
# **Per column, not over the matrix.** With one maximum for the whole matrix a confident token, whose gradients are
# small, would have no dense prompt token at all.
#
# ## Where it fails
# A gradient says what an infinitely small change would do. Replace the verb by another and the answer changes
# wholly, whatever the gradient said. The density also depends on the answer's length and on how the instruction is
# cut into tokens: (5) divides by log₂(2 + k), so longer instructions score higher. And a dense verb is not yet an
# obeyed one: only the comparison of twins carries the claim.
# %%
lesson.exercise(
    "instruction_shift",
    "Derive m^(1 - 1/p) for a token that matters equally for m response tokens, and show that levels 8, 9, 10, 8, … count "
    "as steady. Then write `attribute`, first with T backward passes, then in closed form.",
)
