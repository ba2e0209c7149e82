"""Sentences about numbers, dates and hours in the generated corpus; each function makes one random pair."""

from __future__ import annotations

from dataclasses import replace

from tools.demo_corpus import lexicon
from tools.demo_corpus.choices import (
    LIVE,
    Pair,
    action,
    adjectives_for,
    place,
    places,
    predicate,
    somebody,
    subject_for,
)
from tools.demo_corpus.grammar import (
    Clause,
    english_question,
    english_statement,
    finish,
    german_question,
    german_statement,
)
from tools.demo_corpus.morphology import (
    VERB,
    english_number,
    german_number,
    nouns_of,
    verb,
)
from tools.demo_corpus.phrases import (
    THE,
    Adverbial,
    counted,
    followed_by,
    noun_phrase,
)
from tools.demo_corpus.times import (
    Chooser,
    any_clock,
    any_date,
    since,
)

_COST = verb("cost/cost/cost | kosten | hat gekostet")
_BEGIN = verb("begin/began/begun/beginning | an+fangen/fängst/fängt | hat angefangen")
_END = verb("end | enden | hat geendet")
_LEAVE = verb("leave/left/left | ab+fahren/fährst/fährt | ist abgefahren")
_OPENING = tuple(
    verb(line) for line in ("open | auf+machen | hat aufgemacht", "close | zu+machen | hat zugemacht")
)


def numbers(choose: Chooser) -> Pair:
    """Ages, prices, and how many there are."""
    kind = choose.below(3)
    if kind == 0:
        subject, n = somebody(choose, plain=True), choose.between(18, 99)
        clause = predicate(
            subject,
            f"{english_number(n)} years old",
            f"{german_number(n)} Jahre alt",
            choose.pick(("present", "past")),
        )
        return finish(english_statement(clause), german_statement(clause))
    if kind == 1:
        noun = choose.pick(nouns_of(choose.pick(("clothes", "furniture", "device", "vehicle"))))
        n = choose.between(2, 100) if choose.chance(0.5) else 5 * choose.between(20, 180)
        euros = Adverbial(f"{english_number(n)} euros", f"{german_number(n)} Euro", "predicate")
        subject = noun_phrase(noun, THE, adjectives_for(choose, noun, 0.6), choose.chance(0.2))
        clause = Clause(subject, _COST, choose.pick(("present", "past")), (euros,))
        return finish(english_statement(clause), german_statement(clause))
    noun = choose.pick(nouns_of(choose.pick(("furniture", "thing", "device", "opening", "person"))))
    n = choose.between(2, 12) if choose.chance(0.3) else choose.between(13, 99)
    many = noun_phrase(
        noun, counted(english_number(n), german_number(n)), adjectives_for(choose, noun, 0.3), True
    )
    where = place(choose, choose.pick(("room", "meal", "work", "public")))
    return finish(
        f"there are {many.english} {where.english}", f"{where.german} gibt es {many.german['acc']}"
    )  # fmt: skip


def timetable(choose: Chooser) -> Pair:
    """The concert begins at half past seven on Monday; the train leaves at ten past five."""
    kind = choose.below(4)
    hour = any_clock(choose)
    if kind == 0:
        subject = somebody(choose, plain=True)
        english, german = choose.pick(lexicon.CITIES)
        born = any_date(choose, with_year=True)
        return finish(
            f"{subject.english} was born in {english} {born.english}",
            f"{subject.german['nom']} wurde {born.german} in {german} geboren",
        )
    when = hour
    if choose.chance(0.5):
        english, german = choose.pick(lexicon.WEEKDAYS)
        when = Adverbial(f"on {english} {hour.english}", f"am {german} {hour.german}", "time")
    elif choose.chance(0.4):
        day = any_date(choose, with_year=False)
        when = Adverbial(f"{day.english} {hour.english}", f"{day.german} {hour.german}", "time")
    if kind == 1:
        noun = choose.pick([noun for noun in nouns_of("event") if "trip" not in noun.english])
        clause = Clause(
            noun_phrase(noun, THE), choose.pick((_BEGIN, _END)), choose.pick(("present", "past")), (when,)
        )
    elif kind == 2:
        noun = choose.pick(nouns_of("transport"))
        english, german = choose.pick(lexicon.CITIES)
        subject = followed_by(noun_phrase(noun, THE), f"to {english}", f" nach {german}")
        clause = Clause(subject, _LEAVE, choose.pick(("present", "past")), (when,))
    else:
        noun = choose.pick([noun for noun in places() if {"trade", "quiet", "meal"} & set(noun.kinds)])
        clause = Clause(
            noun_phrase(noun, THE), choose.pick(_OPENING), choose.pick(("present", "past")), (when,)
        )
    front = when if choose.chance(0.3) else None
    if not front and choose.chance(0.15):
        return finish(english_question(clause), german_question(clause), "?")
    return finish(english_statement(clause, front), german_statement(clause, front))


def still_going_on(choose: Chooser) -> Pair:
    """Anna has lived in Berlin for three years."""
    subject, how_long = subject_for(choose), since(choose)
    kind = choose.below(3)
    if kind == 0:
        clause = Clause(subject, LIVE, "since", (how_long, place(choose, "city")))
    elif kind == 1:
        clause = Clause(subject, VERB["work"], "since", (how_long, place(choose, "work")))
    else:
        clause = action(choose, subject, "since", doing=VERB["know"])
        clause = replace(clause, adverbials=(how_long,))
    return finish(english_statement(clause), german_statement(clause))
