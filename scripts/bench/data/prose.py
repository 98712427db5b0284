"""Made-up sentences: English with many words in many orders, and a few of other languages.

Word lists are long enough that two conversations share hardly five words in a row, as in real chats; otherwise
near-duplicates would be everywhere.
"""

import random
import re

from foreign import SENTENCES


def _words(text: str) -> list[str]:
    return text.split()


def _lines(text: str) -> list[str]:
    return text.strip().split("\n")


_NOUNS = _words("""
account adapter address agenda algorithm allowance apple archive argument balcony bandwidth barrel battery beacon
bicycle bottle boundary branch breakfast bridge budget buffer calendar camera candle canyon carpet castle catalogue
ceiling chapter charger chimney circuit client climate coast column comment compass compiler contract copper corridor
cottage counter courtyard crystal cupboard curtain cushion cycle database deadline delivery desert diary document
dough drawer engine envelope equation error estimate evening exhibition experiment fabric factory feather festival
filter firewall flight folder forest formula fountain freight function furnace gallery garage garden gateway glacier
glossary grammar habit hallway harbour harvest heater hinge horizon hospital index insect interview invoice island
jacket journal journey kettle keyboard kitchen label ladder lantern lecture ledger lesson lever library lighthouse
liquid machine magnet manual market matrix meadow medicine memory merchant meteor microphone mirror module mountain
museum needle network notebook novel number ocean office orchard orchestra oven package painting panel parade
parameter partner passage password pattern pebble pencil pipeline planet platform pocket podcast pointer pottery
printer process profile project protein puzzle quarry query queue radiator railway receipt recipe reference registry
rehearsal reservoir restaurant riddle river rocket roof routine sample sandwich satellite saucepan scanner schedule
schema scooter script sculpture season sensor sequence server shelter shoulder signal sketch socket soil sonata
spreadsheet staircase statue stream studio subject summary surface survey switch symphony syntax tablet tailor teacher
telescope template theatre thread ticket timber toolbar topic tractor traffic trail treaty tunnel turbine tutorial
umbrella valley variable vegetable vehicle vendor version village violin volcano voyage wallet warehouse waterfall
weather wheel widget window winter workshop yard
""")
_ADJECTIVES = _words("""
accurate ancient ambitious bitter bright broad brittle calm careful cheap clear clever cold compact complex curious
damp deep delicate dense direct distant dry early elastic empty equal exact external faint familiar fast fertile final
firm flat foreign formal fragile frequent fresh frozen gentle global gradual handy hidden hollow honest humble idle
incremental internal lazy level light linear local loose loud lucky mild minor modern modest narrow neat noisy numeric
odd open ordinary parallel patient plain polite portable precise private proper public quiet rapid rare raw recent
regular reliable remote robust rough round rural sensible separate shallow sharp simple slow smooth solid sparse
stable steady steep strict subtle sudden suitable thick tidy tiny usual vague valid vast warm weekly wild wise wooden
""")
_VERBS = _words("""
accept adjust announce arrange assemble avoid balance borrow bring build calculate carry change check choose clean
collect combine compare complete confirm connect copy count cover create define deliver describe design detect divide
draw encourage estimate examine exchange explain explore export extend fasten fetch finish fold follow forget gather
guide handle identify ignore import improve include inspect install invite join keep label launch learn limit load
lower maintain manage mark measure mention merge mix monitor move observe offer open organise pack paint place plan
polish prepare present press print protect prove publish raise reach read rebuild record reduce remember remove rename
repair replace report reserve restore review rotate save schedule search select separate share simplify sketch sort
split start store stretch study submit support test track translate trim unlock update verify visit warm wash watch
weigh wrap write
""")
_NAMES = _words("""
Ada Adaeze Akira Amara Anders Anouk Arjun Astrid Beatriz Bilal Carmen Chiara Dagny Darius Dmitri Edith Elif Emeka
Esther Farah Felix Freya Gita Goran Hana Hugo Imani Ingrid Ivo Jamal Jun Karim Katya Lars Leila Linh Lucia Magnus
Mateo Mei Milan Nadia Niels Nkechi Olga Otto Paolo Petra Quentin Rafael Rania Rosa Samir Selma Soren Tariq Tova Uma
Viktor Wanda Xavier Yusuf Zara Zoltan
""")
_PLACES = _words("""
Accra Aleppo Antwerp Athens Bogota Bruges Cadiz Cairo Cusco Dakar Dublin Durban Essen Fez Geneva Ghent Graz Havana
Hobart Jaipur Kampala Kobe Krakow Kyoto Lagos Lausanne Leipzig Lyon Malmo Manila Medellin Montreal Mumbai Naples
Nantes Odense Oaxaca Padua Porto Riga Rosario Salta Seville Split Tallinn Tampere Tbilisi Trieste Turin Uppsala
Utrecht Valencia Varna Vienna Vilnius Wroclaw Yerevan Zagreb
""")
_TIMES = _lines("""
in the morning
once a week
after lunch
before the end of the month
every second day
at the same time
from time to time
in the long run
within a few minutes
on the first attempt
by the end of the year
as early as possible
during the summer
for the time being
more often than not
at any hour
""")
_LINKS = ("because", "although", "while", "unless", "as long as", "whenever", "once", "even if")

_PATTERNS = _lines("""
You can {verb} the {adjective} {noun} {time}.
{Name} wants to {verb} a {noun} in {place}, {link} the {noun2} is {adjective}.
A {adjective} {noun} helps to {verb} the {noun2}.
Most {noun}s are {adjective} enough to {verb} {number} {noun2}s {time}.
It is better to {verb} than to {verb2} the {adjective} {noun}.
The {noun} and the {noun2} have little in common, {link} both look {adjective}.
If the {noun} is {adjective}, {verb} it and {verb2} the {noun2} again.
In {place} they {verb} every {noun}, then {verb2} the {noun2} {time}.
Remember that {name} had to {verb} {number} {adjective} {noun}s.
Try to {verb} one {noun} before you {verb2} the next {noun2}.
There are {number} ways to {verb} a {adjective} {noun}, and each changes the {noun2}.
{Name} and {name} {verb} the {noun} {time}, which makes the {noun2} {adjective}.
Nobody in {place} would {verb} such a {adjective} {noun} without a {noun2}.
The first {noun} took {number} hours to {verb}, the second only {number2}.
To {verb} the {noun} you need a {adjective} {noun2} and about {number} minutes.
What matters is that the {noun} stays {adjective} {link} people {verb} it.
Compare the {adjective} {noun} with the {adjective2} {noun2} and {verb} whichever fits.
Finally, {verb} the {noun}, {verb2} the {noun2}, and leave the rest {adjective}.
Without a {noun}, the {noun2} of {name} would never {verb} {time}.
Some say {place} has the most {adjective} {noun}s, {link} few have seen its {noun2}.
""")
_QUESTIONS = _lines("""
How do I {verb} a {adjective} {noun}?
Why does the {noun} {verb} {time} while the {noun2} does not?
Can you explain to {name} how to {verb} a {noun} in {place}?
Write a short text about a {adjective} {noun} and its {noun2}.
What is the difference between a {adjective} {noun} and a {noun2}?
I want to {verb} {number} {noun}s {time}. What do I need besides a {adjective} {noun2}?
Please {verb} the following: the {noun} in {place} is {adjective}, and {name} has a {noun2}.
Give me {number} ideas to {verb} the {adjective} {noun2}, and sort them by {noun}.
""")
_SLOT = re.compile(r"\{([A-Za-z]+)2?\}")
_WORDS = {"noun": _NOUNS, "adjective": _ADJECTIVES, "verb": _VERBS, "name": _NAMES, "Name": _NAMES,
          "place": _PLACES, "time": _TIMES, "link": _LINKS}  # fmt: skip


def _slots(rng: random.Random, template: str) -> str:
    def fill(match: re.Match[str]) -> str:
        if match[1] == "number":
            return str(rng.randint(2, 400))
        return rng.choice(_WORDS[match[1]])

    text = _SLOT.sub(fill, template)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def sentence(rng: random.Random) -> str:
    """One English sentence."""
    return _slots(rng, rng.choice(_PATTERNS))


def sentences(rng: random.Random, least: int, most: int) -> str:
    """Some English sentences in a line."""
    return " ".join(sentence(rng) for _ in range(rng.randint(least, most)))


def question(rng: random.Random) -> str:
    """What a person asks, in English."""
    return _slots(rng, rng.choice(_QUESTIONS))


def phrase(rng: random.Random) -> str:
    """Two or three English words, such as a heading has."""
    words = [rng.choice(_ADJECTIVES), rng.choice(_NOUNS), *([rng.choice(_NOUNS)] if rng.random() < 0.3 else [])]
    return " ".join(words)


def word(rng: random.Random) -> str:
    """One English noun."""
    return rng.choice(_NOUNS)


def name(rng: random.Random) -> str:
    """An identifier as code has it: `max_harbour`, `__index__`, `parseWidget`."""
    one, two = rng.choice(_VERBS), rng.choice(_NOUNS)
    shapes = (f"{one}_{two}", f"{one}{two.capitalize()}", f"__{two}__", f"_{two}", two, f"{two}{rng.randint(1, 9)}")
    return rng.choices(shapes, (6, 3, 1, 1, 3, 1))[0]


def foreign(rng: random.Random, language: str, least: int, most: int) -> str:
    """Some sentences in another language."""
    chosen = SENTENCES[language]
    count = rng.randint(least, most)
    texts = rng.sample(chosen, count) if count <= len(chosen) else rng.choices(chosen, k=count)
    things = ("".join(rng.choices("BDFGKLMNPRST", k=2)) + str(rng.randint(10, 999)) for _ in range(count * 2))
    return " ".join(text.replace("{a}", next(things)).replace("{b}", next(things)) for text in texts)
