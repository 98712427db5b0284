"""Things that the user says once and asks for later: only the earlier turn has the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vicuna.data.corpus import facts


@dataclass(frozen=True)
class Recall:
    """One kind of thing to remember."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    """What the user says first; `{value}` is the thing to remember."""
    reply: str
    questions: Mapping[str, str]
    """Question -> answer; the answer names `{value}` or a blank of `derived`."""
    derived: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    """Further blanks, computed from the value."""

    def key(self, value: str) -> str:
        """Names the value among the facts."""
        return f"{self.name}:{value}"

    def acknowledge(self, value: str) -> str:
        """What the assistant says to the statement."""
        reply = self.reply.format(value=value)
        return reply[0].upper() + reply[1:]

    def answers(self, value: str) -> dict[str, tuple[str, str]]:
        """Question -> (answer, the short answer to grade against), for one value."""
        slots = {"value": value} | {blank: make(value) for blank, make in self.derived.items()}
        return {q: (text.format_map(slots), slots[self._graded(text)]) for q, text in self.questions.items()}

    def _graded(self, answer: str) -> str:
        """The blank of an answer that is graded: the last one."""
        return max(("value", *self.derived), key=lambda blank: answer.rfind("{" + blank + "}"))


def _same(answer: str, *questions: str) -> dict[str, str]:
    return dict.fromkeys(questions, answer)


RECALLS: tuple[Recall, ...] = (
    Recall(
        "name",
        facts.PEOPLE,
        ("My name is {value}.", "I am {value}.", "Hi, I am {value}.", "Hello, my name is {value}.", "Call me {value}.",
         "People call me {value}."),
        "Nice to meet you, {value}!",
        _same("Your name is {value}.", "What is my name?", "Do you remember my name?", "Tell me my name.",
              "What am I called?", "Can you tell me my name?", "Who am I?"),
    ),
    Recall(
        "colour",
        facts.FAVOURITE_COLOURS,
        ("My favourite colour is {value}.", "I like the colour {value} best.", "The colour I like best is {value}.",
         "My best colour is {value}.", "I love the colour {value}."),
        "{value} is a nice colour.",
        _same("Your favourite colour is {value}.", "What is my favourite colour?", "Which colour do I like best?",
              "Do you remember my favourite colour?", "Tell me my favourite colour.", "Which colour do I love?"),
    ),
    Recall(
        "pet",
        facts.PETS,
        ("I have a {value}.", "My pet is a {value}.", "At home I have a {value}.", "I have a pet. It is a {value}.",
         "There is a {value} in my house."),
        "It is nice to have a {value}.",
        _same("Your pet is a {value}.", "What is my pet?", "Which pet do I have?", "Do you remember my pet?",
              "What kind of pet do I have?", "Tell me what my pet is."),
    ),
    Recall(
        "city",
        facts.HOME_CITIES,
        ("I live in {value}.", "My home is in {value}.", "I come from {value}.", "My city is {value}.",
         "I have a house in {value}."),
        "{value} is a nice city.",
        _same("Your city is {value}.", "What is my city?", "Where do I live?", "In which city do I live?",
              "Do you remember my city?", "Tell me my city."),
    ),
    Recall(
        "food",
        facts.FOODS,
        ("My favourite food is {value}.", "I like {value} best.", "The food I like best is {value}.",
         "I love to eat {value}.", "I eat {value} every day."),
        "I hear that {value} is good.",
        _same("Your favourite food is {value}.", "What is my favourite food?", "Which food do I like best?",
              "Do you remember my favourite food?", "Tell me my favourite food.", "What do I love to eat?"),
    ),
    Recall(
        "number",
        tuple(str(n) for n in range(1, 11)),
        ("My number is {value}.", "Remember the number {value}.", "Please remember the number {value}.",
         "I think of the number {value}.", "My lucky number is {value}."),
        "Your number is {value}.",
        _same("Your number is {value}.", "What is my number?", "Which number did I tell you?", "Tell me my number.",
              "Do you remember my number?")
        | _same("{value} + {value} = {double}.", "Double my number.", "Double that number.", "What is twice my number?")
        | _same("{value} + 1 = {next}.", "Add 1 to my number.", "Add 1 to that number.", "What is my number plus 1?"),
        derived={"double": lambda value: str(2 * int(value)), "next": lambda value: str(int(value) + 1)},
    ),
)  # fmt: skip
