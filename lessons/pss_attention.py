# ---
# minutes: 8
# ---
# %% [markdown]
# # Peeling: a model teaches its own attention
# "The waiter was great, though the noodles were insipid." A sentiment classifier that has seen *great* a thousand
# times and *insipid* twice will look at *great*, whatever it was asked about. Attention trained by gradient descent
# leans on few frequent words, and the rare ones never get a share to learn from.
#
# Su et al. (*Enhanced Aspect-Based Sentiment Analysis Models with Progressive Self-supervised Attention Learning*,
# Artificial Intelligence 2021; first at ACL 2019) let the model mend this alone. Train it; in each training sentence,
# note the word it relied on most; erase that word; train a fresh model on what is left; again. Like peeling an onion.
# A word that led to a right prediction is **active**, one that led to a wrong one **misleading**. Then train once more
# on whole sentences, with a regulariser that pulls attention equally to the active words and off the misleading ones.
#
# ```math
# α = softmax( A[x] · (u M) ),  o = Σ αᵢ C[xᵢ],  u ← o + u H,  p = softmax(u W)      the model          (1), (2)
# E(α) = - Σ αᵢ log₂ αᵢ  < ε :   extract  i = argmax α                              once a round       (3), (4)
# L_att = mean Σᵢ (amaskᵢ αᵢ - avalueᵢ)²       avalue = 1/|active| on active words, 0 on misleading        (5)
# L = L_class + λ L_att                                                                                   (6)
# ```
#
# u starts as the mean vector of the aspect's words ("noodles"); A, B, C are embedding tables. No person marks a word.
# %%
from collections import Counter

import numpy as np
import torch

from attnlab import lesson, registry
from attnlab.datasets.files import DatasetMissing
from attnlab.datasets.sentiment import semeval
from attnlab.lesson import plots

exhibit = registry.find("pss_attention")
quick = lesson.quick()
lesson.source("attnlab.mechanisms.training.pss_attention.reference.mine")

# %% [markdown]
# ## A language with easy and hard words
# Three classes. Each sentence has twelve words: one *rare* polarity word (sixty a class), in four sentences of five
# also a *frequent* one (four a class), and noise. Either word alone tells the class. Which will a model look at?
# %%
NOISE, RARE, FREQUENT, ASPECT, VOCABULARY = 1, 301, 481, 493, 503  # where each kind of id begins


def sentences(count, rng):
    """(data, place of the rare word, whether there is a frequent word), for `count` sentences."""
    y, rows = rng.integers(0, 3, count), np.arange(count)
    text = NOISE + rng.integers(0, 300, (count, 12))
    place = np.argsort(rng.random((count, 12)), axis=1)
    text[rows, place[:, 0]] = RARE + 60 * y + rng.integers(0, 60, count)
    easy = rng.random(count) < 0.8
    text[rows[easy], place[easy, 1]] = FREQUENT + 4 * y[easy] + rng.integers(0, 4, easy.sum())
    data = {"text": text, "text_length": np.full(count, 12), "polarity": y}
    return data | {"aspect": ASPECT + rng.integers(0, 10, (count, 1))}, place[:, 0], easy


# %% [markdown]
# The model is the exhibit's memory network as a torch module; mining is the exhibit's `mine`.
# %%
def train(data, epochs, seed, lam=0.0, supervised=None, mask=None, valid=None, start=None, **sizes):
    """A memory network; of `supervised` = (amask, avalue). With `valid`, the best epoch on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # products this small only wait for a second thread
    torch.manual_seed(seed)
    sizes = {"vocabulary": VOCABULARY, "dim": 20} | sizes
    net = exhibit.headline.module(lam=lam, value_norm="guarded", **sizes)
    if start is not None:
        net.load_state_dict(start)
    adam = torch.optim.Adam(net.parameters(), 5e-3)
    inputs = {k: torch.from_numpy(v) for k, v in data.items()}
    amask, avalue = np.zeros((2, *data["text"].shape)) if supervised is None else supervised
    inputs["attention_mask"] = torch.from_numpy(amask > 0)
    inputs["attention_value"] = torch.from_numpy(avalue).float()
    if mask is not None:
        inputs["mask"] = torch.from_numpy(mask > 0)
    best = -1.0, net.state_dict()
    for _ in range(epochs):
        for at in torch.randperm(len(data["polarity"])).split(64):
            loss = net(**{k: v[at] for k, v in inputs.items()}, want=("loss",)).loss
            adam.zero_grad()
            loss.backward()
            adam.step()
        if valid is not None and (score := accuracy(net, valid)) > best[0]:
            best = score, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(best[1])
    torch.set_num_threads(before)
    return net


def read(net, data, mask=None):
    """(attention, predicted class) of each sentence, on the CPU path."""
    weights = {k: p.detach().numpy() for k, p in net.named_parameters()}
    none = np.zeros(data["text"].shape, "f4")
    supervision = {"attention_mask": none > 0, "attention_value": none}
    kept = {} if mask is None else {"mask": mask > 0}
    made = exhibit.run("classify", backend="numba", **data, **weights, **supervision, **kept)
    return made.alpha, made.probabilities.argmax(1)


def accuracy(net, data, where=slice(None)):
    return float((read(net, data)[1] == data["polarity"])[where].mean())


def mine(data, alphas):
    seen = np.arange(data["text"].shape[1]) < data["text_length"][:, None]
    return exhibit.run("mine", alphas=alphas, wids=data["text"], dist=np.where(seen, 0, -1))


def peel(data, rounds, epochs, seed, fresh=True, **settings):
    """Signed attentions (rounds, sentences, words) and what `mine` makes of them."""
    kept, words, alphas, start = None, data["text"], [], None
    for k in range(rounds):
        left = data | {"text": words}
        net = train(left, epochs, 100 * seed + k, mask=kept, start=start, **settings)
        start = None if fresh else net.state_dict()
        alpha, said = read(net, left, kept)
        alphas.append(np.where((said == data["polarity"])[:, None], alpha, -alpha))
        mined = mine(data, np.array(alphas))
        kept, words = mined.erase_mask_after[-1], mined.erased_wids_after[-1]
    return np.array(alphas), mined


# %% [markdown]
# ## One sentence, peeled
# %%
lesson.predict(
    "600 sentences, and each has a rare word that tells its class. In how many does the first model look at it most?",
    ["nearly all", "about one in five", "none"],
    1,
    because="where a frequent word stands beside it, that one is learned first and wins. One sentence in five has none.",
)
# %%
seed = lesson.seed()
data, rare, easy = sentences(600, np.random.default_rng(seed))
alphas, mined = peel(data, 5, 8, seed)
final = train(data, 8, seed + 50, lam=0.5, supervised=(mined.amask, mined.avalue))
rows = np.arange(600)


def found(mined, place):
    """Share of sentences whose word at `place` has been erased, after each round."""
    masks = mined.erase_mask_after[1:]
    return [round(float(np.mean(mask[np.arange(len(place)), place] == 0)), 2) for mask in masks]


print("rare word found after rounds 1-5:", found(mined, rare))


# %% tags=["hide-input"]
def named(word):
    for begin, name in ((ASPECT, "aspect"), (FREQUENT, "FREQ"), (RARE, "RARE")):
        if word >= begin:
            return name
    return f"n{word}"


# a sentence that loses its frequent word first and its rare word second
erased = np.array(mined.erase_mask_after) == 0
second = erased[2, rows, rare] & ~erased[1, rows, rare] & easy
chosen = int(np.flatnonzero(second)[0])
picture = np.abs(alphas[:, chosen])
picture = np.vstack(
    [np.where(erased[:5, chosen], np.nan, picture), read(final, data)[0][chosen][None]]
)
words = [named(w) for w in data["text"][chosen]]
labels = [f"round {k}" for k in range(1, 6)] + ["final model"]
lesson.figure(
    plots.heat(picture, labels, words, title="attention, round by round", low=0, high=1),
    caption="One sentence. A blank cell is a word that an earlier round took. The frequent word goes first, then the rare "
    "one; the last row is the supervised model, which sees the whole sentence again.",
    alt="Heat map of six rows and twelve words; one bright cell a row, blank in the rows below it; the last row is the supervised model",
    terminal=lesson.heat(picture, labels, words, title="attention (blank: erased)", low=0, high=1),
)

# %% [markdown]
# ## Claim 1: peeling finds the rare words
# %%
shares = {"600 sentences, 8 epochs": found(mined, rare)[:3]}
if not quick:
    corpus, places, _ = sentences(1500, np.random.default_rng(seed))
    _, made = peel(corpus, 3, 25, seed)
    shares["1500 sentences, 25 epochs"] = found(made, places)
drawn = np.argsort(lesson.rng().random((600, 12)), axis=1)[:, :3]  # three words at random
by_chance = float((drawn == rare[:, None]).any(1).mean())
_, continued = peel(data, 3, 8, seed, fresh=False)
lesson.claim(
    "1",
    "Share of training sentences whose rare word is extracted after rounds 1, 2, 3",
    expected={
        "600 sentences, 8 epochs": [0.19, 0.60, 0.76],
        "1500 sentences, 25 epochs": [0.21, 1.00, 1.00],
    },
    seen=shares,
    holds=all(s[0] < 0.3 and s[2] > 0.6 for s in shares.values()),
    source="sheet",
    control={
        "statement": "three words of each sentence drawn at random",
        "seen": round(by_chance, 2),
        "failed": by_chance < 0.6,
    },
    note="holds if round 1 finds less than .3 and round 3 more than .6",
)
print(
    "the same weights trained on, instead of a fresh model each round:",
    found(continued, rare),
)

# %% [markdown]
# A known mistake is to train on instead of starting afresh. Here it even finds more, because after three rounds the one
# model has had 24 epochs. But its embeddings still hold what it learned from the words that are gone.
#
# ## Claims 2 to 4: is the supervised model better?
# Each seed draws its own sentences, peels them, and trains the final model with the words of the first 0, 1, …, 5
# rounds. *Hard* sentences have no frequent word. As a control, the same number of words per sentence is supervised,
# but drawn at random.
# %%
lesson.predict(
    "The final model is supervised with 1, 2, …, 5 words a sentence. Which number is best?",
    [
        "five: the more words, the more knowledge",
        "three, then it stays",
        "one; every further word takes some away",
    ],
    2,
    because="here a sentence has two telling words at most. Rounds 3 to 5 peel noise, and (5) gives each word an equal share.",
)
# %%
SEEDS = range(seed, seed + (1 if quick else 5))
everywhere, hard, entropy, misled, random_gain = [], [], [], [], []
for s in lesson.track(SEEDS, "seeds"):
    rng = np.random.default_rng(s)
    fit, _, _ = sentences(600, rng)
    test, _, test_easy = sentences(1500, rng)
    attention = alphas if s == seed else peel(fit, 5, 8, s)[0]  # the first are those from above
    nets, extracted = [train(fit, 8, s + 50)], []
    for k in range(1, 6):
        extracted.append(mine(fit, attention[:k]))
        pair = extracted[-1].amask, extracted[-1].avalue
        nets.append(train(fit, 8, s + 50, lam=0.5, supervised=pair))
    third = extracted[2]
    shuffle = np.argsort(rng.random((600, 12)), axis=1)
    anywhere = [np.take_along_axis(x, shuffle, 1) for x in (third.amask, third.avalue)]
    blind = train(fit, 8, s + 50, lam=0.5, supervised=anywhere)
    everywhere.append([accuracy(net, test) for net in nets])
    hard.append([accuracy(net, test, ~test_easy) for net in nets])
    random_gain.append(accuracy(blind, test, ~test_easy) - hard[-1][0])
    weights = [read(net, test)[0] for net in nets]
    entropy.append([float(-(a * np.log2(a + 1e-30)).sum(1).mean()) for a in weights])
    wrong = (third.amask > 0) & (third.avalue == 0)
    again = train(fit, 8, s + 77)
    misled.append([float(read(net, fit)[0][wrong].mean()) for net in (nets[0], nets[3], again)])
everywhere, hard, entropy, misled = (
    np.array(x) for x in (everywhere, hard, entropy, misled)
)  # (seeds, rounds 0-5), misled: plain, supervised, plain again
# %% tags=["hide-input"]
rounds = np.arange(6.0)
figure, (left, right) = plots.subplots(1, 2, figsize=(9.4, 3.4))
plots.lines(
    {"all sentences": (rounds, everywhere.mean(0)), "hard sentences": (rounds, hard.mean(0))},
    xlabel="rounds of peeling",
    ylabel="accuracy",
    ax=left,
)
plots.lines(
    {"final model": (rounds, entropy.mean(0))},
    xlabel="rounds of peeling",
    ylabel="entropy of attention (bits)",
    ax=right,
)
lesson.figure(
    figure,
    caption=f"Left: accuracy on 1500 new sentences, mean of {len(SEEDS)} seeds. Right: attention spreads with the number "
    "of words it is pulled to. Round 0 is the plain model.",
    alt="Two line plots over zero to five rounds: accuracy jumps up at one round and then declines slowly; entropy drops and then rises",
    terminal=lesson.lines(
        {"all": (rounds, everywhere.mean(0)), "hard": (rounds, hard.mean(0))},
        xlabel="rounds of peeling",
        ylabel="accuracy",
    ),
)


# %%
def pair(values):
    return [round(float(v), 3) for v in values]


one_seed = ". A quick run: one seed, which one more training can turn around" if quick else ""
gain, hard_gain = everywhere[:, 3] - everywhere[:, 0], hard[:, 3] - hard[:, 0]
lesson.claim(
    "2",
    "The regularised model is better, most of all on sentences without a frequent word (3 rounds, λ = 0.5)",
    expected={"all: plain, supervised": [0.951, 0.970], "hard: plain, supervised": [0.768, 0.856]},
    seen={
        "all: plain, supervised": pair(everywhere.mean(0)[[0, 3]]),
        "hard: plain, supervised": pair(hard.mean(0)[[0, 3]]),
        "gain on hard, each seed": pair(hard_gain),
    },
    holds=bool((gain > 0).all() and (hard_gain > 0).all() and hard_gain.mean() > gain.mean()),
    source="sheet",
    control={
        "statement": "gain on hard sentences when as many words are supervised at random",
        "seen": round(float(np.mean(random_gain)), 3),
        "failed": bool(np.mean(random_gain) < hard_gain.mean() / 2),
    },
    note="600 sentences, 8 epochs: far from convergence, where the level depends on the initial weights; holds if every "
    "seed gains",
)
share_lost, again_lost = misled[:, 0] - misled[:, 1], misled[:, 0] - misled[:, 2]
lesson.claim(
    "3",
    "The final model's attention has a higher entropy, and less of it lies on misleading words",
    expected="entropy rises, misleading mass falls",
    seen={
        "entropy: plain, 3 rounds, 5 rounds": pair(entropy.mean(0)[[0, 3, 5]]),
        "attention on a misleading word: plain, supervised": pair(misled.mean(0)[:2]),
        "fall, each seed": [round(float(x), 4) for x in share_lost],
    },
    holds=bool(entropy[:, 3].mean() > entropy[:, 0].mean() and (share_lost > 0).all()),
    source="unverified",
    control={
        "statement": "fall of the misleading mass when the plain model is trained again from another seed",
        "seen": [round(float(x), 4) for x in again_lost],
        "failed": bool((again_lost <= 0).any()),
    },
    note="what the idea leads one to expect; no figure of the paper was at hand. The entropy follows the number of "
    "active words: (5) is least when attention is even on them" + one_seed,
)
means = everywhere.mean(0)
lesson.claim(
    "4",
    "The gain grows with the rounds and then saturates",
    expected="accuracy rises from 0 to 5 rounds, then stays",
    seen={"all": pair(means), "hard": pair(hard.mean(0))},
    holds=bool(means[3] > means[0] and means[5] > means[1:].max() - 0.005),
    source="unverified",
    note="the authors train exactly these six models; their figures were not at hand. Saturates: round 5 is within half a "
    "point of the best. Here a sentence has two telling words, so most of what rounds 3 to 5 peel is noise"
    + one_seed,
)
# %% [markdown]
# And when every model is trained to convergence, on less data?
# %%
lams, late = (0.1, 0.5, 2.0), []
for s in range(seed, seed + (1 if quick else 3)):
    rng = np.random.default_rng(s)
    fit, _, _ = sentences(300, rng)
    test, _, test_easy = sentences(1500, rng)
    _, words3 = peel(fit, 3, 25, s)
    plain = accuracy(train(fit, 25, s + 50), test, ~test_easy)
    sup = words3.amask, words3.avalue
    runs = [train(fit, 25, s + 50, lam=lam, supervised=sup) for lam in lams]
    late.append([accuracy(net, test, ~test_easy) - plain for net in runs])
late = np.array(late)
lesson.claim(
    "2b",
    "At convergence the gain on hard sentences vanishes, and a strong regulariser turns it around",
    expected={"λ = 0.1": 0.03, "λ = 0.5": -0.01, "λ = 2": -0.04},
    seen={f"λ = {lam:g}": pair(late[:, i]) for i, lam in enumerate(lams)},
    holds=bool((late[:, 2] < 0).all() and late[:, 2].mean() < late[:, 0].mean()),
    source="sheet",
    note="300 sentences, 25 epochs, one figure a seed; holds if every seed loses at λ = 2. The earlier figures were means "
    "of a few points, which is what one seed differs from the next" + one_seed,
)


# %% [markdown]
# ## Real reviews
# SemEval-2014, restaurants: a sentence, an aspect in it, negative, neutral or positive. The paper starts from 300-d
# GloVe vectors; here everything is learned from 2,900 sentences, and a fifth is held out to choose the epoch (the
# released code chooses by the test set).
# %%
def encode(opinions, vocabulary):
    """Context and aspect as ids: 0 padding, 1 unknown. The aspect's words are left out of the context."""
    rows = []
    for words, inside, polarity in opinions:
        lower = [w.lower() for w in words]
        context = lower[: inside.start] + lower[inside.stop :]
        rows.append((context[:60], lower[inside], polarity + 1))
    rows = [r for r in rows if r[0] and r[1]]
    text = np.zeros((len(rows), 60), int)
    aspect = np.zeros((len(rows), 3), int)
    for b, (context, target, _) in enumerate(rows):
        text[b, : len(context)] = [vocabulary.get(w, 1) for w in context]
        aspect[b] = [vocabulary.get(target[i % len(target)], 1) for i in range(3)]
    lengths = np.array([len(r[0]) for r in rows])
    return {"text": text, "text_length": lengths, "aspect": aspect} | {
        "polarity": np.array([r[2] for r in rows])
    }


try:
    opinions, held = semeval(split="Train"), semeval(split="Test_Gold")
except DatasetMissing as missing:
    opinions = held = []
    print(f"skipped: {missing}")
opinions, held = (opinions[:1200], held[:500]) if quick else (opinions, held)
# %%
if opinions:
    counts = Counter(w.lower() for o in opinions for w in o.words)
    vocabulary = {w: i + 2 for i, (w, n) in enumerate(counts.most_common()) if n > 1}
    spelled = {i: w for w, i in vocabulary.items()}
    corpus, reviews = encode(opinions, vocabulary), encode(held, vocabulary)
    sizes = {"vocabulary": len(vocabulary) + 2, "dim": 30}
    scores, epochs = [], 4 if quick else 7
    for s in lesson.track(range(seed, seed + (1 if quick else 2)), "reviews"):
        order = np.random.default_rng(s).permutation(len(corpus["polarity"]))
        valid = {k: v[order[: len(order) // 5]] for k, v in corpus.items()}
        fit = {k: v[order[len(order) // 5 :]] for k, v in corpus.items()}
        attention, peeled = peel(fit, 3, epochs, s, valid=valid, **sizes)
        plain = train(fit, epochs, s + 50, valid=valid, **sizes)
        sup = peeled.amask, peeled.avalue
        ours = train(fit, epochs, s + 50, lam=0.5, supervised=sup, valid=valid, **sizes)
        for net in (plain, ours):
            said = read(net, reviews)[1]
            made = exhibit.run("evaluate", backend="numba", pred=said, gold=reviews["polarity"])
            scores.append([float(made.accuracy), float(made.macro_f1)])
    scores = np.array(scores).reshape(-1, 2, 2)  # (seeds, plain | supervised, accuracy | macro-F1)
    table = []
    for k in range(3):
        before, after = peeled.erase_mask_after[k : k + 2]
        taken = Counter(spelled.get(int(w), "?") for w in fit["text"][(before > 0) & (after == 0)])
        table.append([f"round {k + 1}", ", ".join(w for w, _ in taken.most_common(9))])
    lesson.table(table, ["", "words extracted most"], "What peeling finds in restaurant reviews")
    gains = scores[:, 1] - scores[:, 0]
    lesson.claim(
        "2c",
        "Real reviews: MN(+AS) classifies better than MN",
        expected="significantly better (abstract; also for TNet and BERT)",
        seen={
            "accuracy: MN, MN(+AS)": pair(scores[:, :, 0].mean(0)),
            "macro-F1: MN, MN(+AS)": pair(scores[:, :, 1].mean(0)),
            "gain in accuracy, each seed": pair(gains[:, 0]),
        },
        holds=bool((gains > 0).all()),
        source="paper",
        note="SemEval-2014 restaurants, 3 rounds, λ = 0.5, embeddings learned from the sentences alone instead of GloVe, "
        "a few epochs of Adam instead of 20 000 steps of SGD",
    )
# %% [markdown]
# With all reviews the words of round 1 make sense: *good*, *delicious*, *friendly*. Later rounds take full stops and
# articles, and they count as active wherever the prediction was right. Sentences shorter than sixteen words always lose a word: four
# bits, the threshold of the code, is the entropy of sixteen words attended to equally.
# %%
lesson.untried(
    "5",
    "TNet-ATT(+AS), accuracy / macro-F1: LAPTOP 78.25 / 74.43, REST 81.13 / 73.56, TWITTER 79.19 / 78.07",
    reason="figures of the authors' repository; they need TNet, the three tagged files and 840-billion-word GloVe vectors",
    source="paper",
)
lesson.untried(
    "6",
    "Better attention and accuracy for BERT-large too",
    reason="needs BERT-large and six trainings of it; the tables were not at hand",
    source="paper",
)

# %% [markdown]
# ## Paper versus code
# **A reader that eats letters.** Aspect words carry a tag: `pizza/p`. The released reader takes it off with a strip of
# *characters*, at both ends.
# %%
lines = [
    " ".join(
        w + ("/n", "/0", "/p")[o.polarity + 1] if o.aspect.start <= i < o.aspect.stop else w
        for i, w in enumerate(o.words)
    )
    for o in opinions
    if o.aspect.start < o.aspect.stop
] or ["the pizza/p was great", "no waiter/n came to the patio/n", "the onion/n soup/n , again"]
cut = exhibit.run("read_lines", lines=np.array(lines)).target_words
eaten = exhibit.run("read_lines", lines=np.array(lines), strip_characters=True).target_words
changed = [(a, b) for a, b in zip(cut, eaten) if a != b]
lesson.table(
    [[a, b] for a, b in dict(changed[:400]).items()][:6],
    ["aspect", "read as"],
    f"{len(changed)} of {len(lines)} aspects are misread",
)
# %% [markdown]
# **0/0.** The released final loss divides `avalue` by its row sum: a sentence whose words were all misleading gives
# NaN, and so does the batch. The option `value_norm` has all three behaviours.
# %%
sample = exhibit.headline.sample(8, seed=seed)
sample["attention_value"][0] = 0
for norm in ("given", "guarded", "released"):
    made = exhibit.run("classify", **sample, value_norm=norm)
    print(f"{norm:9} attention loss {float(made.attention_loss):.4f}")
share = float((mined.avalue.sum(1) == 0).mean())
print(f"sentences above without an active word: {share:.1%}")

# %% [markdown]
# ## The same numbers on every path
# Trained weights, 128 test sentences.
# %%
weights = {k: p.detach().numpy() for k, p in final.named_parameters()}
batch, _, _ = sentences(128, lesson.rng())
supervision = mined.amask[:128] > 0, mined.avalue[:128].astype("f4")
names = "attention_mask", "attention_value"
repeat = 1 if quick else 3
lesson.compare(
    "pss_attention", inputs=batch | weights | dict(zip(names, supervision)), repeat=repeat
)
# %% [markdown]
# ## What it costs
# K + 1 trainings instead of one; nothing at test time. Reading a sentence is one query against its words: linear.
# %%
lesson.cost("pss_attention", [64, 256, 1024] if quick else [128, 512, 2048, 4096], claimed=1.0)

# %% [markdown]
# ## Where it fails
# "Active" means that the *whole prediction* was right, not that this word made it so: in late rounds a model that
# guesses right by luck certifies noise. The number of rounds is a dial without a reading: one was best here. And a word that
# is erased from a bag of words is gone, while in an LSTM its neighbours still remember it, unless its id is erased too.
# %%
lesson.exercise(
    "pss_attention",
    "Write the memory network. Then prove that (5) under Σα = 1 is least when attention is even on the active words, and "
    "write `mine` as one vectorised NumPy pass.",
)
