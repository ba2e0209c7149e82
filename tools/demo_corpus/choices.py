"""Random parts of sentences for the generated corpus: people, things, places, actions that make sense."""

from __future__ import annotations

from dataclasses import replace

from tools.demo_corpus import lexicon
from tools.demo_corpus.grammar import BE, Clause
from tools.demo_corpus.morphology import (
    ADJECTIVES,
    NOUN,
    PLACES,
    VERBS,
    Noun,
    Verb,
    english_number,
    german_number,
    nouns_of,
    verb,
)
from tools.demo_corpus.phrases import (
    BARE,
    NOT_A,
    POSSESSIVES,
    PRONOUNS,
    THE,
    THIS,
    A,
    Adverbial,
    Phrase,
    counted,
    followed_by,
    noun_phrase,
    owned_by,
    prepositional,
)
from tools.demo_corpus.times import Chooser, time_for

Pair = tuple[str, str]
"""English, German"""

LIVE = verb("live | wohnen | hat gewohnt")

# People, things, places ------------------------------------------------------------------------------------


def adjectives_for(choose: Chooser, noun: Noun, share: float = 0.35) -> list[tuple[str, str]]:
    """No adjective, one, or one and a colour."""
    found = []
    if choose.chance(share):
        found.append(choose.pick(ADJECTIVES[noun.kinds[0]]))
    if noun.kinds[0] in lexicon.COLOURED and choose.chance(share / 2):
        found.append(choose.pick(lexicon.COLOURS))
    return found


def somebody(choose: Chooser, owner: Phrase | None = None, plain: bool = False) -> Phrase:
    """A person or several: a name, the old teacher, my sister, Mrs Weber, the children.

    Args:
        owner: whose family may be meant beside the speaker's.
        plain: exactly one person, who can be referred to by he or she.
    """
    share = choose.below(100)
    if share < 25:
        name, pronoun = choose.pick(lexicon.NAMES)
        return named(name, pronoun)
    if share < 33:
        surname = choose.pick(lexicon.SURNAMES)
        return titled(surname, choose.pick(("he", "she")))
    if share < 58:
        owners = ["I", "I", "you", "we"]
        if owner and owner.pronoun in POSSESSIVES:
            owners = [owner.pronoun] * 3 + ["I"]
        noun = choose.pick(nouns_of("family"))
        many = not plain and noun.english not in ("father", "mother") and choose.chance(0.15)
        return noun_phrase(noun, POSSESSIVES[choose.pick(owners)], adjectives_for(choose, noun, 0.2), many)
    noun = choose.pick(nouns_of("person"))
    while plain and not noun.pronoun:
        noun = choose.pick(nouns_of("person"))
    many = not plain and choose.chance(0.25)
    return noun_phrase(noun, THE, adjectives_for(choose, noun, 0.3), many)


def named(name: str, pronoun: str) -> Phrase:
    """A person by first name."""
    return Phrase(name, name, dict.fromkeys(("nom", "acc", "dat"), name), pronoun=pronoun)


def titled(surname: str, pronoun: str) -> Phrase:
    """Mr Weber, Herr Weber, who is Herrn Weber in accusative and dative."""
    if pronoun == "she":
        return replace(
            named(f"Frau {surname}", "she"), english=f"Mrs {surname}", english_object=f"Mrs {surname}"
        )
    german = {"nom": f"Herr {surname}", "acc": f"Herrn {surname}", "dat": f"Herrn {surname}"}
    return Phrase(f"Mr {surname}", f"Mr {surname}", german, pronoun="he")


def subject_for(choose: Chooser, pronouns: float = 0.3) -> Phrase:
    """Who acts."""
    if choose.chance(pronouns):
        return PRONOUNS[choose.pick(tuple(PRONOUNS))]
    if choose.chance(0.06):
        name, pronoun = choose.pick(lexicon.NAMES)
        noun = choose.pick(nouns_of("family"))
        other = noun_phrase(noun, POSSESSIVES[pronoun])
        german = {case: f"{name} und {form}" for case, form in other.german.items()}
        english = f"{name} and {other.english}"
        return Phrase(english, english, german, plural=True, pronoun="they")
    return somebody(choose)


def person_object(choose: Chooser, subject: Phrase) -> Phrase:
    """Another person than the subject."""
    if choose.chance(0.3):
        barred = {"I": ("I", "we"), "we": ("I", "we")}.get(subject.pronoun, (subject.pronoun,))
        return PRONOUNS[choose.pick([key for key in PRONOUNS if key not in barred])]
    other = somebody(choose, owner=subject)
    return (
        other if other.english != subject.english else PRONOUNS["they" if subject.pronoun != "they" else "we"]
    )


def thing(choose: Chooser, noun: Noun, owner: Phrase, negated: bool = False) -> Phrase:
    """A thing with some determiner; in a negated clause an indefinite one carries the negation."""
    adjectives = adjectives_for(choose, noun)
    share = choose.below(100)
    if not noun.german_plural:
        return noun_phrase(noun, THE if share < 35 else NOT_A if negated else BARE, adjectives)
    many = choose.chance(0.22)
    if share < 35:
        return noun_phrase(noun, THE, adjectives, many)
    if share < 65:
        return noun_phrase(noun, NOT_A if negated else BARE if many else A, adjectives, many)
    if share < 82 and owner.pronoun in POSSESSIVES:
        return noun_phrase(noun, POSSESSIVES[owner.pronoun], adjectives, many)
    if share < 87:
        return noun_phrase(noun, THIS, adjectives, many)
    if share < 91:
        name = choose.pick([name for name, _ in lexicon.NAMES if name not in owner.english])
        return noun_phrase(noun, owned_by(name), adjectives, many)
    if share < 97 and not negated:
        n = choose.between(2, 12) if choose.chance(0.8) else choose.between(13, 29)
        return noun_phrase(noun, counted(english_number(n), german_number(n)), adjectives, plural=True)
    return noun_phrase(noun, THE, adjectives, many)


def place(choose: Chooser, kind: str, share: float = 0.2) -> Adverbial:
    """Where: in a city, at home, or at a place of the kind."""
    if kind == "city":
        english, german = choose.pick(lexicon.CITIES)
        return Adverbial(f"in {english}", f"in {german}", "place")
    if kind == "home":
        return Adverbial("at home", "zu Hause", "place")
    noun = choose.pick([noun for noun in PLACES if kind in noun.kinds])
    phrase = noun_phrase(noun, THE, adjectives_for(choose, noun, share))
    english, german, _ = noun.preposition
    return Adverbial(f"{english} {phrase.english}", prepositional(german, "dat", phrase), "place")


def direction(choose: Chooser, kind: str) -> list[Adverbial]:
    """Where to, and perhaps how: to Berlin by train, to the garden."""
    if kind == "city":
        english, german = choose.pick(lexicon.CITIES)
        return [Adverbial(f"to {english}", f"nach {german}", "direction")]
    if choose.chance(0.12):
        return [Adverbial("home", "nach Hause", "direction")]
    noun = choose.pick([noun for noun in places() if noun.preposition[0]])
    phrase = noun_phrase(noun, THE, adjectives_for(choose, noun, 0.2))
    preposition = noun.preposition[2]
    german = prepositional(preposition, "dat" if preposition == "zu" else "acc", phrase)
    return [Adverbial(f"to {phrase.english}", german, "direction")]


def places() -> list[Noun]:
    """Places, with compounds such as city park."""
    return [noun for noun in NOUN.values() if noun.preposition[0]]


# Actions ---------------------------------------------------------------------------------------------------

_COMPANY = ("visit", "eat", "drink", "cook", "bake", "work", "sing", "dance", "go", "travel", "drive", "fly")
_FOR_SOMEBODY = ("buy", "bake", "cook", "order", "draw", "write", "build")


_UNWANTED = ("steal", "lose", "forget", "dream", "see", "follow", "laugh", "fall", "arrive")


def any_verb(choose: Chooser, state: bool = False) -> Verb:
    """A verb for what people do; one such as know only where ``state`` is allowed."""
    found = choose.pick(VERBS)
    while not state and "state" in found.frame:
        found = choose.pick(VERBS)
    return found


def wanted_verb(choose: Chooser) -> Verb:
    """A verb for what one asks for, tries or promises."""
    found = any_verb(choose)
    while found.english[0] in _UNWANTED:
        found = any_verb(choose)
    return found


def colour_for(choose: Chooser, noun: Noun) -> list[tuple[str, str]]:
    """A colour or nothing, where a sentence will judge the thing itself."""
    coloured = noun.kinds[0] in lexicon.COLOURED and choose.chance(0.25)
    return [choose.pick(lexicon.COLOURS)] if coloured else []


def action(
    choose: Chooser,
    subject: Phrase,
    tense: str = "past",
    *,
    negated: bool = False,
    modal: Verb | None = None,
    doing: Verb | None = None,
    plain: bool = False,
) -> Clause:
    """Somebody does something sensible.

    Args:
        doing: the verb; a random one without it.
        plain: no place, company or time.
    """
    does = doing or any_verb(choose, state=tense == "past" and modal is None)
    frame = [part for part in does.frame if part != "state"]
    adverbials: list[Adverbial] = []
    receiver = given = None
    if frame == ["direction"]:
        adverbials += direction(choose, does.objects[0])
        if does.english[0] == "travel" and not plain and choose.chance(0.6):
            vehicle = choose.pick((("train", "dem Zug"), ("bus", "dem Bus"), ("car", "dem Auto")))
            adverbials.append(Adverbial(f"by {vehicle[0]}", f"mit {vehicle[1]}", "manner"))
    elif frame:
        kind = choose.pick(does.objects)
        personal = kind in ("person", "family")
        if frame[0] == "dat" and len(frame) == 2:
            receiver = person_object(choose, subject)
            given = thing(choose, choose.pick(nouns_of(kind)), subject, negated)
        else:
            noun = choose.pick(nouns_of(kind))
            given = person_object(choose, subject) if personal else thing(choose, noun, subject, negated)
        if frame == ["dat"]:
            receiver, given = given, None
        if (
            given
            and does.english[0] in _FOR_SOMEBODY
            and not given.light
            and not personal
            and choose.chance(0.15)
        ):
            other = somebody(choose, owner=subject)
            given = followed_by(given, f"for {other.english_object}", f" für {other.german['acc']}")
    company = any(a.role == "manner" for a in adverbials)
    if does.english[0] in _COMPANY and not plain and not company and choose.chance(0.2):
        other = somebody(choose, owner=subject, plain=True)
        if other.english != subject.english:
            german = prepositional("mit", "dat", other)
            adverbials.append(Adverbial(f"with {other.english_object}", german, "manner"))
    if does.places and not plain and choose.chance(0.3):
        adverbials.append(place(choose, choose.pick(does.places)))
    return Clause(subject, does, tense, tuple(adverbials), given, receiver, modal, negated)


def with_time(choose: Chooser, clause: Clause) -> tuple[Clause, Adverbial | None]:
    """The clause with a time, and that time again if it shall come first."""
    when = time_for(choose, clause.tense)
    clause = replace(clause, adverbials=(*clause.adverbials, when))
    first = when.role == "time" and choose.chance(0.5)
    return clause, when if first else None


def predicate(
    subject: Phrase, english: str, german: str, tense: str = "present", negated: bool = False
) -> Clause:
    """Somebody or something is tired, a teacher, older than me."""
    return Clause(subject, BE, tense, (Adverbial(english, german, "predicate"),), negated=negated)
