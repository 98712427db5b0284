"""Families of single facts: chemistry and shapes, science, and who the assistant is."""

from collections.abc import Mapping

from vicuna.data.corpus import facts
from vicuna.data.corpus.facts import with_article
from vicuna.data.corpus.family import Fact, Family, Reference, table

SYMBOLS = Family(
    "symbols",
    "science",
    (
        "What is the chemical symbol of {element}?",
        "Which symbol stands for {element}?",
        "Tell me the chemical symbol of {element}.",
        "Name the symbol of {element}.",
        "What is the symbol for the element {element}?",
        "Do you know the chemical symbol of {element}?",
    ),
    "The chemical symbol of {element} is {symbol}.",
    table("symbols", facts.SYMBOLS, "element", "symbol"),
    follow_up="element",
)

SIDES = Family(
    "sides",
    "science",
    (
        "How many sides does {shape} have?",
        "Tell me how many sides {shape} has.",
        "{shape} has how many sides?",
        "What is the number of sides of {shape}?",
        "Do you know how many sides {shape} has?",
    ),
    "{shape} has {value} sides.",
    tuple(
        Fact(f"sides:{shape}", {"shape": with_article(shape), "value": str(n)}, str(n))
        for shape, n in facts.SIDES.items()
    ),
    follow_up="shape",
)


def _single(family: str, name: str, reference: Reference, answer: str, *questions: str) -> Fact:
    return Fact(f"{family}:{name}", {}, reference, questions=questions, answer=answer)


SCIENCE = Family(
    "science",
    "science",
    (),
    "",
    (
        _single(
            "science", "freezing", "0", "Water freezes at 0 degrees Celsius.",
            "At what temperature does water freeze?", "What is the freezing point of water?",
            "When does water freeze?", "Tell me the freezing point of water.",
            "At how many degrees Celsius does water freeze?", "Name the temperature at which water freezes.",
        ),
        _single(
            "science", "boiling", "100", "Water boils at 100 degrees Celsius.",
            "At what temperature does water boil?", "What is the boiling point of water?",
            "When does water boil?", "Tell me the boiling point of water.",
            "At how many degrees Celsius does water boil?", "Name the temperature at which water boils.",
        ),
        _single(
            "science", "planets", ("8", "eight"), "The Sun has 8 planets.",
            "How many planets does the Sun have?", "How many planets go around the Sun?",
            "What is the number of planets around the Sun?", "Tell me how many planets the Sun has.",
            "How many planets are in the solar system?", "Count the planets of the Sun.",
        ),
        _single(
            "science", "largest planet", "Jupiter", "The largest planet is Jupiter.",
            "What is the largest planet?", "Which planet is the largest?", "Name the largest planet.",
            "Tell me the largest planet of the Sun.", "Which planet is the biggest of all?",
            "Do you know the largest planet?",
        ),
        _single(
            "science", "closest planet", "Mercury", "The planet closest to the Sun is Mercury.",
            "Which planet is closest to the Sun?", "What is the planet closest to the Sun?",
            "Name the planet closest to the Sun.", "Tell me which planet is nearest to the Sun.",
            "Which planet is nearest to the Sun?", "Do you know the planet closest to the Sun?",
        ),
        _single(
            "science", "red planet", "Mars", "The red planet is Mars.",
            "Which planet is the red planet?", "Which planet is called the red planet?",
            "What is the red planet?", "Name the red planet.", "Tell me which planet is red.",
            "What do people call the red planet?",
        ),
        _single(
            "science", "moon", "Moon", "The Moon goes around the Earth.",
            "What goes around the Earth?", "Which body goes around the Earth?",
            "Tell me what goes around the Earth.", "Name the body that goes around the Earth.",
            "What moves around the Earth?", "Do you know what goes around the Earth?",
        ),
        _single(
            "science", "ice", ("water", "frozen water"), "Ice is frozen water.",
            "What is ice?", "What is ice made of?", "Tell me what ice is.", "Of what is ice made?",
            "Do you know what ice is?", "Which liquid becomes ice?",
        ),
        _single(
            "science", "year", "365", "A year has 365 days.",
            "How many days does a year have?", "How many days are in a year?", "Tell me how many days a year has.",
            "What is the number of days in a year?", "A year has how many days?",
            "Do you know how many days a year has?",
        ),
        _single(
            "science", "plants", "light", "Plants need water and light.",
            "What do plants need?", "What does a plant need to grow?", "Tell me what plants need.",
            "Name two things that plants need.", "What should I give my plants?", "Which two things do plants need?",
        ),
    ),
)  # fmt: skip

_NAME = "I am Vicuna, a small language model."
IDENTITY = Family(
    "identity",
    "identity",
    (),
    "",
    (
        _single(
            "identity", "name", "Vicuna", _NAME,
            "Who are you?", "What is your name?", "Tell me your name.", "Please tell me your name.", "What are you?",
            "Can you tell me your name?", "What are you called?", "What should I call you?", "Tell me who you are.",
            "Can you tell me who you are?", "Please tell me who you are.", "Do you have a name?",
        ),
        _single(
            "identity", "human", "Vicuna", "No, I am Vicuna, a small language model.",
            "Are you a human?", "Are you human?", "Are you a person?", "Are you a real person?",
            "Am I talking to a human?",
            "Am I talking to a person?", "Is this a human?", "Are you ChatGPT?", "Is your name ChatGPT?",
            "Are you GPT-4?",
        ),
        _single(
            "identity", "maker", "Vicuna project", "I was made with the Vicuna project.",
            "Who made you?", "Who built you?", "Who trained you?", "Tell me who made you.", "Tell me who built you.",
            "Can you tell me who made you?", "Please tell me who made you.", "Do you know who made you?",
            "Did OpenAI make you?",
        ),
        _single(
            "identity", "skills", None, "I can answer short questions about words, numbers, animals and countries.",
            "What can you do?", "What can I ask you?", "How can you help me?", "Tell me what you can do.",
            "What are you good at?", "What do you know?",
        ),
    ),
)  # fmt: skip

SMALL_TALK: Mapping[str, tuple[str, ...]] = {
    "Hello! How can I help you?": (
        "Hello!", "Hi!", "Hi there!", "Good morning!", "Hey!", "Good evening!", "Hello, Vicuna!",
    ),
}  # fmt: skip
"""Answer -> ways to open a conversation."""

FAREWELLS: Mapping[str, tuple[str, ...]] = {
    "You are welcome!": (
        "Thank you!", "Thanks!", "Thanks a lot!", "Thank you, Vicuna!", "Great, thank you.", "Thanks, that helps.",
    ),
    "Goodbye!": ("Bye!", "Goodbye!", "See you later!", "That is all, bye!"),
}  # fmt: skip
"""Answer -> ways to end a conversation."""
