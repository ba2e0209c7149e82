"""Noun phrases and pronouns of the generated corpus: case, gender, number, determiners, adjective endings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tools.demo_corpus.morphology import Noun, adjective_stem

Cases = dict[str, str]
"""German forms by case: nom, acc, dat"""


@dataclass(frozen=True)
class Phrase:
    """A noun phrase or pronoun in both languages."""

    english: str
    english_object: str
    german: Cases
    person: int = 3
    plural: bool = False
    gender: str = ""
    """German gender of the head: m, f or n"""
    pronoun: str = ""
    """the English pronoun that refers back to it; empty where it should not be referred to"""
    light: bool = False
    """a pronoun: stands early in German"""
    definite: bool = True
    negative: bool = False
    """carries the negation of its clause (kein)"""


class Adverbial(NamedTuple):
    """An adverbial in both languages. Roles: time, frequency, manner, place, direction, predicate, clause."""

    english: str
    german: str
    role: str


@dataclass(frozen=True)
class Determiner:
    """What stands before the adjectives."""

    english: str
    english_plural: str
    german: str
    """without its ending"""
    pattern: str
    """how it and the adjectives after it are inflected: der, dieser, ein or none"""
    definite: bool = True
    negative: bool = False


THE = Determiner("the", "the", "d", "der")
THIS = Determiner("this", "these", "dies", "dieser")
A = Determiner("a", "", "ein", "ein", definite=False)
NOT_A = Determiner("a", "any", "kein", "ein", definite=False, negative=True)
NO = Determiner("no", "no", "kein", "ein", definite=False, negative=True)
BARE = Determiner("", "", "", "none", definite=False)
POSSESSIVES = {
    owner: Determiner(english, english, german, "ein")
    for owner, english, german in (
        ("I", "my", "mein"), ("you", "your", "dein"), ("he", "his", "sein"),
        ("she", "her", "ihr"), ("we", "our", "unser"), ("they", "their", "ihr"),
    )
}  # fmt: skip

_ENDINGS = {
    # masculine, feminine, neuter, plural; of der only what follows d
    "der": {"nom": "er ie as ie", "acc": "en ie as ie", "dat": "em er em en"},
    "dieser": {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"},
    "ein": {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en"},
    "none": {"nom": "- - - -", "acc": "- - - -", "dat": "- - - -"},
}
_ADJECTIVE_ENDINGS = {
    "der": {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en"},
    "ein": {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en"},
    "none": {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"},
}
_ADJECTIVE_ENDINGS["dieser"] = _ADJECTIVE_ENDINGS["der"]


def _ending(table: dict[str, dict[str, str]], pattern: str, case: str, gender: str, plural: bool) -> str:
    column = 3 if plural else "mfn".index(gender)
    return table[pattern][case].split()[column].strip("-")


def counted(english: str, german: str) -> Determiner:
    """A number before a plural noun: twenty-one, einundzwanzig."""
    return Determiner(english, english, german, "none", definite=False)


def owned_by(name: str) -> Determiner:
    """Anna's, Annas."""
    return Determiner(f"{name}'s", f"{name}'s", f"{name}s", "none")


def noun_phrase(
    noun: Noun,
    determiner: Determiner,
    adjectives: Sequence[tuple[str, str]] = (),
    plural: bool = False,
) -> Phrase:
    """Determiner, adjectives (pairs of English and undeclined German) and noun, in agreement, in every case."""
    words = [english for english, _ in adjectives] + [noun.english_plural if plural else noun.english]
    many = plural or not noun.german_plural
    article = determiner.english_plural if many else determiner.english
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    english = join([article, *words])
    german = {}
    for case in ("nom", "acc", "dat"):
        pattern = determiner.pattern
        stem = determiner.german + _ending(_ENDINGS, pattern, case, noun.gender, plural)
        inflected = [
            adjective_stem(word) + _ending(_ADJECTIVE_ENDINGS, pattern, case, noun.gender, plural)
            for _, word in adjectives
        ]
        head = noun.german_plural if plural else noun.german if case == "nom" else noun.oblique
        if plural and case == "dat" and not head.endswith(("n", "s")):
            head += "n"
        german[case] = join([stem, *inflected, head])
    return Phrase(
        english, english, german, 3, plural, noun.gender, "they" if plural else noun.pronoun,
        definite=determiner.definite, negative=determiner.negative,
    )  # fmt: skip


def _pronoun(english: str, german: str, person: int, plural: bool = False, gender: str = "") -> Phrase:
    subject, other = english.split()
    cases = dict(zip(("nom", "acc", "dat"), german.split(), strict=True))
    return Phrase(subject, other, cases, person, plural, gender, subject, light=True)


PRONOUNS = {
    "I": _pronoun("I me", "ich mich mir", 1),
    "you": _pronoun("you you", "du dich dir", 2),
    "he": _pronoun("he him", "er ihn ihm", 3, gender="m"),
    "she": _pronoun("she her", "sie sie ihr", 3, gender="f"),
    "we": _pronoun("we us", "wir uns uns", 1, plural=True),
    "they": _pronoun("they them", "sie sie ihnen", 3, plural=True),
}
IT = {
    "m": _pronoun("it it", "er ihn ihm", 3, gender="m"),
    "f": _pronoun("it it", "sie sie ihr", 3, gender="f"),
    "n": _pronoun("it it", "es es ihm", 3, gender="n"),
}
WHO = _pronoun("who whom", "wer wen wem", 3)
_RELATIVE = {"m": "der den dem", "f": "die die der", "n": "das das dem", "plural": "die die denen"}


def refer_to(phrase: Phrase) -> Phrase:
    """The pronoun for a phrase said before: he, she, they; it takes the gender of the German noun."""
    return IT[phrase.gender] if phrase.pronoun == "it" else PRONOUNS[phrase.pronoun]


def relative(head: Phrase, animate: bool) -> Phrase:
    """The relative pronoun that refers to ``head``: who or that, der, die, das."""
    forms = _RELATIVE["plural" if head.plural else head.gender].split()
    cases = dict(zip(("nom", "acc", "dat"), forms, strict=True))
    word = ("who", "whom") if animate else ("that", "that")
    return replace(head, english=word[0], english_object=word[1], german=cases, light=True)


def followed_by(phrase: Phrase, english: str, german: str) -> Phrase:
    """A phrase with a relative clause or a prepositional phrase behind its noun."""
    return replace(
        phrase,
        english=f"{phrase.english} {english}",
        english_object=f"{phrase.english_object} {english}",
        german={case: form + german for case, form in phrase.german.items()},
        light=False,
    )


_CONTRACTIONS = {"an dem": "am", "in dem": "im", "zu dem": "zum", "zu der": "zur", "von dem": "vom",
                 "bei dem": "beim", "in das": "ins"}  # fmt: skip


def prepositional(preposition: str, case: str, phrase: Phrase) -> str:
    """German ``in`` and der Garten to ``im Garten`` or ``in den Garten``."""
    text = f"{preposition} {phrase.german[case]}"
    for apart, together in _CONTRACTIONS.items():
        if text.startswith(apart + " "):
            return together + text[len(apart) :]
    return text


def join(words: Sequence[str]) -> str:
    """The words that are not empty, with spaces between."""
    return " ".join(filter(None, words))
