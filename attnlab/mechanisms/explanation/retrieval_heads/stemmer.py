"""Words as ROUGE counts them: lower case, letters and digits, Porter stems in NLTK's variant.

Source: Porter, "An algorithm for suffix stripping", Program 14(3), 1980; measure, conditions and
steps are his. NLTK departs from it in ways that change counts ("days" gives "day", "dying" "die",
"happily" "happili"): marked below.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

# stem -> words that no rule gets right (NLTK)
IRREGULAR = {
    "sky": ("sky", "skies"),
    "die": ("dying",),
    "lie": ("lying",),
    "tie": ("tying",),
    "news": ("news",),
    "inning": ("innings", "inning"),
    "outing": ("outings", "outing"),
    "canning": ("cannings", "canning"),
    "howe": ("howe",),
    "proceed": ("proceed",),
    "exceed": ("exceed",),
    "succeed": ("succeed",),
}
STEM_OF = {word: stem for stem, group in IRREGULAR.items() for word in group}

Condition = Callable[[str], bool]


def words(text: str, stemmed: bool) -> list[str]:
    """Words of a text; with `stemmed`, those above three letters as stems."""
    found = re.findall("[a-z0-9]+", text.lower())
    return [stem(word) if stemmed and len(word) > 3 else word for word in found]


def shape(word: str) -> str:
    """c and v for every letter: y is a consonant at the start and after a vowel."""
    kinds = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and kinds.endswith("c"))
        kinds += "v" if vowel else "c"
    return kinds


def measure(word: str) -> int:
    """m of [C](VC)^m[V]: how often a vowel is followed by a consonant."""
    return shape(word).count("vc")


def double(word: str) -> bool:
    """*d: ends in a double consonant."""
    return len(word) >= 2 and word[-1] == word[-2] and shape(word)[-1] == "c"


def short(word: str) -> bool:
    """*o: ends consonant, vowel, consonant other than w, x, y; or is vowel, consonant (NLTK)."""
    kinds = shape(word)
    return (kinds.endswith("cvc") and word[-1] not in "wxy") or kinds == "vc"


def positive(word: str) -> bool:
    return measure(word) > 0


def above_one(word: str) -> bool:
    return measure(word) > 1


def replaced(word: str, rules: tuple[tuple[str, str, Condition | None], ...]) -> str:
    """The first rule whose ending fits decides, whether or not its condition holds."""
    for ending, instead, condition in rules:
        if word.endswith(ending):
            rest = word[: len(word) - len(ending)]
            return rest + instead if condition is None or condition(rest) else word
    return word


@cache
def stem(word: str) -> str:
    """The stem of a lower-case word."""
    if word in STEM_OF:
        return STEM_OF[word]
    if len(word) <= 2:
        return word
    for step in (plural, past, final_y, double_suffix, simple_suffix, suffix, final_e):
        word = step(word)
    return word[:-1] if word.endswith("ll") and above_one(word[:-1]) else word  # step 5b


def plural(word: str) -> str:
    """Step 1a. "ties" gives "tie" (NLTK)."""
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    return replaced(
        word, (("sses", "ss", None), ("ies", "i", None), ("ss", "ss", None), ("s", "", None))
    )


def past(word: str) -> str:
    """Step 1b. "died" gives "die", "spied" "spi" (NLTK)."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if positive(word[:-3]) else word
    for ending in ("ed", "ing"):
        rest = word.removesuffix(ending)
        if rest != word and "v" in shape(rest):
            break
    else:
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if double(rest):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if measure(rest) == 1 and short(rest) else rest


def final_y(word: str) -> str:
    """Step 1c. y becomes i after a consonant that is not the first letter (NLTK)."""
    return replaced(word, (("y", "i", lambda rest: len(rest) > 1 and shape(rest)[-1] == "c"),))


STEP_2 = tuple(
    (ending, instead, positive)
    for ending, instead in (
        ("ational", "ate"),
        ("tional", "tion"),
        ("enci", "ence"),
        ("anci", "ance"),
        ("izer", "ize"),
        ("bli", "ble"),  # NLTK; Porter has abli, able
        ("alli", "al"),
        ("entli", "ent"),
        ("eli", "e"),
        ("ousli", "ous"),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ator", "ate"),
        ("alism", "al"),
        ("iveness", "ive"),
        ("fulness", "ful"),
        ("ousness", "ous"),
        ("aliti", "al"),
        ("iviti", "ive"),
        ("biliti", "ble"),
        ("fulli", "ful"),  # NLTK
    )
)


def double_suffix(word: str) -> str:
    """Step 2. After -alli has become -al the step is taken again (NLTK)."""
    if word.endswith("alli") and positive(word[:-4]):
        return double_suffix(word[:-2])
    if word.endswith("logi"):  # NLTK: the l belongs to the stem that is measured
        return word[:-1] if positive(word[:-3]) else word
    return replaced(word, STEP_2)


STEP_3 = tuple(
    (ending, instead, positive)
    for ending, instead in (
        ("icate", "ic"),
        ("ative", ""),
        ("alize", "al"),
        ("iciti", "ic"),
        ("ical", "ic"),
        ("ful", ""),
        ("ness", ""),
    )
)


def simple_suffix(word: str) -> str:
    """Step 3."""
    return replaced(word, STEP_3)


BEFORE_ION = ("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent")
AFTER_ION = ("ou", "ism", "ate", "iti", "ous", "ive", "ize")


def ion(rest: str) -> bool:
    return above_one(rest) and rest[-1] in "st"


STEP_4 = (
    *((ending, "", above_one) for ending in BEFORE_ION),
    ("ion", "", ion),
    *((ending, "", above_one) for ending in AFTER_ION),
)


def suffix(word: str) -> str:
    """Step 4."""
    return replaced(word, STEP_4)


def final_e(word: str) -> str:
    """Step 5a."""
    return replaced(
        word,
        (("e", "", lambda rest: above_one(rest) or (measure(rest) == 1 and not short(rest))),),
    )
