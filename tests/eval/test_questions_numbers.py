"""Every number that the references and guides of our own questions state, computed again from the question."""

import datetime
import itertools
import math
from collections import Counter
from fractions import Fraction

from own_questions import guide, reference, stated


# ------------------------------------------------------------------------------------------------ everyday sums
def clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


def test_the_way_to_the_interview():
    bus = max(t for t in range(0, 1440) if t % 60 in (10, 40) and t + 25 + 8 <= 9 * 60 + 15)
    assert stated(guide("generic-01"), clock(bus), clock(bus - 6), clock(bus + 33), clock(bus + 63))
    assert reference("generic-01") == clock(bus - 3 - 14)


def test_the_plan_for_three_debts():
    card, sister, month, seen = 1400 - 800.0, 900.0, 0, []
    while card or sister:
        month, left = month + 1, 310 - 50.0
        card *= 1 + 0.22 / 12
        paid = min(card, left)
        card, left = card - paid, left - paid
        sister -= min(sister, left)
        seen.append((month, f"{card:.2f}", f"{sister:.2f}"))
    assert [row[1] for row in seen[:2]] == ["351.00", "97.44"]
    assert seen[2][1:] == ("0.00", "739.22")
    assert [row[2] for row in seen[3:]] == ["479.22", "219.22", "0.00"]
    assert stated(guide("generic-02"), "351.00", "97.44", "739.22", "479.22", "219.22", "month 3", "month 6")


def test_the_two_dryers():
    loads = 3 * 52 * 4
    day, mixed = Fraction(34, 100), (2 * Fraction(16, 100) + Fraction(34, 100)) / 3
    costs = {
        price: [Fraction(2, 3) * buy + loads * Fraction(use, 10) * price for buy, use in ((420, 46), (760, 15))]
        for price in (day, mixed)
    }
    assert stated(guide("generic-05"), *(f"{float(each):,.2f}" for each in costs[day]), "431")
    assert round(costs[day][0] - costs[day][1]) == 431
    equal = Fraction(2, 3) * 340 / (Fraction(31, 10) * day)
    assert (round(equal), round(equal / 208, 2)) == (215, Fraction(103, 100))
    assert stated(guide("generic-05", 2), *(f"{float(each):.2f}" for each in costs[mixed]), "198.90")
    assert reference("generic-05") == str(round(costs[mixed][0] - costs[mixed][1]))


def test_tablets_tasks_and_transfers():
    assert stated(guide("generic-07"), 1000 + 650 + 1000, 4000 - 2650, "17:00", "19:00")
    meeting = datetime.date(2026, 8, 3)
    assert meeting.strftime("%A") == "Monday"  # as in the notes, so Thursday is the 6th
    offer, flyer = datetime.date(2026, 8, 6), datetime.date(2026, 8, 12) - datetime.timedelta(1)
    assert stated(guide("generic-08"), f"{offer.day} August", f"{flyer.day} August")
    moved = [max(each for n in range(1, 7) if (each := day - datetime.timedelta(n)).weekday() in (0, 2, 4))
             for day in (offer, flyer)]  # fmt: skip
    assert stated(guide("generic-08", 2), *(f"{day.day} August ({day:%A})" for day in moved))
    assert round(300e9 * 8 / 8e6 / 86400, 1) == 3.5
    assert 4 < 15e9 * 8 / 8e6 / 3600 < 4.5
    assert stated(guide("generic-09"), "3.5 days", "over 4 hours")


def test_the_passport():
    expiry = (8, 4)
    assert (6, 26) < expiry < (9, 12)  # three months after 26 March, six after 12 March
    assert reference("generic-10") == "yes"
    assert (datetime.date(2026, 3, 12) - datetime.date(2026, 2, 5)).days == 35


# ------------------------------------------------------------------------------------------------ knowledge
def cents(ratio: float) -> float:
    return 1200 * math.log2(ratio)


def test_the_tuning_of_a_piano():
    comma = 1.5**12 / 2**7
    assert stated(guide("knowledge-10"), f"{1.5**12:.3f}", f"{comma:.5f}", f"{cents(comma):.2f}", f"{cents(1.5):.3f}")
    assert stated(guide("knowledge-10"), f"{cents(1.5) - 700:.3f}", f"{cents(1.25):.2f}", f"{400 - cents(1.25):.2f}")
    nearest = min((1200 * step / 53 for step in range(54)), key=lambda each: abs(each - cents(1.5)))
    assert stated(guide("knowledge-10", 2), f"{nearest:.3f}")
    assert reference("knowledge-10") == f"{abs(nearest - cents(1.5)):.2f}"


def test_the_calendar():
    assert round(1 / (365.25 - 365.2422)) == 128
    assert stated(guide("knowledge-03"), 128)
    assert datetime.date(1582, 10, 15).strftime("%A") == "Friday"  # the day after Thursday the 4th
    assert datetime.date(1752, 9, 14).strftime("%A") == "Thursday"  # the day after Wednesday the 2nd
    assert reference("knowledge-03") == "1719"


# ------------------------------------------------------------------------------------------------ common sense
def test_loaves_rain_and_the_scale():
    full = 4 * Fraction(320)
    bills = full - 160, full * Fraction(85, 100), full - 320
    assert stated(guide("common-sense-04"), *(f"{float(each) / 100:.2f}" for each in (full, *bills)))
    assert stated(guide("common-sense-04"), f"{float(bills[1] - bills[2]) / 100:.2f}")
    assert stated(guide("common-sense-05"), f"{1 - 0.55**3:.0%}", f"{9 / 11:.0%}")
    assert stated(guide("common-sense-06"), 412 + 30, 412 + 10)
    assert reference("common-sense-06") == str(412 + 30 + 10)


def test_nights_and_shadows():
    first, last = datetime.date(2026, 5, 5), datetime.date(2026, 5, 9)
    assert reference("common-sense-07") == str((last - first).days)
    compass = ["north", "east", "south", "west"]
    facing = {compass[(right - 1) % 4]: compass[right] for right in range(4)}  # what is to the right of whom
    assert facing["west"] == "north"
    assert "looks west" in guide("common-sense-08")
    assert facing[reference("common-sense-08")] == "south"
    assert round(60 * (12 + 2 - 10.75 / 15)) == 13 * 60 + 17  # Oslo at 10.75° E, two hours ahead of Greenwich


# ------------------------------------------------------------------------------------------------ counterfactuals
def test_the_moon_that_runs_backwards():
    month, year, turn = 27.321661, 365.25636, 1 / 0.99726957
    assert stated(guide("counterfactual-02"), f"{1 / (1 / month + 1 / year):.1f}", f"{1 / (1 / month - 1 / year):.1f}")
    ahead, behind = (24 * 60 / (turn + sign / month) for sign in (1, -1))
    assert (int(ahead // 60), round(ahead % 60, 1), round(1440 - ahead, 1)) == (23, 5.5, 54.5)
    assert (int(behind // 60), round(behind % 60, 1)) == (24, 50.5)
    assert [clock(round(each / 2)) for each in (ahead, behind)] == ["11:33", "12:25"]
    assert stated(guide("counterfactual-02"), "23 hours 5.5", "24 hours 50.5", "54.5", "11 h 33", "12 h 25")
    assert stated(guide("counterfactual-02", 2), f"{month / 2:.2f}")


def test_the_decimal_clock():
    second = 86_400 / 100_000
    assert stated(guide("counterfactual-05"), f"{second:.3f}", f"{second * 100 / 60:.2f}", f"{second * 1e4 / 3600:.1f}")
    assert stated(guide("counterfactual-05"), f"{299_792_458 * second / 1e6:.2f} million")
    marathon = round((2 * 3600 + 60 + 39) / second)
    assert reference("counterfactual-05") == f"{marathon // 10_000}:{marathon // 100 % 100:02d}:{marathon % 100:02d}"


# ------------------------------------------------------------------------------------------------ writing
def test_the_dates_in_the_letters():
    assert (datetime.date(2026, 3, 10) + datetime.timedelta(27)) == datetime.date(2026, 4, 6)
    assert (datetime.date(2026, 6, 11) - datetime.date(2026, 5, 20)).days == 22
    assert (datetime.date(2026, 6, 24) + datetime.timedelta(10)) == datetime.date(2026, 7, 4)
    assert stated(guide("writing-03", 2), "6 April")
    assert stated(guide("writing-05"), "22 days")
    assert stated(guide("writing-05", 2), "4 July")


# ------------------------------------------------------------------------------------------------ maths
def test_the_lift():
    stops = [Counter(floors) for floors in itertools.product(range(8), repeat=5)]
    pairs = sum(sorted(each.values()) == [1, 2, 2] for each in stops)
    assert stated(guide("math-01"), len(stops), pairs, str(Fraction(pairs, len(stops))))
    three = sum(len(each) == 3 for each in stops)
    assert stated(guide("math-01", 2), three)
    assert reference("math-01") == str(Fraction(three, len(stops)))


def test_the_cake():
    end = 2 * 192 / 24
    assert end == 16
    assert stated(guide("math-02"), f"{math.hypot(24, end):.2f}", f"{math.hypot(8, 8):.2f}")
    assert stated(guide("math-02"), 192 + (24 + 16) * 6, 192 + (8 + 8) * 6)
    outer = 24 * (24 * 4 // 3 - 24) // 2
    assert reference("math-02") == str((576 - 2 * outer) // outer)


def rain(*words: bool) -> Fraction:
    """The chance of rain after Ada, Bo and Cem have said rain (True) or dry, by adding up all cases."""
    chances = {True: Fraction(0), False: Fraction(0)}
    for wet, ada, bo, copies, coin in itertools.product((True, False), repeat=5):
        chance = Fraction(1 if wet else 4, 5) / 4
        chance *= Fraction(9 if ada == wet else 1, 10) * Fraction(3 if bo == wet else 1, 4)
        if (ada, bo, ada if copies else coin) == words:
            chances[wet] += chance
    return chances[True] / (chances[True] + chances[False])


def test_the_three_forecasts():
    assert stated(guide("math-03"), str(rain(True, True, True)), f"{float(rain(True, True, True)):.1%}")
    assert reference("math-03") == str(rain(True, False, False))


def test_the_sums_of_neighbouring_numbers():
    ways = Counter(
        total
        for first in range(1, 1014)
        for total in itertools.takewhile(
            lambda total: total <= 2026, itertools.islice(itertools.accumulate(itertools.count(first)), 1, None)
        )
    )
    found = [n for n in range(1, 2027) if ways[n] == 2]
    assert ways[15] == 3
    assert stated(guide("math-04"), len(found))
    assert ", ".join(str(n) for n in found if n % 2) in guide("math-04")
    primes = [p for p in range(3, 44, 2) if all(p % d for d in range(3, p, 2))]
    assert ", ".join(str(sum(n % p**2 == 0 and n // p**2 in [2**j for j in range(11)] for n in found))
                     for p in primes) in guide("math-04")  # fmt: skip
    assert reference("math-04") == str(next(n for n in range(1, 2027) if ways[n] == 7))


def test_the_trams():
    trams = [(33, 40), (41, 48), (53, 60)]
    leaving = {t: sum(t % cycle == 0 for _, cycle in trams) for t in range(1, 1020)}
    assert stated(guide("math-05"), *(clock(360 + t) for t, number in leaving.items() if number >= 2))
    assert [clock(360 + t) for t, number in leaving.items() if number == 3] == ["10:00", "14:00", "18:00", "22:00"]
    assert sum(number >= 2 for number in leaving.values()) == 8
    standing = sum(all(t % cycle >= away for away, cycle in trams) for t in range(1020))
    assert reference("math-05") == str(standing)
