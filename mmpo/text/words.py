"""English nouns as captions need them: plurals, articles, "a pair of". Small documented rules, lists of exceptions."""

from __future__ import annotations

import re

IRREGULAR = {
    "person": "people", "child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "ox": "oxen", "die": "dice", "quiz": "quizzes", "knife": "knives",
    "wife": "wives", "life": "lives", "leaf": "leaves", "loaf": "loaves", "shelf": "shelves", "half": "halves",
    "wolf": "wolves", "calf": "calves", "scarf": "scarves", "thief": "thieves", "elf": "elves", "cactus": "cacti",
    "octopus": "octopuses", "stomach": "stomachs", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
    "hero": "heroes", "volcano": "volcanoes", "buffalo": "buffaloes", "domino": "dominoes", "echo": "echoes",
    "gas": "gases",
}  # fmt: skip
SECOND_PLURALS = {
    "mouse": "mouses", "cactus": "cactuses", "mango": "mangos", "scarf": "scarfs", "bus": "busses",
    "buffalo": "buffalos", "volcano": "volcanos", "hoof": "hooves", "dwarf": "dwarves", "die": "dies",
    "person": "persons", "fish": "fishes",
}  # fmt: skip
# The same word for one and for many.
UNCHANGED = frozenset({
    "sheep", "deer", "fish", "moose", "bison", "shrimp", "salmon", "squid", "swine", "aircraft", "spacecraft",
    "watercraft", "hovercraft", "series", "species",
})  # fmt: skip
# Names of one thing that are plural already: "a pair of …".
PAIRED = frozenset({
    "skis", "scissors", "glasses", "eyeglasses", "sunglasses", "goggles", "binoculars", "jeans", "pants",
    "trousers", "shorts", "tights", "pajamas", "leggings", "pliers", "tongs", "tweezers", "shears", "headphones",
    "earphones", "chopsticks",
})  # fmt: skip
# Already plural, and no pair.
PLURAL = frozenset({
    "people", "men", "women", "children", "cattle", "police", "clothes", "stairs", "groceries", "teeth", "feet",
    "mice", "geese", "oxen",
})  # fmt: skip
# Not counted: "some …".
MASS = frozenset({
    "broccoli", "luggage", "furniture", "grass", "water", "bread", "rice", "cheese", "pasta", "spaghetti", "snow",
    "sand", "food", "milk", "coffee", "tea", "juice", "soup", "money", "jewelry", "silverware", "lettuce",
    "spinach", "popcorn", "butter",
})  # fmt: skip
# "-man" that is not a man.
NOT_MEN = frozenset({
    "human", "german", "roman", "talisman", "caiman", "ottoman", "shaman", "norman",
})  # fmt: skip
# Irregular words that others end in: fireman, bookshelf, salesperson.
COMPOUNDED = ("man", "child", "person", "knife", "wife", "shelf", "wolf", "loaf", "leaf")
VOWEL_SOUND = ("hour", "honest", "honor", "honour", "heir")
CONSONANT_SOUND = ("one", "once", "uni", "use", "usual", "utensil", "ukulele", "eu", "ewe", "ufo", "urinal", "uranium")
NOT_UNI = ("unin", "unim", "unid")  # uninteresting, unimportant, unidentified


def plural(name: str) -> str:
    """The plural of a noun, of the last word where there are several: `wine glass` -> `wine glasses`."""
    return plurals(name)[0]


def plurals(name: str) -> tuple[str, ...]:
    """Every plural in use, the usual one first: `mouse` -> `mice`, `mouses`."""
    head, word = _split_last(name)
    forms = [_plural_word(word)]
    if word.lower() in SECOND_PLURALS:
        forms.append(SECOND_PLURALS[word.lower()])
    return tuple(head + form for form in forms)


def _plural_word(word: str) -> str:
    low = word.lower()
    if low in UNCHANGED or low in PAIRED or low in PLURAL or low in MASS:
        return word
    if low in IRREGULAR:
        return IRREGULAR[low]
    for tail in COMPOUNDED:
        if low.endswith(tail) and low not in NOT_MEN:
            return word[: -len(tail)] + IRREGULAR[tail]
    if re.search(r"[^aeiou]y$|quy$", low):
        return word[:-1] + "ies"
    if low.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def is_plural(name: str) -> bool:
    """True for names that are plural as they are (`scissors`, `skis`, `people`); they take "are"."""
    word = _split_last(name)[1].lower()
    return word in PAIRED or word in PLURAL


def article(name: str) -> str:
    """`a` or `an`, by sound: `an apple`, `a unicycle`, `an hour glass`, `an SUV`, `a TV`."""
    first = re.split(r"[\s-]", name.strip(), maxsplit=1)[0]
    low = first.lower()
    if (
        (first.isupper() and len(first) <= 4) or low in ("x", "suv", "mp3", "atm", "led", "lcd", "rv")
    ) and low != "ufo":
        return "an" if low[:1] in set("aefhilmnorsx") else "a"  # spelt out: "an es-u-vee"
    if low.startswith(VOWEL_SOUND):
        return "an"
    if low.startswith(CONSONANT_SOUND) and not low.startswith(NOT_UNI):
        return "a"
    return "an" if low[:1] in set("aeiou") else "a"


def with_article(name: str) -> str:
    """The name as a caption introduces it: `a dog`, `an apple`, `a pair of scissors`, `some broccoli`, `people`."""
    head, word = _split_last(name.lower())
    if word in PAIRED and not (head and word == "glasses"):  # wine glasses are no pair
        return f"a pair of {name}"
    if word in MASS:
        return f"some {name}"
    return name if is_plural(name) else f"{article(name)} {name}"


def _split_last(name: str) -> tuple[str, str]:
    """`wine glass` -> (`wine `, `glass`); hyphens part words too."""
    cut = max(name.rfind(" "), name.rfind("-")) + 1
    return name[:cut], name[cut:]
