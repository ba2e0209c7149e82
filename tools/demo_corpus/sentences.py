"""The kinds of sentences of the generated corpus; each function makes one random pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tools.demo_corpus import lexicon
from tools.demo_corpus.choices import (
    Pair,
    action,
    adjectives_for,
    place,
    predicate,
    somebody,
    subject_for,
    thing,
    wanted_verb,
    with_time,
)
from tools.demo_corpus.grammar import (
    BE,
    MODALS,
    Clause,
    english_infinitive,
    english_question,
    english_statement,
    finish,
    german_imperative,
    german_question,
    german_statement,
)
from tools.demo_corpus.morphology import (
    NOUN,
    VERB,
    Verb,
    nouns_of,
    verb,
)
from tools.demo_corpus.numbers import numbers, still_going_on, timetable
from tools.demo_corpus.phrases import (
    NO,
    POSSESSIVES,
    PRONOUNS,
    THE,
    WHO,
    A,
    Adverbial,
    noun_phrase,
    prepositional,
)
from tools.demo_corpus.times import (
    Chooser,
    long_ago,
    time_for,
)
from tools.demo_corpus.two_clauses import because, in_order, intention, relative_clause, report

# What one puts somewhere lies there or stands there.
_LAY = verb("put/put/put/putting | legen | hat gelegt")
_STAND = verb("put/put/put/putting | stellen | hat gestellt")
_SPOTS = (
    ("on", "auf"),
    ("under", "unter"),
    ("next to", "neben"),
    ("behind", "hinter"),
    ("in front of", "vor"),
)


def _tense(choose: Chooser) -> str:
    return choose.pick(
        ("past", "past", "past", "past", "present", "present", "progressive", "future", "future")
    )


# Simple sentences ------------------------------------------------------------------------------------------


def statement(choose: Chooser) -> Pair:
    """Yesterday the man bought a blue coat in Berlin."""
    clause = action(choose, subject_for(choose), _tense(choose))
    front = None
    if clause.tense in ("present", "progressive") or choose.chance(0.85):
        clause, front = with_time(choose, clause)
    return finish(english_statement(clause, front), german_statement(clause, front))


def negation(choose: Chooser) -> Pair:
    """She did not open the window; he will not buy a car."""
    tense = choose.pick(("past", "past", "future", "progressive"))
    clause = action(choose, subject_for(choose), tense, negated=True)
    front = None
    if choose.chance(0.6):
        when = time_for(choose, tense)
        clause = replace(clause, adverbials=(*clause.adverbials, when))
        front = when if choose.chance(0.5) else None
    return finish(english_statement(clause, front), german_statement(clause, front))


def big_event(choose: Chooser) -> Pair:
    """On 3 May 1998, my uncle sold his house in Hamburg."""
    doing = VERB[
        choose.pick(("buy", "sell", "build", "rent", "visit", "meet", "travel", "fly", "see", "write"))
    ]
    clause = action(choose, subject_for(choose), doing=doing)
    when = long_ago(choose)
    clause = replace(clause, adverbials=(*clause.adverbials, when))
    front = when if choose.chance(0.5) else None
    return finish(english_statement(clause, front), german_statement(clause, front))


def modal(choose: Chooser) -> Pair:
    """The child wants to open the window tomorrow."""
    helper = MODALS[choose.pick(tuple(MODALS))]
    tense = "past" if helper.english[0] in ("can", "want", "have", "be") and choose.chance(0.5) else "present"
    negated = helper.english[0] not in ("must", "would") and choose.chance(0.25)
    clause = action(choose, subject_for(choose), tense, modal=helper, negated=negated)
    front = None
    if choose.chance(0.6):
        when = time_for(choose, "past" if tense == "past" else "future")
        clause = replace(clause, adverbials=(*clause.adverbials, when))
        front = when if choose.chance(0.5) else None
    return finish(english_statement(clause, front), german_statement(clause, front))


def perfect(choose: Chooser) -> Pair:
    """The woman has already sold the car."""
    clause = action(choose, subject_for(choose), "perfect")
    already = Adverbial(
        *choose.pick((("already", "schon"), ("just", "gerade"), ("never", "nie"))), "frequency"
    )
    clause = replace(clause, adverbials=(*clause.adverbials, already))
    return finish(english_statement(clause), german_statement(clause))


def question(choose: Chooser) -> Pair:
    """Did the man buy the car yesterday? Why did he buy it? Who bought it? What did he buy?"""
    tense = choose.pick(("past", "past", "future", "progressive"))
    kind = choose.pick(("", "", "why", "when", "where", "who", "what", "which", "many"))
    if kind == "who":
        clause = action(choose, WHO, tense)
        return finish(english_statement(clause), german_statement(clause), "?")
    if kind in ("what", "which", "many"):
        doing = VERB[
            choose.pick(("buy", "sell", "find", "repair", "read", "eat", "order", "write", "throw away"))
        ]
        clause = replace(action(choose, subject_for(choose), "past", doing=doing), object=None)
        opening = _asked_object(choose, doing, kind)
        if choose.chance(0.5):
            clause = replace(clause, adverbials=(*clause.adverbials, time_for(choose, "past")))
        return finish(english_question(clause, opening[0]), german_question(clause, opening[1]), "?")
    clause = action(choose, subject_for(choose), tense, plain=kind == "where")
    if kind == "where":
        goes = "direction" in clause.verb.frame
        clause = replace(clause, adverbials=() if goes else clause.adverbials)
        if not goes and not clause.verb.places:
            return question(choose)
        return finish(
            english_question(clause, "where"), german_question(clause, "wohin" if goes else "wo"), "?"
        )
    if kind != "when" and choose.chance(0.6):
        clause = replace(clause, adverbials=(*clause.adverbials, time_for(choose, tense)))
    german = {"": "", "why": "warum", "when": "wann"}[kind]
    return finish(english_question(clause, kind), german_question(clause, german), "?")


def _asked_object(choose: Chooser, doing: Verb, kind: str) -> Pair:
    if kind == "what":
        return "what", "was"
    noun = choose.pick(
        [noun for noun in nouns_of(choose.pick(doing.objects)) if noun.german_plural] or [NOUN["book"]]
    )
    if kind == "many":
        return f"how many {noun.english_plural}", f"wie viele {noun.german_plural}"
    ending = {"m": "en", "f": "e", "n": "es"}[noun.gender]
    return f"which {noun.english}", f"welch{ending} {noun.oblique}"


def request(choose: Chooser) -> Pair:
    """Please open the window!"""
    you = PRONOUNS["you"]
    clause = action(choose, you, "present", plain=True, doing=wanted_verb(choose))
    please = replace(clause, adverbials=(*clause.adverbials, Adverbial("", "bitte", "time")))
    return finish(f"please {english_infinitive(clause)}", german_imperative(please), "!")


def there_is(choose: Chooser) -> Pair:
    """There is a big table in the kitchen; is there a key under the table?"""
    noun = choose.pick(nouns_of(choose.pick(("furniture", "thing", "device", "animal"))))
    what = noun_phrase(noun, A, adjectives_for(choose, noun, 0.7))
    where = place(choose, choose.pick(("room", "outside", "meal", "work")))
    if choose.chance(0.25):
        no = noun_phrase(noun, NO, adjectives_for(choose, noun, 0.4))
        english = f"there is {no.english} {where.english}"
        return finish(english, f"{where.german} gibt es {no.german['acc']}")
    if choose.chance(0.25):
        return finish(
            f"is there {what.english} {where.english}", f"gibt es {where.german} {what.german['acc']}", "?"
        )
    return finish(f"there is {what.english} {where.english}", f"{where.german} gibt es {what.german['acc']}")


def spot(choose: Chooser) -> Pair:
    """The key is under the table (dative); she put the key under the table (accusative)."""
    english, german = choose.pick(_SPOTS)
    surface = choose.pick(nouns_of("surface" if english == "on" else "furniture"))
    base = noun_phrase(surface, THE, adjectives_for(choose, surface, 0.4))
    small = choose.pick(nouns_of(choose.pick(("flat", "upright"))))
    if choose.chance(0.5):
        what = noun_phrase(small, THE, adjectives_for(choose, small), choose.chance(0.25))
        where = Adverbial(f"{english} {base.english}", prepositional(german, "dat", base), "place")
        clause = Clause(what, BE, choose.pick(("present", "past")), (where,), negated=choose.chance(0.2))
        return finish(english_statement(clause), german_statement(clause))
    subject = subject_for(choose)
    where = Adverbial(f"{english} {base.english}", prepositional(german, "acc", base), "direction")
    put = _STAND if "upright" in small.kinds else _LAY
    clause = Clause(subject, put, "past", (where,), thing(choose, small, subject))
    clause, front = with_time(choose, clause) if choose.chance(0.5) else (clause, None)
    return finish(english_statement(clause, front), german_statement(clause, front))


def description(choose: Chooser) -> Pair:
    """Professions, comparisons, moods."""
    kind = choose.below(3)
    if kind == 0:
        subject = somebody(choose, plain=True)
        english, he, she = choose.pick(lexicon.PROFESSIONS)
        german = he if subject.pronoun == "he" else she
        tense = choose.pick(("present", "past"))
        clause = predicate(subject, english, german, tense)
        if choose.chance(0.2):
            no = f"{'kein' if german == he else 'keine'} {german}"
            return finish(
                english_statement(replace(clause, negated=True)),
                german_statement(predicate(subject, english, no, tense)),
            )
        return finish(english_statement(clause), german_statement(clause))
    if kind == 1:
        if choose.chance(0.5):
            subject, other = somebody(choose, plain=True), somebody(choose, plain=True)
            english, german = choose.pick(lexicon.COMPARATIVES["person"])
        else:
            group = choose.pick(("furniture", "device", "vehicle", "clothes"))
            nouns = nouns_of(group)
            subject = noun_phrase(choose.pick(nouns), THE, (), choose.chance(0.2))
            second = choose.pick(nouns)
            other = noun_phrase(
                second, choose.pick((THE, POSSESSIVES["I"])), adjectives_for(choose, second, 0.5)
            )
            english, german = choose.pick(lexicon.COMPARATIVES["thing"])
        if other.english == subject.english:
            return description(choose)
        clause = predicate(
            subject, f"{english} than {other.english}", f"{german} als {other.german['nom']}",
            negated=choose.chance(0.2),
        )  # fmt: skip
        return finish(english_statement(clause), german_statement(clause))
    clause = predicate(
        subject_for(choose),
        *choose.pick(lexicon.MOODS),
        choose.pick(("present", "past")),
        choose.chance(0.3),
    )
    clause, front = with_time(choose, clause) if clause.tense == "past" else (clause, None)
    if choose.chance(0.3):
        return finish(english_question(clause), german_question(clause), "?")
    return finish(english_statement(clause, front), german_statement(clause, front))


SENTENCES: tuple[tuple[int, Callable[[Chooser], Pair]], ...] = (
    (20, statement), (7, negation), (6, big_event), (9, modal), (3, perfect), (9, question), (3, request),
    (5, numbers), (3, there_is), (5, spot), (4, description), (5, timetable), (3, still_going_on),
    (10, because), (9, in_order), (8, report), (8, intention), (10, relative_clause),
)  # fmt: skip
"""Every kind of sentence with its weight."""


def sentence_pairs(seed: int) -> Iterator[Pair]:
    """Endless English-German sentence pairs; they may repeat. The same seed gives the same pairs everywhere."""
    choose = Chooser(seed)
    kinds = [kind for weight, kind in SENTENCES for _ in range(weight)]
    while True:
        yield choose.pick(kinds)(choose)
