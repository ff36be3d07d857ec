"""Base forms of English words by rule: the two ways that the object-hallucination scripts use.

`singularize` follows pattern.en (De Smedt and Daelemans 2012), which the original CHAIR script calls on every token;
`morphy` follows WordNet's morphology (Fellbaum 1998, "morphy"), which its later ports and AMBER call through NLTK.
WordNet proposes several base forms and keeps those in its word list; without that list the words that a benchmark
looks for stand in for it, because a base form that is none of them is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from mmpo.text.function_words import word_set

PartOfSpeech = Literal["n", "v", "a", "r"]
"""WordNet's noun, verb, adjective and adverb."""


# ---------------------------------------------------------------------------------------------------- singularize

_SAME = word_set(
    "aircraft antelope bison bread breeches butter carp cattle chassis cheese clippers cod corps debris elk equipment "
    "fruit furniture garbage gravel headquarters homework information innings jeans ketchup luggage meat moose mustard "
    "news offspring pliers progress rice salmon sand scissors series shears species swine swiss trout tuna water "
    "whiting wildebeest"
)
_IRREGULAR_ENDS = {
    "men": "man", "people": "person", "children": "child", "sexes": "sex", "axes": "axe", "moves": "move",
    "teeth": "tooth", "geese": "goose", "feet": "foot", "leaves": "leaf", "loaves": "loaf", "oxen": "ox",
    "monies": "money", "mongooses": "mongoose", "corpora": "corpus", "genera": "genus", "opera": "opus",
    "lynxes": "lynx", "helves": "helve",
}  # fmt: skip
_IE_ENDS = (
    "auntie", "beanie", "birdie", "bookie", "collie", "cookie", "cutie", "doggie", "freebie", "groupie", "hankie",
    "hippie", "hoagie", "hottie", "indie", "junkie", "laddie", "nightie", "oldie", "pixie", "quickie", "rookie",
    "softie", "sweetie", "techie", "toughie", "veggie", "weenie", "yuppie", "zombie",
)  # fmt: skip
_SINGULAR_IN_S = ("bus", "canvas", "gas", "lens", "alias", "bias", "trellis", "mantis", "pelvis", "rhinoceros", "iris")
# The first ending that fits decides.
_ENDINGS = tuple(
    (re.compile(f"(?:{pattern})$"), replacement)
    for pattern, replacement in (
        ("(?<=.)ae", "a"), ("(?<=.)eaux", "eau"), ("(?<=quiz)zes", ""), ("(?<=matr)ices", "ix"),
        ("(?<=vert|.ind)ices", "ex"), ("(?<=ap)ices", "ex"), ("(?<=status)es", ""), ("(?<=[octpvir])i", "us"),
        ("(?<=cris)es", "is"), ("(?<=test)es", "is"), ("(?<=ax)es", "is"), ("(?<=shoe)s", ""), ("(?<=o)es", ""),
        ("(?<=bus)es", ""), ("(?<=[ml])ice", "ouse"), ("(?<=x)es|(?<=ch)es|(?<=ss)es|(?<=sh)es", ""),
        ("(?<=movie)s", ""), ("(?<=series)", ""), ("(?<=[^aeiouy])ies|(?<=qu)ies", "y"), ("(?<=[aeo]l)ves", "f"),
        ("(?<=[^d]ea)ves", "f"), ("(?<=ar)ves", "f"), ("(?<=er)ves", "ve"), ("(?<=[nlw]i)ves", "fe"),
        ("(?<=[lr])ves", "f"), ("(?<=[aeo])ves", "ve"), ("(?<=[sth]ive)s", ""), ("(?<=[^f])ves", "fe"),
        ("(?<=analy)ses|(?<=diagno)ses|(?<=parenthe)ses|(?<=synop)ses|(?<=the)ses|(?<=ba)ses|(?<=y)ses", "sis"),
        ("(?<=.op)ses", "sis"), ("(?<=[hdronbp]o)ses|(?<=clo)ses", "se"), ("(?<=.o)ses", "sis"),
        ("(?<=[ti])a", "um"), ("(?<=news)", ""), ("s", ""),
    )
)  # fmt: skip


@lru_cache(maxsize=100_000)
def singularize(word: str) -> str:
    """The singular that pattern.en finds for a lower-case word, whatever its part of speech; words it does not know
    lose a final s (`has` -> `ha`, `bus` -> `bu`, `glass` -> `glas`).

    The rules and lists are cut to what descriptions of images hold.
    """
    if word in _SAME or len(word) == 1:
        return word
    for ending in _IE_ENDS:
        if word.endswith(ending + "s"):
            return ending
    for ending in _SINGULAR_IN_S:
        if word.endswith(ending + "es"):
            return ending
    for ending, singular in _IRREGULAR_ENDS.items():
        if word.endswith(ending):
            return word[: -len(ending)] + singular
    for pattern, replacement in _ENDINGS:
        if pattern.search(word):
            return pattern.sub(replacement, word)
    return word


# --------------------------------------------------------------------------------------------------------- morphy

# WordNet's detachment rules, in its order.
_DETACH: dict[Literal["n", "v"], tuple[tuple[str, str], ...]] = {
    "n": (
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
        ("men", "man"), ("ies", "y"),
    ),
    "v": (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ),
}  # fmt: skip
# From WordNet's exception lists: forms that the rules do not reach.
_NOUN_EXCEPTIONS = {
    "calves": "calf", "children": "child", "elves": "elf", "feet": "foot", "geese": "goose", "halves": "half",
    "kine": "cow", "knives": "knife", "leaves": "leaf", "lice": "louse", "lives": "life", "loaves": "loaf",
    "mice": "mouse", "oxen": "ox", "scarves": "scarf", "shelves": "shelf", "teeth": "tooth", "thieves": "thief",
    "wives": "wife", "wolves": "wolf", "grandchildren": "grandchild", "schoolchildren": "schoolchild",
    "penknives": "penknife", "jackknives": "jackknife", "dormice": "dormouse", "aides-de-camp": "aide-de-camp",
    "passersby": "passerby", "buses": "bus", "busses": "bus", "minibuses": "minibus", "cacti": "cactus",
    "hooves": "hoof", "dwarves": "dwarf", "wharves": "wharf", "dice": "die", "cherubim": "cherub",
    "bookshelves": "bookshelf", "cloverleaves": "cloverleaf", "flyleaves": "flyleaf", "gentlemen": "gentleman",
    "ladies-in-waiting": "lady-in-waiting", "staves": "staff", "quizzes": "quiz",
}  # fmt: skip
_DOUBLED = re.compile(r"(?:([bdfgklmnprtvz])\1)(?:ing|ed)$")
# WordNet's word list, as far as the published object vocabularies (CHAIR, Object HalBench, AMBER) need it: nouns that
# are shorter than the word one expects and so win (`vases` -> `vas`), or are their own base form (`men`); object words
# that it lacks, so that their plurals are not reduced; object words that are verbs too, and the verbs that win over
# these.
_OWN_NOUNS = word_set("chopstick earring men slipper sport sunglass teeth vas")
_NOT_NOUNS = word_set(
    "baconic bedsheet bluejay brindle cann cathole closestool cooktop coworker diningtable doghole earing ebook "
    "electrombile firetruck hairdryer iphone knive lenovo longboard macbook netbook paddleboat paraglider pissoir "
    "pitbull pottedplant riverboat rpoe sailboard sanitizer scoon seegull shortboard showerpuff skimboard "
    "smartphone solider stovetop streetlamp teddybear televison tvmonitor waterfont "
)
_OWN_VERBS = word_set("be build con din draw kit mop paint park pip plan plat sail sport stag win")
_VERBS = word_set(
    "air alarm automobile baby backpack bag bail ball balloon bar barbecue barge bat beach bear bed bench bicycle "
    "bike bill bin bird blanket board boat book bottle bow bowl box bread bridge brush bucket buffalo bull "
    "bulldog buoy bus bush butterfly cab cabbage cable cage cake can candle canoe card carpet case cash cat chair "
    "charcoal cheese clock cloud coach cocker collar cone control cop cord core couch court cow cream crow cub "
    "cup curtain cushion cycle desert doctor dog drain drink duck dump eagle egg falcon father fence ferry file "
    "fire fish flag floor flower foal forest fork fowl fox ginger glass goose grass grill groom ground gull guy "
    "hat hill horse hose hound house ice jet kayak kennel kid kite kitten knife lamb leave light line lock lounge "
    "man mat meter microwave milk mirror monitor monkey moon mother motor motorbike motorboat motorcycle mouse "
    "mug mushroom net note officer pack pad paddle pan paper parrot peach pen people phone pig pillow pipe plane "
    "plant plate plug pole pot pulp pup purse quail quilt rabbit rack racket rail ram range raven reef rice riff "
    "ring rock rope saddle sand sandwich sauce scarf scoop screen seaplane seat shampoo sheet shell ship shoe "
    "shore shovel shrimp sign signal sink skate skateboard ski sky sled sliver snack snow snowboard soap soldier "
    "sound spade sponge spoon spray stage star stone stool stop string sub suit sun support surf surfboard swan "
    "switch table tank tap tape taxi telephone telescope tent tie tire tissue top tow towel toy track traffic "
    "train tram tree truck turtle unicycle wall warp watch water wine wire worm yacht "
)


@lru_cache(maxsize=100_000)
def _noun_forms(word: str) -> tuple[str, ...]:
    if word in _NOUN_EXCEPTIONS:
        return (word, _NOUN_EXCEPTIONS[word])
    return (word, *_detached(word, "n"))


@lru_cache(maxsize=100_000)
def _verb_forms(word: str) -> tuple[str, ...]:
    doubled = _DOUBLED.search(word)  # WordNet lists these one by one: `petting` -> `pet`
    return (word, *_detached(word, "v"), *((word[: doubled.start() + 1],) if doubled else ()))


def _detached(word: str, part: Literal["n", "v"]) -> list[str]:
    fitting = ((ending, new) for ending, new in _DETACH[part] if word.endswith(ending))
    return [word[: len(word) - len(ending)] + new for ending, new in fitting]


def morphy(word: str, part: PartOfSpeech, words: Collection[str]) -> str:
    """The base form of `word` as NLTK's WordNet lemmatizer chooses it: of the forms that WordNet's rules for this part
    of speech reach and that are words, the shortest, the first of equal ones; `word` itself where none is.

    `words` are those that are looked for; they stand in for WordNet's list. Adjectives and adverbs are not reduced:
    no object is reached that way.
    """
    if part == "n":
        known = [form for form in _noun_forms(word) if form in _OWN_NOUNS or (form in words and form not in _NOT_NOUNS)]
    elif part == "v":
        known = [form for form in _verb_forms(word) if form in _OWN_VERBS or (form in words and form in _VERBS)]
    else:
        return word
    return min(known, key=len) if known else word
