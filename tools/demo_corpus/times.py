"""Random choices for the generated corpus, and the times of its sentences: dates, hours, weekdays, habits.

Every choice goes through ``Chooser``, so that a seed gives the same sentences on every Python and platform.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from tools.demo_corpus import lexicon
from tools.demo_corpus.morphology import english_number, german_number
from tools.demo_corpus.phrases import Adverbial

T = TypeVar("T")


class Chooser:
    """Random choices that depend on the seed alone: of ``random.Random`` only ``random()`` is promised never
    to change between Python versions, so all else is made from that."""

    def __init__(self, seed: int):
        self._random = random.Random(seed).random

    def below(self, n: int) -> int:
        """An integer 0 <= i < n."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """An integer low <= i <= high."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def chance(self, share: float) -> bool:
        """True in this share of the calls."""
        return self._random() < share


_PAST = (("yesterday", "gestern"), ("yesterday evening", "gestern Abend"), ("last week", "letzte Woche"),
         ("on the weekend", "am Wochenende"), ("this morning", "heute Morgen"),
         ("today", "heute"), ("last night", "letzte Nacht"))  # fmt: skip
_FUTURE = (("tomorrow", "morgen"), ("tomorrow evening", "morgen Abend"), ("next week", "nächste Woche"),
           ("on the weekend", "am Wochenende"), ("this evening", "heute Abend"),
           ("today", "heute"), ("soon", "bald"))  # fmt: skip
_NOW = (("now", "jetzt"), ("right now", "gerade"), ("at the moment", "im Moment"))
_HABIT = (("every day", "jeden Tag"), ("every week", "jede Woche"), ("every morning", "jeden Morgen"),
          ("in the evening", "am Abend"), ("in the morning", "am Morgen"), ("in summer", "im Sommer"),
          ("in winter", "im Winter"))  # fmt: skip
_OFTEN = (("often", "oft"), ("always", "immer"), ("sometimes", "manchmal"), ("usually", "normalerweise"),
          ("rarely", "selten"), ("never", "nie"))  # fmt: skip
UNITS = (("day", "Tagen"), ("week", "Wochen"), ("month", "Monaten"), ("year", "Jahren"))


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 < n < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def date(day: int, month: int, year: int | None) -> Adverbial:
    """on 3 May 1998, am 3. Mai 1998; without a year: on May 3rd, am 3. Mai. Months count from 1."""
    english, german = lexicon.MONTHS[month - 1]
    if year is None:
        return Adverbial(f"on {english} {_ordinal(day)}", f"am {day}. {german}", "time")
    return Adverbial(f"on {day} {english} {year}", f"am {day}. {german} {year}", "time")


def any_date(choose: Chooser, with_year: bool) -> Adverbial:
    """A random date."""
    day, month = choose.between(1, 28), choose.between(1, 12)
    return date(day, month, choose.between(1950, 2024) if with_year else None)


def clock(hour: int, minutes: int) -> Adverbial:
    """at half past seven, um halb acht. Hours 1 to 12; minutes 0, 5, 10, 15, 20, 30, 40, 45, 50 or 55."""
    following = hour % 12 + 1
    if minutes == 0:
        name = "ein" if hour == 1 else german_number(hour)
        return Adverbial(f"at {english_number(hour)} o'clock", f"um {name} Uhr", "time")
    if minutes == 30:
        return Adverbial(
            f"at half past {english_number(hour)}", f"um halb {german_number(following)}", "time"
        )
    past = minutes < 30
    distance = minutes if past else 60 - minutes
    english = "a quarter" if distance == 15 else english_number(distance)
    german = "Viertel" if distance == 15 else german_number(distance)
    named = hour if past else following
    return Adverbial(
        f"at {english} {'past' if past else 'to'} {english_number(named)}",
        f"um {german} {'nach' if past else 'vor'} {german_number(named)}",
        "time",
    )


def any_clock(choose: Chooser) -> Adverbial:
    """A random time of the day."""
    return clock(choose.between(1, 12), choose.pick((0, 0, 5, 10, 15, 20, 30, 30, 40, 45, 50, 55)))


def weekday(choose: Chooser) -> Adverbial:
    """on Monday, with a time of the day or a part of it now and then."""
    english, german = choose.pick(lexicon.WEEKDAYS)
    if choose.chance(0.3):
        hour = any_clock(choose)
        return Adverbial(f"on {english} {hour.english}", f"am {german} {hour.german}", "time")
    if choose.chance(0.3):
        return Adverbial(f"on {english} evening", f"am {german}abend", "time")
    return Adverbial(f"on {english}", f"am {german}", "time")


def ago(choose: Chooser, units_of_time: Sequence[tuple[str, str]] = UNITS[:2]) -> Adverbial:
    """three weeks ago, vor drei Wochen."""
    unit, units = choose.pick(units_of_time)
    n = choose.between(2, 12)
    return Adverbial(f"{english_number(n)} {unit}s ago", f"vor {german_number(n)} {units}", "time")


def since(choose: Chooser) -> Adverbial:
    """for three years, seit drei Jahren."""
    unit, units = choose.pick(UNITS[1:])
    n = choose.between(2, 30)
    return Adverbial(f"for {english_number(n)} {unit}s", f"seit {german_number(n)} {units}", "time")


def time_for(choose: Chooser, tense: str) -> Adverbial:
    """When: a time that goes with the tense."""
    if tense == "progressive":
        return Adverbial(*choose.pick(_NOW), "time")
    if tense == "present":
        if choose.chance(0.5):
            return Adverbial(*choose.pick(_OFTEN), "frequency")
        if choose.chance(0.5):
            return Adverbial(*choose.pick(_HABIT), "time")
        english, german = choose.pick(lexicon.WEEKDAYS)
        if choose.chance(0.5):
            return Adverbial(f"every {english}", f"jeden {german}", "time")
        return Adverbial(f"on {english}s", f"{german.lower()}s", "time")
    if choose.chance(0.2):
        return weekday(choose)
    if choose.chance(0.12):
        return any_clock(choose)
    if choose.chance(0.12):
        return any_date(choose, with_year=False)
    if tense == "past" and choose.chance(0.15):
        return ago(choose)
    return Adverbial(*choose.pick(_FUTURE if tense == "future" else _PAST), "time")


def long_ago(choose: Chooser) -> Adverbial:
    """When something happened that one remembers for years: in 1998, on 3 May 1998, ten years ago, last year."""
    if choose.chance(0.5):
        return any_date(choose, with_year=True)
    if choose.chance(0.4):
        year = choose.between(1950, 2024)
        return Adverbial(f"in {year}", f"im Jahr {year}", "time")
    if choose.chance(0.3):
        return Adverbial(
            *choose.pick((("last year", "letztes Jahr"), ("last month", "letzten Monat"))), "time"
        )
    return ago(choose, UNITS[2:])
