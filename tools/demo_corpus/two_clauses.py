"""The sentences of two clauses in the generated corpus; each function makes one random pair."""

from __future__ import annotations

from dataclasses import replace

from tools.demo_corpus import lexicon
from tools.demo_corpus.choices import (
    LIVE,
    Pair,
    action,
    adjectives_for,
    colour_for,
    place,
    predicate,
    somebody,
    subject_for,
    wanted_verb,
    with_time,
)
from tools.demo_corpus.grammar import (
    BE,
    HAVE,
    MODALS,
    Clause,
    english_infinitive,
    english_question,
    english_statement,
    finish,
    german_infinitive,
    german_question,
    german_statement,
    german_subordinate,
)
from tools.demo_corpus.morphology import (
    NOUN,
    VERB,
    nouns_of,
    verb,
)
from tools.demo_corpus.phrases import (
    BARE,
    IT,
    NOT_A,
    PRONOUNS,
    THE,
    Adverbial,
    Phrase,
    followed_by,
    noun_phrase,
    refer_to,
    relative,
)
from tools.demo_corpus.times import (
    Chooser,
    time_for,
)

_SAY = tuple(
    verb(line)
    for line in ("say/said/said | sagen | hat gesagt", "think/thought/thought | glauben | hat geglaubt",
                 "hope | hoffen | hat gehofft", "hear/heard/heard | hören | hat gehört")
)  # fmt: skip
_KNOW = replace(
    verb("know/knew/known | wissen/weißt/weiß | hat gewusst", "wusste"),
    present=("weiß", "weißt", "weiß", "wissen"),
)
_INTEND = tuple(
    verb(line)
    for line in ("try | versuchen | hat versucht", "decide | beschließen | hat beschlossen",
                 "promise | versprechen/versprichst/verspricht | hat versprochen",
                 "forget/forgot/forgotten | vergessen/vergisst/vergisst | hat vergessen",
                 "begin/began/begun | an+fangen/fängst/fängt | hat angefangen")
)  # fmt: skip
_WEATHER = tuple(
    verb(line)
    for line in ("rain | regnen | hat geregnet", "snow | schneien | hat geschneit")
)  # fmt: skip


def _circumstance(choose: Chooser, person: Phrase, tense: str) -> Clause:
    """A reason for what ``person`` does, or something that might have kept them from it."""
    kind = choose.below(5)
    if kind == 0:
        what = choose.pick((("time", "Zeit"), ("money", "Geld")))
        noun = replace(NOUN["water"], english=what[0], german=what[1], oblique=what[1])
        noun = replace(noun, gender="f" if what[1] == "Zeit" else "n")
        negated = choose.chance(0.6)
        return Clause(person, HAVE, tense, (), noun_phrase(noun, NOT_A if negated else BARE), negated=negated)
    if kind == 1:
        return Clause(IT["n"], choose.pick(_WEATHER), "progressive" if tense == "present" else "past")
    if kind == 2:
        helper = MODALS[choose.pick(("want to", "have to", "can"))]
        negated = helper.english[0] == "can"
        return action(choose, person, tense, modal=helper, plain=True, negated=negated)
    return predicate(person, *choose.pick(lexicon.MOODS), tense)


def because(choose: Chooser) -> Pair:
    """Because it was raining, the man went home; she bought the coat although it was expensive."""
    subject = subject_for(choose)
    while not subject.pronoun:
        subject = subject_for(choose)
    english, german = choose.pick((("because", "weil"), ("because", "weil"), ("although", "obwohl")))
    tense = choose.pick(("past", "past", "future"))
    cause_tense = "past" if tense == "past" else "present"
    if choose.chance(0.3):
        return _because_of_thing(choose, subject, english, german)
    if choose.chance(0.45):
        cause = _circumstance(choose, subject, cause_tense)
        person = refer_to(subject) if cause.subject is subject else subject
        main = action(choose, person, tense)
        front = Adverbial(
            f"{english} {english_statement(cause)}", german_subordinate(cause, german), "clause"
        )
        return finish(english_statement(main, front), german_statement(main, front))
    main = action(choose, subject, tense)
    main, first = with_time(choose, main) if choose.chance(0.4) else (main, None)
    cause = _circumstance(choose, refer_to(subject), cause_tense)
    return _joined(main, first, english, german, cause)


def _because_of_thing(choose: Chooser, subject: Phrase, english: str, german: str) -> Pair:
    doing = VERB[choose.pick(("buy", "sell", "rent", "repair", "need", "throw away"))]
    noun = choose.pick(
        nouns_of(choose.pick([k for k in doing.objects if k in ("clothes", "furniture", "vehicle")]))
    )
    what = noun_phrase(noun, THE, colour_for(choose, noun), choose.chance(0.2))
    main = Clause(subject, doing, "past", (), what)
    quality = choose.pick(
        (("expensive", "teuer"), ("old", "alt"), ("cheap", "billig"), ("beautiful", "schön"))
    )
    return _joined(main, None, english, german, predicate(refer_to(what), *quality, "past"))


def _joined(main: Clause, front: Adverbial | None, english: str, german: str, second: Clause) -> Pair:
    return finish(
        f"{english_statement(main, front)} {english} {english_statement(second)}",
        f"{german_statement(main, front)}, {german_subordinate(second, german)}",
    )


def in_order(choose: Chooser) -> Pair:
    """Before Anna went home, she called her mother; after he had eaten, he went home; when, if, but."""
    subject = subject_for(choose)
    while not subject.pronoun:
        subject = subject_for(choose)
    other = refer_to(subject)
    kind = choose.pick(("before", "after", "when", "if", "if", "but", "and"))
    if kind in ("but", "and"):
        tense = choose.pick(("past", "future"))
        first, second = action(choose, subject, tense, plain=True), action(choose, other, tense, plain=True)
        if kind == "but":
            second = replace(action(choose, other, tense, plain=True, negated=True))
        first, front = with_time(choose, first) if choose.chance(0.4) else (first, None)
        word = {"but": ", aber", "and": " und"}[kind]
        return finish(
            f"{english_statement(first, front)}{',' if kind == 'but' else ''} {kind} {english_statement(second)}",
            f"{german_statement(first, front)}{word} {german_statement(second)}",
        )
    if kind == "if":
        first = _circumstance(choose, subject, "present")
        person = other if first.subject is subject else subject
        second = action(choose, person, "future")
        if choose.chance(0.4):
            helper = MODALS[choose.pick(("can", "should", "must"))]
            second = action(choose, person, "present", modal=helper)
    else:
        first = action(choose, subject, "pluperfect" if kind == "after" else "past", plain=True)
        second = action(choose, other, "past", plain=True)
        if kind == "when":
            doing = VERB[choose.pick(("come back", "arrive", "wake up", "get up"))]
            first = action(choose, subject, "past", doing=doing, plain=True)
    german = {"before": "bevor", "after": "nachdem", "when": "als", "if": "wenn"}[kind]
    front = Adverbial(f"{kind} {english_statement(first)}", german_subordinate(first, german), "clause")
    return finish(english_statement(second, front), german_statement(second, front))


def report(choose: Chooser) -> Pair:
    """She says that the man bought the car; do you know whether the guests arrived?"""
    indirect_question = choose.chance(0.45)
    subject = somebody(choose) if indirect_question else subject_for(choose)
    content = action(choose, subject, choose.pick(("past", "past", "future", "progressive")))
    if choose.chance(0.4):
        when = time_for(choose, content.tense)
        content = replace(content, adverbials=(*content.adverbials, when))
    if indirect_question:
        english, german = choose.pick((("whether", "ob"), ("why", "warum"), ("when", "wann")))
        if english == "when":
            timeless = tuple(a for a in content.adverbials if a.role not in ("time", "frequency"))
            content = replace(content, adverbials=timeless)
        asked = choose.chance(0.5)
        knower = PRONOUNS["you"] if asked else choose.pick((PRONOUNS["I"], PRONOUNS["we"], somebody(choose)))
        main = Clause(knower, _KNOW, "present", negated=not asked)
        start = english_question(main) if asked else english_statement(main)
        german_start = german_question(main) if asked else german_statement(main)
        return finish(
            f"{start} {english} {english_statement(content)}",
            f"{german_start}, {german_subordinate(content, german)}",
            "?" if asked else ".",
        )
    teller = subject_for(choose)
    main = Clause(teller, choose.pick((*_SAY, _KNOW)), "present")
    if main.verb.english[0] == "hear":
        main = replace(main, tense="perfect")
    return finish(
        f"{english_statement(main)} that {english_statement(content)}",
        f"{german_statement(main)}, {german_subordinate(content, 'dass')}",
    )


def intention(choose: Chooser) -> Pair:
    """He tried to open the door; she went to the station to pick up her brother."""
    subject = subject_for(choose)
    goal = action(choose, subject, "present", plain=True, doing=wanted_verb(choose))
    if choose.chance(0.4):
        doing = VERB[choose.pick(("go", "drive", "travel", "come back", "get up"))]
        main = action(choose, subject, choose.pick(("past", "future")), doing=doing, plain=True)
        joint = ", um "
    elif choose.chance(0.3):
        kind = choose.pick((("important", "wichtig"), ("difficult", "schwierig"), ("easy", "leicht")))
        goal = action(choose, PRONOUNS["they"], "present", plain=True, doing=wanted_verb(choose))
        while goal.verb.reflexive or _mentions_owner(goal):
            goal = action(choose, PRONOUNS["they"], "present", plain=True, doing=wanted_verb(choose))
        main, joint = predicate(IT["n"], *kind, choose.pick(("present", "past"))), ", "
    else:
        main, joint = Clause(subject, choose.pick(_INTEND), "past"), ", "
    front: Adverbial | None = None
    if main.verb is not BE and choose.chance(0.4):
        when = time_for(choose, main.tense)
        main, front = replace(main, adverbials=(*main.adverbials, when)), when
    return finish(
        f"{english_statement(main, front)} to {english_infinitive(goal)}",
        f"{german_statement(main, front)}{joint}{german_infinitive(goal)}",
    )


def _mentions_owner(clause: Clause) -> bool:
    phrases = [phrase for phrase in (clause.object, clause.receiver) if phrase]
    return any("their" in phrase.english_object.split() for phrase in phrases)


def _animate_head(choose: Chooser) -> Phrase:
    noun = choose.pick(nouns_of("person"))
    return noun_phrase(noun, THE, adjectives_for(choose, noun, 0.25), choose.chance(0.25))


def relative_clause(choose: Chooser) -> Pair:
    """The man who bought the car lives in Berlin; the coat that Anna bought is expensive."""
    kind = choose.below(4)
    head = _animate_head(choose)
    if kind == 0:
        inner = action(choose, relative(head, animate=True), "past")
        subject = followed_by(head, english_statement(inner), f", {german_subordinate(inner, '')},")
    elif kind == 1:
        doing = VERB[choose.pick(("help", "thank", "trust", "listen to"))]
        who = relative(head, animate=True)
        inner = replace(action(choose, subject_for(choose), "past", doing=doing, plain=True), receiver=None)
        words = f"whom {english_statement(inner)}"
        subject = followed_by(head, words, f", {german_subordinate(inner, who.german['dat'])},")
    elif kind == 2:
        doing = VERB[choose.pick(("buy", "sell", "repair", "find", "lose", "rent", "steal", "need"))]
        kinds = [
            kind for kind in doing.objects if kind in ("clothes", "device", "furniture", "vehicle", "small")
        ]
        noun = choose.pick(nouns_of(choose.pick(kinds)))
        head = noun_phrase(noun, THE, colour_for(choose, noun), choose.chance(0.25))
        inner = replace(action(choose, subject_for(choose), "past", doing=doing, plain=True), object=None)
        that = relative(head, animate=False).german["acc"]
        subject = followed_by(
            head, f"that {english_statement(inner)}", f", {german_subordinate(inner, that)},"
        )
        quality = choose.pick(
            (("expensive", "teuer"), ("very old", "sehr alt"), ("very beautiful", "sehr schön"))
        )
        clause = predicate(subject, *quality, choose.pick(("present", "past")))
        return finish(english_statement(clause), german_statement(clause))
    else:
        doing = VERB[choose.pick(("meet", "see", "know", "call", "visit", "help", "invite"))]
        main = action(choose, subject_for(choose), "past", doing=doing, plain=True)
        main = replace(main, object=None, receiver=None, tense="present" if doing is VERB["know"] else "past")
        main = replace(main, receiver=head) if doing.frame == ("dat",) else replace(main, object=head)
        front = None if main.tense == "present" or choose.chance(0.5) else time_for(choose, "past")
        main = replace(main, adverbials=(front,) if front else ())
        inner = action(choose, relative(head, animate=True), "past")
        return finish(
            f"{english_statement(main, front)} {english_statement(inner)}",
            f"{german_statement(main, front)}, {german_subordinate(inner, '')}",
        )
    clause = choose.pick((
        Clause(subject, LIVE, "present", (place(choose, "city"),)),
        predicate(subject, *choose.pick(lexicon.MOODS), choose.pick(("present", "past"))),
        action(choose, subject, "past", plain=True, doing=VERB[choose.pick(("laugh", "arrive", "wake up"))]),
    ))  # fmt: skip
    return finish(english_statement(clause), german_statement(clause))
