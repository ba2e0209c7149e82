from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.demo_corpus.grammar import (
    BE,
    MODALS,
    Clause,
    english_infinitive,
    english_question,
    english_statement,
    finish,
    german_imperative,
    german_infinitive,
    german_question,
    german_statement,
    german_subordinate,
)
from tools.demo_corpus.morphology import NOUN, VERB, english_number, german_number
from tools.demo_corpus.phrases import (
    BARE,
    IT,
    NOT_A,
    POSSESSIVES,
    PRONOUNS,
    THE,
    THIS,
    A,
    Adverbial,
    counted,
    followed_by,
    noun_phrase,
    owned_by,
    prepositional,
    refer_to,
    relative,
)
from tools.demo_corpus.times import Chooser, clock, date

MAN = noun_phrase(NOUN["man"], THE)
WOMAN = noun_phrase(NOUN["woman"], THE)
COAT = noun_phrase(NOUN["coat"], A, [("blue", "blau")])
WINDOW = noun_phrase(NOUN["window"], THE)
YESTERDAY = Adverbial("yesterday", "gestern", "time")
BERLIN = Adverbial("in Berlin", "in Berlin", "place")
TIRED = Adverbial("tired", "müde", "predicate")


@pytest.mark.parametrize(
    ("noun", "determiner", "adjectives", "plural", "english", "nom", "acc", "dat"),
    [
        ("man", THE, [("old", "alt")], False, "the old man", "der alte Mann", "den alten Mann", "dem alten Mann"),
        ("man", A, [("old", "alt")], False, "an old man", "ein alter Mann", "einen alten Mann", "einem alten Mann"),
        ("man", THE, [], True, "the men", "die Männer", "die Männer", "den Männern"),
        ("boy", THE, [], False, "the boy", "der Junge", "den Jungen", "dem Jungen"),
        ("bed", A, [("expensive", "teuer")], False, "an expensive bed", "ein teures Bett", "ein teures Bett",
         "einem teuren Bett"),
        ("coffee", BARE, [("hot", "heiß")], False, "hot coffee", "heißer Kaffee", "heißen Kaffee", "heißem Kaffee"),
        ("milk", NOT_A, [], False, "any milk", "keine Milch", "keine Milch", "keiner Milch"),
        ("apple", NOT_A, [], True, "any apples", "keine Äpfel", "keine Äpfel", "keinen Äpfeln"),
        ("book", POSSESSIVES["she"], [("new", "neu")], True, "her new books", "ihre neuen Bücher",
         "ihre neuen Bücher", "ihren neuen Büchern"),
        ("cat", THIS, [("black", "schwarz")], False, "this black cat", "diese schwarze Katze",
         "diese schwarze Katze", "dieser schwarzen Katze"),
        ("car", counted("twenty-one", "einundzwanzig"), [("red", "rot")], True, "twenty-one red cars",
         "einundzwanzig rote Autos", "einundzwanzig rote Autos", "einundzwanzig roten Autos"),
        ("car", owned_by("Anna"), [("new", "neu")], False, "Anna's new car", "Annas neues Auto",
         "Annas neues Auto", "Annas neuem Auto"),
    ],
)  # fmt: skip
def test_noun_phrases_agree(noun, determiner, adjectives, plural, english, nom, acc, dat):
    phrase = noun_phrase(NOUN[noun], determiner, adjectives, plural)
    assert phrase.english == english
    assert phrase.german == {"nom": nom, "acc": acc, "dat": dat}


@pytest.mark.parametrize(
    ("english", "german", "plural", "gender"),
    [
        ("kitchen table", "Küchentisch", "Küchentische", "m"),
        ("history book", "Geschichtsbuch", "Geschichtsbücher", "n"),
        ("birthday present", "Geburtstagsgeschenk", "Geburtstagsgeschenke", "n"),
        ("newspaper article", "Zeitungsartikel", "Zeitungsartikel", "m"),
        ("travel bag", "Reisetasche", "Reisetaschen", "f"),
        ("chocolate cake", "Schokoladenkuchen", "Schokoladenkuchen", "m"),
        ("city map", "Stadtplan", "Stadtpläne", "m"),
        ("living room window", "Wohnzimmerfenster", "Wohnzimmerfenster", "n"),
    ],
)
def test_compounds(english, german, plural, gender):
    noun = NOUN[english]
    assert (noun.german, noun.german_plural, noun.gender) == (german, plural, gender)


@pytest.mark.parametrize(
    ("infinitive", "present"),
    [
        ("know", "kenne kennst kennt kennen"),
        ("draw", "zeichne zeichnest zeichnet zeichnen"),
        ("work", "arbeite arbeitest arbeitet arbeiten"),
        ("dance", "tanze tanzt tanzt tanzen"),
        ("invite", "lade lädst lädt laden"),
        ("remember", "erinnere erinnerst erinnert erinnern"),
        ("greet", "begrüße begrüßt begrüßt begrüßen"),
    ],
)
def test_german_present(infinitive, present):
    assert " ".join(VERB[infinitive].present) == present


def test_english_verb_forms():
    assert VERB["carry"].english == ("carry", "carries", "carried", "carried", "carrying")
    assert VERB["write"].english == ("write", "writes", "wrote", "written", "writing")
    assert VERB["plan"].english == ("plan", "plans", "planned", "planned", "planning")
    assert VERB["watch television"].english[1] == "watches"


BUY = Clause(MAN, VERB["buy"], "past", (BERLIN, YESTERDAY), COAT)
OPEN = Clause(MAN, VERB["open"], "present", (), WINDOW)
GIVE = Clause(WOMAN, VERB["give"], "past", (), noun_phrase(NOUN["book"], A), PRONOUNS["he"])
LOOK_FORWARD = Clause(PRONOUNS["we"], VERB["look forward to"], "present", (), noun_phrase(NOUN["party"], THE))


@pytest.mark.parametrize(
    ("clause", "front", "english", "german"),
    [
        (BUY, None, "the man bought a blue coat in Berlin yesterday",
         "der Mann hat gestern in Berlin einen blauen Mantel gekauft"),
        (BUY, YESTERDAY, "yesterday the man bought a blue coat in Berlin",
         "gestern hat der Mann in Berlin einen blauen Mantel gekauft"),
        (replace(BUY, tense="future", adverbials=()), None, "the man will buy a blue coat",
         "der Mann wird einen blauen Mantel kaufen"),
        (replace(BUY, tense="pluperfect", adverbials=()), None, "the man had bought a blue coat",
         "der Mann hatte einen blauen Mantel gekauft"),
        (replace(BUY, negated=True, object=noun_phrase(NOUN["coat"], NOT_A), adverbials=()), None,
         "the man did not buy a coat", "der Mann hat keinen Mantel gekauft"),
        (OPEN, None, "the man opens the window", "der Mann macht das Fenster auf"),
        (replace(OPEN, tense="progressive"), None, "the man is opening the window", "der Mann macht das Fenster auf"),
        (replace(OPEN, negated=True), None, "the man does not open the window",
         "der Mann macht das Fenster nicht auf"),
        (replace(OPEN, modal=MODALS["want to"]), None, "the man wants to open the window",
         "der Mann will das Fenster aufmachen"),
        (replace(OPEN, modal=MODALS["have to"], negated=True, tense="past"), None,
         "the man did not have to open the window", "der Mann musste das Fenster nicht aufmachen"),
        (replace(OPEN, modal=MODALS["can"], negated=True), None, "the man cannot open the window",
         "der Mann kann das Fenster nicht aufmachen"),
        (replace(OPEN, modal=MODALS["be allowed to"]), None, "the man is allowed to open the window",
         "der Mann darf das Fenster aufmachen"),
        (Clause(PRONOUNS["she"], VERB["pick up"], "past", (), PRONOUNS["he"]), None, "she picked him up",
         "sie hat ihn abgeholt"),
        (Clause(PRONOUNS["I"], VERB["call"], "past", (YESTERDAY,), PRONOUNS["you"]), YESTERDAY,
         "yesterday I called you", "gestern habe ich dich angerufen"),
        (GIVE, None, "the woman gave him a book", "die Frau hat ihm ein Buch gegeben"),
        (replace(GIVE, receiver=noun_phrase(NOUN["neighbour"], THE), object=noun_phrase(NOUN["book"], THE)), None,
         "the woman gave the neighbour the book", "die Frau hat dem Nachbarn das Buch gegeben"),
        (LOOK_FORWARD, None, "we look forward to the party", "wir freuen uns auf die Party"),
        (Clause(WOMAN, VERB["get up"], "past"), None, "the woman got up", "die Frau ist aufgestanden"),
        (Clause(WOMAN, VERB["work"], "since", (Adverbial("for two years", "seit zwei Jahren", "time"),)), None,
         "the woman has worked for two years", "die Frau arbeitet seit zwei Jahren"),
        (Clause(PRONOUNS["you"], BE, "past", (TIRED,), negated=True), None, "you were not tired",
         "du warst nicht müde"),
        (replace(OPEN, adverbials=(Adverbial("often", "oft", "frequency"),)), None,
         "the man often opens the window", "der Mann macht das Fenster oft auf"),
    ],
)  # fmt: skip
def test_statements(clause, front, english, german):
    assert english_statement(clause, front) == english
    assert german_statement(clause, front) == german


def test_questions():
    assert english_question(BUY, "why") == "why did the man buy a blue coat in Berlin yesterday"
    assert german_question(BUY, "warum") == "warum hat der Mann gestern in Berlin einen blauen Mantel gekauft"
    assert english_question(OPEN) == "does the man open the window"
    assert german_question(OPEN) == "macht der Mann das Fenster auf"


@pytest.mark.parametrize(
    ("clause", "german"),
    [
        (OPEN, "weil der Mann das Fenster aufmacht"),
        (replace(OPEN, tense="past"), "weil der Mann das Fenster aufgemacht hat"),
        (replace(OPEN, tense="future"), "weil der Mann das Fenster aufmachen wird"),
        (replace(OPEN, modal=MODALS["must"]), "weil der Mann das Fenster aufmachen muss"),
        (LOOK_FORWARD, "weil wir uns auf die Party freuen"),
        (Clause(WOMAN, BE, "past", (TIRED,)), "weil die Frau müde war"),
    ],
)
def test_subordinate_clauses_end_with_the_finite_verb(clause, german):
    assert german_subordinate(clause, "weil") == german


def test_infinitives_and_imperatives():
    assert english_infinitive(OPEN) == "open the window"
    assert german_infinitive(OPEN) == "das Fenster aufzumachen"
    assert german_infinitive(LOOK_FORWARD) == "uns auf die Party zu freuen"
    you = PRONOUNS["you"]
    wordings = {
        "open": "mach das Fenster auf", "read": "lies das Fenster", "give": "gib das Fenster",
        "invite": "lade das Fenster ein", "prepare": "bereite das Fenster vor", "carry": "trag das Fenster",
        "clean": "putz das Fenster", "draw": "zeichne das Fenster",
    }  # fmt: skip
    for verb, german in wordings.items():
        assert german_imperative(Clause(you, VERB[verb], "present", (), WINDOW)).lower() == german.lower()


def test_relative_clauses():
    who = relative(WOMAN, animate=True)
    inner = Clause(who, VERB["sell"], "past", (), noun_phrase(NOUN["car"], THE))
    subject = followed_by(WOMAN, english_statement(inner), f", {german_subordinate(inner, '')},")
    main = Clause(subject, BE, "present", (TIRED,))
    assert finish(english_statement(main), german_statement(main)) == (
        "The woman who sold the car is tired.",
        "Die Frau, die das Auto verkauft hat, ist müde.",
    )
    helped = Clause(PRONOUNS["I"], VERB["help"], "past")
    people = noun_phrase(NOUN["guest"], THE, plural=True)
    assert german_subordinate(helped, relative(people, True).german["dat"]) == "denen ich geholfen habe"


def test_reference_takes_the_german_gender():
    table, lamp = noun_phrase(NOUN["table"], THE), noun_phrase(NOUN["lamp"], THE)
    assert refer_to(table) is IT["m"]
    assert refer_to(lamp).german["nom"] == "sie"
    assert refer_to(lamp).english == "it"
    assert refer_to(noun_phrase(NOUN["lamp"], THE, plural=True)) is PRONOUNS["they"]


def test_prepositions_contract():
    garden, station = noun_phrase(NOUN["garden"], THE), noun_phrase(NOUN["station"], THE, [("old", "alt")])
    assert prepositional("in", "dat", garden) == "im Garten"
    assert prepositional("in", "acc", garden) == "in den Garten"
    assert prepositional("zu", "dat", station) == "zum alten Bahnhof"
    assert prepositional("in", "dat", noun_phrase(NOUN["garden"], POSSESSIVES["he"])) == "in seinem Garten"


@pytest.mark.parametrize(
    ("n", "english", "german"),
    [
        (1, "one", "eins"), (7, "seven", "sieben"), (12, "twelve", "zwölf"), (16, "sixteen", "sechzehn"),
        (17, "seventeen", "siebzehn"), (20, "twenty", "zwanzig"), (21, "twenty-one", "einundzwanzig"),
        (30, "thirty", "dreißig"), (67, "sixty-seven", "siebenundsechzig"), (100, "one hundred", "hundert"),
        (205, "two hundred and five", "zweihundertfünf"),
        (999, "nine hundred and ninety-nine", "neunhundertneunundneunzig"),
    ],
)  # fmt: skip
def test_numbers(n, english, german):
    assert (english_number(n), german_number(n)) == (english, german)


@given(st.integers(0, 999), st.integers(0, 999))
def test_numbers_are_distinct(a, b):
    assert (english_number(a) == english_number(b)) == (german_number(a) == german_number(b)) == (a == b)


def test_dates_and_hours():
    assert date(3, 5, 1998)[:2] == ("on 3 May 1998", "am 3. Mai 1998")
    assert date(22, 3, None)[:2] == ("on March 22nd", "am 22. März")
    assert date(11, 12, None)[:2] == ("on December 11th", "am 11. Dezember")
    assert clock(7, 30)[:2] == ("at half past seven", "um halb acht")
    assert clock(12, 30)[:2] == ("at half past twelve", "um halb eins")
    assert clock(1, 0)[:2] == ("at one o'clock", "um ein Uhr")
    assert clock(6, 15)[:2] == ("at a quarter past six", "um Viertel nach sechs")
    assert clock(12, 50)[:2] == ("at ten to one", "um zehn vor eins")


def test_choices_are_the_same_everywhere():
    choose = Chooser(1)
    assert [choose.between(1, 100) for _ in range(5)] == [14, 85, 77, 26, 50]
