"""What the sample corpus knows: tables of plain, checkable facts.

Everything here is common knowledge, chosen so that each question has exactly one short answer. Countries whose
capital is disputed or shared are left out, and so are words with two usual opposites or plurals.
"""

CAPITALS: dict[str, str] = {
    "France": "Paris", "Spain": "Madrid", "Portugal": "Lisbon", "Italy": "Rome", "Germany": "Berlin",
    "Austria": "Vienna", "Poland": "Warsaw", "Hungary": "Budapest", "Greece": "Athens", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Ireland": "Dublin", "England": "London",
    "Belgium": "Brussels", "Russia": "Moscow", "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi",
    "India": "New Delhi", "China": "Beijing", "Japan": "Tokyo", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Brazil": "Brasilia",
    "Australia": "Canberra",
}  # fmt: skip

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("tall", "short"), ("happy", "sad"),
    ("open", "closed"), ("early", "late"), ("up", "down"), ("left", "right"), ("full", "empty"),
    ("wet", "dry"), ("rich", "poor"), ("young", "old"), ("clean", "dirty"), ("strong", "weak"),
    ("high", "low"), ("good", "bad"), ("light", "dark"), ("first", "last"), ("before", "after"),
    ("push", "pull"), ("win", "lose"), ("true", "false"), ("cheap", "expensive"),
)  # fmt: skip

PLURALS: dict[str, str] = {
    "cat": "cats", "dog": "dogs", "book": "books", "tree": "trees", "apple": "apples", "box": "boxes",
    "bus": "buses", "dish": "dishes", "watch": "watches", "glass": "glasses", "city": "cities",
    "baby": "babies", "country": "countries", "key": "keys", "leaf": "leaves", "knife": "knives",
    "wolf": "wolves", "potato": "potatoes", "tomato": "tomatoes", "man": "men", "woman": "women",
    "child": "children", "foot": "feet", "tooth": "teeth", "goose": "geese", "mouse": "mice", "ox": "oxen",
    "sheep": "sheep",
}  # fmt: skip

PAST_TENSES: dict[str, str] = {
    "walk": "walked", "play": "played", "help": "helped", "cook": "cooked", "wash": "washed",
    "smile": "smiled", "study": "studied", "stop": "stopped", "go": "went", "see": "saw", "eat": "ate",
    "run": "ran", "sing": "sang", "drink": "drank", "write": "wrote", "give": "gave", "take": "took",
    "make": "made", "come": "came", "find": "found", "think": "thought", "buy": "bought", "teach": "taught",
    "catch": "caught", "sleep": "slept", "fly": "flew", "grow": "grew", "know": "knew",
}  # fmt: skip

COLOURS: dict[str, str] = {
    "grass": "green", "snow": "white", "blood": "red", "coal": "black", "milk": "white", "the sky": "blue",
    "the sun": "yellow", "a ripe banana": "yellow", "a lemon": "yellow", "a ripe tomato": "red",
    "a cucumber": "green", "a carrot": "orange", "chocolate": "brown", "a raven": "black",
    "a swan": "white", "a flamingo": "pink", "an emerald": "green", "a ruby": "red", "an elephant": "grey",
    "a polar bear": "white",
}  # fmt: skip

SOUNDS: dict[str, str] = {
    "dog": "barks", "cat": "meows", "cow": "moos", "sheep": "bleats", "horse": "neighs", "pig": "oinks",
    "duck": "quacks", "lion": "roars", "wolf": "howls", "frog": "croaks", "snake": "hisses",
    "bee": "buzzes", "owl": "hoots", "mouse": "squeaks",
}  # fmt: skip

YOUNG: dict[str, str] = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "pig": "piglet",
    "duck": "duckling", "lion": "cub", "frog": "tadpole", "hen": "chick", "goose": "gosling", "goat": "kid",
    "swan": "cygnet", "kangaroo": "joey",
}  # fmt: skip

LEGS: dict[str, int] = {
    "dog": 4, "cat": 4, "horse": 4, "cow": 4, "frog": 4, "duck": 2, "hen": 2, "owl": 2, "bee": 6, "ant": 6,
    "beetle": 6, "spider": 8, "scorpion": 8, "snake": 0,
}  # fmt: skip

KINDS: dict[str, tuple[str, ...]] = {
    "fruit": ("apple", "pear", "banana", "cherry", "peach", "plum", "lemon"),
    "vegetable": ("carrot", "onion", "cabbage", "turnip", "leek", "radish"),
    "animal": ("dog", "horse", "tiger", "rabbit", "camel", "elephant", "goat", "monkey"),
    "bird": ("robin", "eagle", "parrot", "sparrow", "crow"),
    "tool": ("hammer", "saw", "drill", "axe", "spade"),
    "vehicle": ("car", "bus", "lorry", "tram", "van"),
    "instrument": ("piano", "guitar", "violin", "drum", "flute"),
    "flower": ("rose", "tulip", "daisy", "lily"),
    "shape": ("circle", "square", "triangle", "rectangle"),
}

DAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS: tuple[str, ...] = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip

UNITS: tuple[tuple[str, str, int], ...] = (
    ("metre", "centimetre", 100), ("kilometre", "metre", 1000), ("kilogram", "gram", 1000),
    ("hour", "minute", 60), ("minute", "second", 60), ("day", "hour", 24), ("week", "day", 7),
    ("year", "month", 12),
)  # fmt: skip
"""A unit, a smaller one, and how many of the smaller make one of the larger."""

DECIMAL_UNITS: frozenset[str] = frozenset({"metre", "kilometre", "kilogram"})
"""Units whose factor is a power of ten: a new number can be converted by rule."""

SPELLING_WORDS: tuple[str, ...] = (
    "bread", "butter", "chair", "cloud", "door", "egg", "fish", "friend", "garden", "gold", "hat", "horse",
    "house", "lamp", "moon", "night", "river", "school", "street", "sun", "train", "water", "window",
    "yellow",
)  # fmt: skip
"""None begins or ends with an a: an answer of the bare letter would read as the article."""

SYMBOLS: dict[str, str] = {
    "hydrogen": "H", "helium": "He", "carbon": "C", "nitrogen": "N", "oxygen": "O", "sodium": "Na",
    "sulfur": "S", "calcium": "Ca", "iron": "Fe", "copper": "Cu", "silver": "Ag", "tin": "Sn", "gold": "Au",
    "lead": "Pb",
}  # fmt: skip

SIDES: dict[str, int] = {
    "triangle": 3, "square": 4, "rectangle": 4, "pentagon": 5, "hexagon": 6, "octagon": 8,
}  # fmt: skip

PEOPLE: tuple[str, ...] = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jack", "Kate", "Leo",
    "Maria", "Noah", "Olga", "Peter", "Rosa", "Sam", "Tom", "Vera",
)  # fmt: skip

FAVOURITE_COLOURS: tuple[str, ...] = (
    "red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey",
)  # fmt: skip

PETS: tuple[str, ...] = ("dog", "cat", "rabbit", "parrot", "goat", "horse", "mouse", "duck", "snake", "frog")

HOME_CITIES: tuple[str, ...] = (
    "Paris", "Madrid", "Lisbon", "Rome", "Berlin", "Vienna", "Warsaw", "Athens", "Oslo", "Dublin", "London",
    "Cairo", "Nairobi", "Tokyo", "Lima", "Ottawa",
)  # fmt: skip

FOODS: tuple[str, ...] = ("rice", "soup", "bread", "cheese", "fish", "pasta", "salad", "cake", "honey", "chocolate")


def with_article(noun: str) -> str:
    """The noun with "a" or "an", by its first letter; that is right for every noun of these tables."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def opposites() -> dict[str, str]:
    """Both directions of `OPPOSITES`."""
    return dict(OPPOSITES) | {second: first for first, second in OPPOSITES}


def kinds() -> dict[str, str]:
    """Thing -> the kind of thing it is."""
    return {thing: kind for kind, things in KINDS.items() for thing in things}
