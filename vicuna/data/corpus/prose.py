"""Longer answers in markdown: lists, tables, code, quotes and links, so that the page converter has real work."""

import random
from collections.abc import Callable

from vicuna.data.corpus import facts
from vicuna.data.corpus.facts import with_article
from vicuna.data.corpus.family import Round

Maker = Callable[[random.Random], tuple[tuple[str, ...], str]]
"""Draws one answer in markdown, with the questions that it answers."""


def prose(rng: random.Random) -> Round:
    """A question with a longer answer."""
    questions, answer = rng.choice(_MAKERS)(rng)
    return Round(rng.choice(questions), answer)


def _kinds_list(rng: random.Random) -> tuple[tuple[str, ...], str]:
    kind = rng.choice(sorted(facts.KINDS))
    names = rng.sample(facts.KINDS[kind], 3)
    questions = (f"List three {kind}s.", f"Give me a list of three {kind}s.", f"Name three {kind}s, please.")
    return questions, f"Here are three {kind}s:\n\n" + "\n".join(f"- {name}" for name in names)


def _capitals_table(rng: random.Random) -> tuple[tuple[str, ...], str]:
    a, b, c = rng.sample(sorted(facts.CAPITALS), 3)
    rows = "\n".join(f"| {country} | {facts.CAPITALS[country]} |" for country in (a, b, c))
    questions = (
        f"Make a table of the capitals of {a}, {b} and {c}.",
        f"Show the capitals of {a}, {b} and {c} in a table.",
    )
    return questions, f"| Country | Capital |\n| --- | --- |\n{rows}"


def _units_table(rng: random.Random) -> tuple[tuple[str, ...], str]:
    large, small, factor = rng.choice(facts.UNITS)
    rows = "\n".join(f"| {n} | {n * factor} |" for n in range(1, 5))
    questions = (f"Make a table of {large}s and {small}s.", f"Show {large}s and {small}s in a table, please.")
    return questions, f"Here is the table:\n\n| {large}s | {small}s |\n| ---: | ---: |\n{rows}"


def _plurals_steps(rng: random.Random) -> tuple[tuple[str, ...], str]:
    words = rng.sample(sorted(facts.PLURALS), 3)
    lines = "\n".join(f"{n}. **{word}** becomes *{facts.PLURALS[word]}*" for n, word in enumerate(words, 1))
    a, b, c = words
    return (f"Give me the plurals of {a}, {b} and {c}.", f"List the plurals of {a}, {b} and {c}."), lines


def _count(rng: random.Random) -> tuple[tuple[str, ...], str]:
    start = rng.randint(1, 9)
    end = start + rng.randint(3, 6)
    questions = (f"Count from {start} to {end}.", f"Please count from {start} to {end}.")
    return questions, ", ".join(str(n) for n in range(start, end + 1)) + "."


def _convert_function(rng: random.Random) -> tuple[tuple[str, ...], str]:
    large, small, factor = rng.choice(facts.UNITS)
    questions = (f"Write a Python function that turns {large}s into {small}s.",
                 f"How do I turn {large}s into {small}s in Python?")  # fmt: skip
    code = f"def {large}s_to_{small}s({large}s):\n    return {large}s * {factor}"
    return questions, f"Multiply by {factor}:\n\n```python\n{code}\n```"


def _compare_function(rng: random.Random) -> tuple[tuple[str, ...], str]:
    name, sign = rng.choice((("largest", ">"), ("smallest", "<")))
    code = f"def {name}_of(a, b):\n    if a {sign} b:\n        return a\n\n    return b"
    questions = (f"Write a Python function for the {name} of two numbers.",
                 f"How do I find the {name} of two numbers in Python?")  # fmt: skip
    return questions, f"Compare them with `{sign}`:\n\n```python\n{code}\n```"


def _loop(rng: random.Random) -> tuple[tuple[str, ...], str]:
    times, word = rng.randint(2, 9), rng.choice(facts.SPELLING_WORDS)
    code = f'# {word} * {times}\nfor i in range({times}):\n    print("{word}")'
    questions = (f'Write Python code that prints "{word}" {times} times.', f"Print {word} {times} times in Python.")
    return questions, f"Use a `for` loop:\n\n```python\n{code}\n```"


def _move_files(rng: random.Random) -> tuple[tuple[str, ...], str]:
    folder, ending = f"my_{rng.choice(facts.SPELLING_WORDS)}", rng.choice(("txt", "csv", "jpg"))
    questions = (
        f"How do I move all {ending} files to the folder {folder}?",
        f"Move all {ending} files into {folder} in bash.",
    )
    return questions, f"Make the folder and move them:\n\n```bash\nmkdir -p {folder} && mv *.{ending} {folder}/\n```"


def _count_lines(rng: random.Random) -> tuple[tuple[str, ...], str]:
    name = f"{rng.choice(facts.SPELLING_WORDS)}.txt"
    questions = (f"How do I count the lines of {name}?", f"Count the lines of {name} in bash.")
    return questions, f"Use `wc`:\n\n```bash\nwc -l < {name}\n```"


def _web_page(rng: random.Random) -> tuple[tuple[str, ...], str]:
    word = rng.choice(facts.SPELLING_WORDS)
    code = f"<ul>\n  <li><b>{word}</b> &amp; more</li>\n</ul>"
    questions = (
        f'Write an HTML list with the word "{word}" in bold.',
        f"How do I write {word} in bold in an HTML list?",
    )
    return questions, f"Use the tags `<ul>`, `<li>` and `<b>`:\n\n```html\n{code}\n```"


def _animal_card(rng: random.Random) -> tuple[tuple[str, ...], str]:
    animal = rng.choice(sorted(set(facts.SOUNDS) & set(facts.YOUNG) & set(facts.LEGS)))
    one = with_article(animal)
    lines = (f"{one.capitalize()} has {facts.LEGS[animal]} legs.", f"{one.capitalize()} {facts.SOUNDS[animal]}.",
             f"The young of {one} is called a {facts.YOUNG[animal]}.")  # fmt: skip
    answer = f"### The {animal}\n\n" + "\n".join(f"- {line}" for line in lines)
    return (f"Tell me about the {animal}.", f"What do you know about the {animal}?"), answer


def _fixed(answer: str, *questions: str) -> Maker:
    def make(rng: random.Random) -> tuple[tuple[str, ...], str]:
        return questions, answer

    return make


_MAKERS: tuple[Maker, ...] = (
    *(_kinds_list, _capitals_table, _units_table, _plurals_steps, _count, _animal_card) * 3,
    *(_convert_function, _compare_function, _loop, _move_files, _count_lines, _web_page) * 2,
    _fixed(
        "Making tea is easy:\n\n1. Boil some water.\n2. Put the tea into a cup.\n3. Pour the water over the tea.\n"
        "4. Wait for 4 minutes.",
        "How do I make tea?", "Tell me how to make tea.", "What are the steps to make tea?",
    ),
    _fixed(
        "You need two things:\n\n- bread\n- a filling:\n  - cheese\n  - salad\n\n"
        "Put the filling between two pieces of bread.",
        "How do I make a sandwich?", "What do I need for a sandwich?",
    ),
    _fixed(
        "## A day in the garden\n\n1. Give the plants **water**.\n2. Take out the weeds.\n\n"
        "> Plants need water and light.",
        "What can I do in the garden?", "Help me plan a day in the garden.",
    ),
    _fixed(
        "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
        "What are the days of the week?", "List the days of the week.", "Tell me all days of the week.",
    ),
    _fixed(
        "The seasons are *spring*, *summer*, *autumn* and *winter*.",
        "What are the seasons?", "Name the four seasons.", "List the seasons of the year.",
    ),
    _fixed(
        "Python is a programming language. You can read more on [the Python page](https://www.python.org/).",
        "What is Python?", "Where can I read about Python?",
    ),
    _fixed(
        "An encyclopedia is a book about many things. A free one is [Wikipedia](https://www.wikipedia.org/).",
        "What is an encyclopedia?", "Where can I find a free encyclopedia?",
    ),
    _fixed(
        "In Python a list has square brackets:\n\n```python\n"
        "words = [\"sun\", \"moon\"]\nwords.append(\"rain\")\nprint(len(words))\n```\n\n"
        "This prints `3`.",
        "How do I make a list in Python?", "Show me a list in Python.",
    ),
    _fixed(
        "1. Open the door.\n\n2. Look at the street:\n\n"
        "   - Is a car near? Wait.\n   - Is the street empty? Go.\n\n3. Walk fast.",
        "How do I cross a street?", "Tell me how to cross a street.",
    ),
    _fixed(
        "A poem:\n\nThe sun is yellow,  \nthe sky is blue,  \nthe grass is green,  \nand the rain is new.",
        "Write a short poem.", "Can you write a poem?", "Please write a poem about the sun.",
    ),
)  # fmt: skip
