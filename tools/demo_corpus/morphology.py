"""How the words of the generated English-German corpus are inflected: nouns, compounds, verbs, numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tools.demo_corpus import lexicon


@dataclass(frozen=True)
class Noun:
    """A noun in both languages. ``kinds`` says what it is, so that nobody drinks a table."""

    english: str
    english_plural: str
    german: str
    oblique: str
    """accusative and dative singular; differs from ``german`` only for nouns such as Junge, Jungen"""
    german_plural: str
    """empty for what is not counted, such as water"""
    gender: str
    """m, f or n"""
    kinds: tuple[str, ...]
    pronoun: str
    """he, she or it; empty where English and German disagree too much to refer back (child, girl)"""
    preposition: tuple[str, str, str] = ("", "", "")
    """for places: English and German preposition of being there, German preposition of going there"""


@dataclass(frozen=True)
class Verb:
    """A verb in both languages. Modal verbs are verbs whose English may lack the regular forms."""

    english: tuple[str, str, str, str, str]
    """base, third person, past, participle, -ing form; all five alike for an auxiliary such as must"""
    tail: str
    """English words that always follow the verb: ``for`` of look for"""
    adverb: str
    """English adverb that follows the noun object's verb but the pronoun object itself: pick him up"""
    german: str
    """infinitive without the separable prefix"""
    prefix: str
    """separable prefix, or empty"""
    present: tuple[str, str, str, str]
    """forms for ich, du, er, wir"""
    participle: str
    auxiliary: str
    """haben or sein"""
    frame: tuple[str, ...] = ()
    """the cases or the preposition and case that it governs, or ``direction``; ``state`` has no -ing form"""
    objects: tuple[str, ...] = ()
    """kinds of its object (of an intransitive verb: kinds of subject beside persons)"""
    places: tuple[str, ...] = ()
    """kinds of places where it may happen"""
    preterite: str = ""
    """first person past, where German prefers it to the perfect"""
    reflexive: bool = False


def _english_s(word: str) -> str:
    """The -s form: plural of a noun, third person of a verb."""
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|z|ch|sh|[^aeiou]o)$", word) else "s")


def _english_forms(text: str) -> tuple[str, str, str, str, str]:
    """``write/wrote/written`` to its five forms; what is not given is regular."""
    base, *rest = text.split("/")
    regular_past = re.sub(r"([^aeiou])y$", r"\1ie", base).removesuffix("e") + "ed"
    past, participle = rest[:2] if rest else (regular_past, regular_past)
    ing = rest[2] if len(rest) > 2 else re.sub(r"(?<!e)e$", "", base) + "ing"
    return base, _english_s(base), past, participle, ing


def _german_present(infinitive: str, du: str = "", er: str = "") -> tuple[str, str, str, str]:
    """ich, du, er, wir in the present; ``du`` and ``er`` are given where the vowel changes."""
    stem = infinitive.removesuffix("n").removesuffix("e")
    e = "e" if re.search(r"[td]$|(ch|[^aeiouäöühlmnr])n$", stem) else ""
    s = "" if stem[-1] in "sßzx" else "s"
    return stem + "e", du or stem + e + s + "t", er or stem + e + "t", infinitive


def verb(line: str, preterite: str = "") -> Verb:
    """A line of the verb table to a verb."""
    english, german, perfect, *governs = (part.strip() for part in line.split("|"))
    frame, objects, places = (tuple(part.split()) for part in [*governs, "", "", ""][:3])
    english, _, adverb = english.partition("+")
    english, _, tail = english.partition(" ")
    reflexive = german.startswith("sich ")
    prefix, _, forms = german.removeprefix("sich ").rpartition("+")
    auxiliary, participle = perfect.split()
    return Verb(
        _english_forms(english), tail, adverb, forms.split("/")[0], prefix, _german_present(*forms.split("/")),
        participle, {"hat": "haben", "ist": "sein"}[auxiliary], frame, objects, places, preterite, reflexive,
    )  # fmt: skip


def _noun(line: str) -> Noun:
    english, german = line.split(": ")
    words, kinds, *preposition = (part.strip() for part in german.split("|"))
    article, words = words.split(" ", 1)
    nominative, plural = words.split(",")
    nominative, _, oblique = nominative.partition("/")
    english, _, english_plural = english.partition("/")
    tags = kinds.split()
    pronoun = tags.pop() if tags[-1] in ("he", "she") else "" if tags[0] == "person" else "it"
    places = tuple(preposition[0].split()) if preposition else ("", "", "")
    return Noun(
        english, english_plural or _english_s(english), nominative, oblique or nominative, plural.strip(),
        {"der": "m", "die": "f", "das": "n"}[article], tuple(tags), pronoun, (places[0], places[1], places[2]),
    )  # fmt: skip


def compound(english: str, german: str, head: Noun) -> Noun:
    """``kitchen``, ``Küchen`` and the noun table make the noun kitchen table, Küchentisch.

    Gender, plural and use are the head's, as in every German compound.
    """
    return Noun(
        f"{english} {head.english}", f"{english} {head.english_plural}",
        german + head.german.lower(), german + head.oblique.lower(),
        german + head.german_plural.lower() if head.german_plural else "",
        head.gender, head.kinds, head.pronoun, head.preposition,
    )  # fmt: skip


def adjective_stem(german: str) -> str:
    """What endings are put after: teuer, teur-; dunkel, dunkl-; müde, müd-."""
    if german.endswith("el"):
        return german[:-2] + "l"
    if german.endswith(("euer", "auer")):
        return german[:-2] + "r"
    return german.removesuffix("e")


_TO_NINETEEN = {
    "english": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen",
    "german": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
    "sechzehn siebzehn achtzehn neunzehn",
}
_TENS = {
    "english": "- ten twenty thirty forty fifty sixty seventy eighty ninety",
    "german": "- zehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
}
_ONES, _EINER = (_TO_NINETEEN[language].split() for language in ("english", "german"))
_TENS_ENGLISH, _ZEHNER = (_TENS[language].split() for language in ("english", "german"))


def english_number(n: int) -> str:
    """0 <= n <= 999 in words: two hundred and twenty-one."""
    hundreds, rest = divmod(n, 100)
    tens, ones = divmod(rest, 10)
    words = _ONES[rest] if rest < 20 else _TENS_ENGLISH[tens] + (f"-{_ONES[ones]}" if ones else "")
    if not hundreds:
        return words
    return f"{_ONES[hundreds]} hundred" + (f" and {words}" if rest else "")


def german_number(n: int) -> str:
    """0 <= n <= 999 in words, as said when counting: zweihunderteinundzwanzig."""
    hundreds, rest = divmod(n, 100)
    tens, ones = divmod(rest, 10)
    if rest < 20:
        words = _EINER[rest]
    else:
        # Ones come before tens, and "eins" loses its s there.
        words = (_EINER[ones].removesuffix("s") if ones == 1 else _EINER[ones]) + "und" if ones else ""
        words += _ZEHNER[tens]
    if not hundreds:
        return words
    return (_EINER[hundreds] if hundreds > 1 else "") + "hundert" + (words if rest else "")


def _lines(table: str) -> list[str]:
    return table.strip().splitlines()


PLACES = [_noun(line) for line in _lines(lexicon.PLACES)]
SIMPLE_NOUNS = [_noun(line) for line in _lines(lexicon.NOUNS)] + PLACES
NOUN = {noun.english: noun for noun in SIMPLE_NOUNS}
COMPOUNDS = [
    compound(english, german, NOUN[head])
    for english, german, heads in (re.split(r" (?=\S+: )|: ", line) for line in _lines(lexicon.COMPOUNDS))
    for head in heads.split()
]
NOUN.update((noun.english, noun) for noun in COMPOUNDS)

VERBS = [verb(line) for line in _lines(lexicon.VERBS)]
VERB = {" ".join(filter(None, (v.english[0], v.adverb, v.tail))): v for v in VERBS}

ADJECTIVES = {
    kind: [(pair.split()[0], pair.split()[1]) for pair in pairs.split(", ")]
    for kind, pairs in (line.split(": ") for line in _lines(lexicon.ADJECTIVES))
}


def nouns_of(kind: str) -> list[Noun]:
    """All nouns of a kind, simple ones and compounds."""
    return [noun for noun in NOUN.values() if kind in noun.kinds]
