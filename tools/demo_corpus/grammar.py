"""The two grammars behind the generated corpus: from one description of a clause to English and to German.

A sentence is described once, as a ``Clause`` made of ``Phrase`` and ``Adverbial``; the functions below put it
into words. What they know of German: case, gender and adjective endings; the finite verb second in statements
and last in subordinate clauses; separable prefixes; light pronouns first, then time, definite objects,
negation, manner, place, indefinite objects, direction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tools.demo_corpus.morphology import Verb, verb
from tools.demo_corpus.phrases import PRONOUNS, Adverbial, Phrase, join, prepositional


@dataclass(frozen=True)
class Clause:
    """What both languages say: who does what to whom, and when, how and where."""

    subject: Phrase
    verb: Verb
    tense: str = "past"
    """present, progressive, past, perfect, pluperfect, future, or since (has lived for, wohnt seit)"""
    adverbials: tuple[Adverbial, ...] = ()
    object: Phrase | None = None
    receiver: Phrase | None = None
    modal: Verb | None = None
    negated: bool = False


BE = replace(
    verb("be | sein | ist gewesen | | |", "war"),
    english=("be", "is", "was", "been", "being"),
    present=("bin", "bist", "ist", "sind"),
)
HAVE = replace(
    verb("have/had/had | haben | hat gehabt | acc state", "hatte"),
    english=("have", "has", "had", "had", "having"),
    present=("habe", "hast", "hat", "haben"),
)
WILL = ("werde", "wirst", "wird", "werden")


def _modal(english: str, german: str, preterite: str, present: str) -> Verb:
    """A modal verb; ``english`` is its forms and tail, alike for an auxiliary."""
    forms, _, tail = english.partition(" ")
    base, third, past = (forms.split("/") * 3)[:3]
    ich, du, er, wir = present.split()
    return Verb(
        (base, third, past, past, ""),
        tail,
        "",
        german,
        "",
        (ich, du, er, wir),
        "",
        "haben",
        preterite=preterite,
    )


MODALS = {
    "can": _modal("can/can/could", "können", "konnte", "kann kannst kann können"),
    "must": _modal("must", "müssen", "musste", "muss musst muss müssen"),
    "should": _modal("should", "sollen", "sollte", "sollte solltest sollte sollten"),
    "would like to": _modal("would like to", "mögen", "mochte", "möchte möchtest möchte möchten"),
    "want to": _modal("want/wants/wanted to", "wollen", "wollte", "will willst will wollen"),
    "have to": _modal("have/has/had to", "müssen", "musste", "muss musst muss müssen"),
    "be allowed to": replace(
        _modal("be/is/was allowed to", "dürfen", "durfte", "darf darfst darf dürfen"), preterite="durfte"
    ),
}
_AUXILIARIES = ("can", "must", "should", "would")


# English ---------------------------------------------------------------------------------------------------


def _form_of_be(subject: Phrase, past: bool) -> str:
    if past:
        return "were" if subject.plural or subject.person == 2 else "was"
    return "are" if subject.plural or subject.person == 2 else ("am" if subject.person == 1 else "is")


def _english_verbs(clause: Clause, do: bool) -> tuple[str, list[str]]:
    """The finite auxiliary (empty if there is none and ``do`` asks for none) and the verbs that follow it."""
    head = clause.modal or clause.verb
    base, third, past, participle, ing = head.english
    rest = [head.tail, clause.verb.english[0], clause.verb.tail] if clause.modal else [head.tail]
    singular = clause.subject.person == 3 and not clause.subject.plural
    in_past = clause.tense == "past"
    if base in _AUXILIARIES:
        return (past if in_past else base), rest
    if clause.tense == "future":
        return "will", [base, *rest]
    if clause.tense in ("perfect", "since"):
        return "has" if singular else "have", [participle, *rest]
    if clause.tense == "pluperfect":
        return "had", [participle, *rest]
    if clause.tense == "progressive":
        return _form_of_be(clause.subject, past=False), [ing, *rest]
    if base == "be":
        return _form_of_be(clause.subject, in_past), rest
    if do:
        return "did" if in_past else "does" if singular else "do", [base, *rest]
    return "", [past if in_past else third if singular else base, *rest]


def _english_complements(clause: Clause, front: Adverbial | None = None) -> list[str]:
    """All that follows the verbs."""
    said = {
        role: [a.english for a in clause.adverbials if a.role == role and a != front]
        for role in ("direction", "predicate", "manner", "place", "time")
    }
    objects = [phrase.english_object for phrase in (clause.receiver, clause.object) if phrase]
    main = clause.object or clause.receiver
    if clause.verb.adverb:
        objects.insert(1 if main and main.light else 0, clause.verb.adverb)
    return objects + said["predicate"] + said["direction"] + said["manner"] + said["place"] + said["time"]


def _often(clause: Clause, front: Adverbial | None = None) -> list[str]:
    return [a.english for a in clause.adverbials if a.role == "frequency" and a != front]


def english_statement(clause: Clause, front: Adverbial | None = None) -> str:
    """The clause in English; ``front`` is what is said first, one of its adverbials or another clause."""
    finite, rest = _english_verbs(clause, do=clause.negated)
    negation = ["not"] if clause.negated else []
    words = [clause.subject.english, finite, *negation, *_often(clause, front), *rest]
    words += _english_complements(clause, front)
    if front:
        comma = "," if front.role == "clause" or front.english.count(" ") > 1 else ""
        words.insert(0, front.english + comma)
    return join(words).replace("can not", "cannot")


def english_question(clause: Clause, opening: str = "") -> str:
    """The clause as an English question, after an interrogative if there is one."""
    finite, rest = _english_verbs(clause, do=True)
    negation = ["not"] if clause.negated else []
    words = [opening, finite, clause.subject.english, *negation, *_often(clause), *rest]
    return join(words + _english_complements(clause))


def english_infinitive(clause: Clause) -> str:
    """open the window"""
    return join([clause.verb.english[0], clause.verb.tail, *_english_complements(clause)])


# German ----------------------------------------------------------------------------------------------------


def _agree(forms: tuple[str, str, str, str], subject: Phrase) -> str:
    return forms[3 if subject.plural else subject.person - 1]


def _preterite(first: str) -> tuple[str, str, str, str]:
    return first, first + "st", first, first + ("n" if first.endswith("e") else "en")


def _german_verbs(clause: Clause) -> tuple[str, list[str]]:
    """The finite verb and what closes the clause: participle or infinitive (separable prefix apart)."""
    head, subject = clause.modal or clause.verb, clause.subject
    infinitive = clause.verb.prefix + clause.verb.german
    helper = BE if clause.verb.auxiliary == "sein" else HAVE
    if clause.tense == "past" and head.preterite:
        return _agree(_preterite(head.preterite), subject), [infinitive] if clause.modal else []
    if clause.modal:
        return _agree(head.present, subject), [infinitive]
    if clause.tense in ("past", "perfect"):
        return _agree(helper.present, subject), [clause.verb.participle]
    if clause.tense == "pluperfect":
        return _agree(_preterite(helper.preterite), subject), [clause.verb.participle]
    if clause.tense == "future":
        return _agree(WILL, subject), [infinitive]
    return _agree(head.present, subject), []


def _reflexive(subject: Phrase) -> str:
    return "sich" if subject.person == 3 else PRONOUNS[subject.pronoun].german["acc"]


def _middle(clause: Clause, front: Adverbial | None = None) -> list[str]:
    """Everything between the finite verb (with the subject) and the closing verbs, in German order."""
    said = {
        role: [a.german for a in clause.adverbials if a.role == role and a != front]
        for role in ("time", "frequency", "manner", "place", "direction", "predicate")
    }
    light: list[str] = []
    definite: list[str] = []
    indefinite: list[str] = []
    behind = said["direction"] + said["predicate"]
    if clause.verb.reflexive:
        light.append(_reflexive(clause.subject))
    frame = [part for part in clause.verb.frame if part != "state"]
    object_case = frame[-1] if frame else "acc"
    if clause.object and len(frame) == 2 and frame[0] != "dat":
        behind.insert(0, prepositional(frame[0], frame[1], clause.object))
    elif clause.object:
        place = light if clause.object.light else definite if clause.object.definite else indefinite
        place.append(clause.object.german[object_case])
    if clause.receiver:
        dative = clause.receiver.german["dat"]
        if clause.receiver.light:
            light.append(dative)
        else:
            definite.insert(0, dative)
    carried = any(phrase and phrase.negative for phrase in (clause.object, clause.subject))
    negation = ["nicht"] if clause.negated and not carried else []
    if clause.tense == "since":  # kennt Anna seit drei Jahren
        light, definite = light + definite, []
    return (
        light + said["time"] + definite + said["frequency"] + negation + said["manner"] + said["place"]
        + indefinite + behind
    )  # fmt: skip


def german_statement(clause: Clause, front: Adverbial | None = None) -> str:
    """Verb second: what comes first pushes the subject behind the finite verb."""
    finite, closing = _german_verbs(clause)
    prefix = [] if closing else [clause.verb.prefix]
    subject = clause.subject.german["nom"]
    if front is None:
        start = [subject, finite]
    else:
        start = [front.german + ("," if front.role == "clause" else ""), finite, subject]
    return join([*start, *_middle(clause, front), *closing, *prefix])


def german_question(clause: Clause, opening: str = "") -> str:
    """Finite verb first, or second after an interrogative."""
    finite, closing = _german_verbs(clause)
    prefix = [] if closing else [clause.verb.prefix]
    return join([opening, finite, clause.subject.german["nom"], *_middle(clause), *closing, *prefix])


def german_subordinate(clause: Clause, conjunction: str) -> str:
    """Finite verb last. For a relative clause the conjunction is the relative pronoun, or empty if that is
    the subject."""
    finite, closing = _german_verbs(clause)
    last = [*closing, finite] if closing else [clause.verb.prefix + finite]
    return join([conjunction, clause.subject.german["nom"], *_middle(clause), *last])


def german_infinitive(clause: Clause) -> str:
    """das Fenster aufzumachen"""
    v = clause.verb
    infinitive = f"{v.prefix}zu{v.german}" if v.prefix else f"zu {v.german}"
    return join([*_middle(clause), infinitive])


def german_imperative(clause: Clause) -> str:
    """Mach das Fenster auf: what one says to a friend."""
    infinitive, third = clause.verb.german, clause.verb.present[2]
    stem = infinitive.removesuffix("n").removesuffix("e")
    if third[:-1] not in (stem, stem + "e") and not re.search("[äöü]", third):
        word = third.removesuffix("t")  # lies, gib, nimm
    else:
        word = stem + (
            "e" if re.search("[td]$", stem) or third.endswith("et") or not infinitive.endswith("en") else ""
        )
    return join([word, *_middle(clause), clause.verb.prefix])


def finish(english: str, german: str, mark: str = ".") -> tuple[str, str]:
    """Two finished sentences: first letters upper case, commas in order, full stop or question mark."""

    def tidy(text: str) -> str:
        text = re.sub(r",+(?=,|$)", "", text)
        return text[0].upper() + text[1:] + mark

    return tidy(english), tidy(german)
