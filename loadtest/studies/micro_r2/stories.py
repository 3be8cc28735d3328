"""The parts that a chain problem is told in: a start, changes of one number, a question.

`{n}` is the change's number; `{fold}` and `{part}` are its words, as in "twice" and "half".
"""

from dataclasses import dataclass

FOLDS = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}


@dataclass(frozen=True)
class Change:
    text: str
    operator: str
    # What the thought calls it.
    lead: str


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    # Some questions ask for one more step.
    change: Change | None = None


STARTS = (
    "{name} has {n} {thing}.",
    "{name} starts with {n} {thing}.",
    "{name} collects {n} {thing}.",
    "There are {n} {thing} on the table of {name}.",
)

CHANGES = (
    Change("{friend} gives {name} {n} more.", "+", "From {friend}"),
    Change("{name} finds {n} more.", "+", "Found"),
    Change("{name} buys {n} more.", "+", "Bought"),
    Change("Then {n} more come by post.", "+", "By post"),
    Change("{name} gives away {n}.", "-", "Given away"),
    Change("{name} gives {n} of them to {friend}.", "-", "To {friend}"),
    Change("{name} loses {n}.", "-", "Lost"),
    Change("{name} sells {n} of them.", "-", "Sold"),
    Change("Then {n} of them break.", "-", "Broken"),
    Change("Soon {name} has {fold} as many.", "*", "As many {fold}"),
    Change("Next week there are {fold} as many.", "*", "Next week"),
    Change("{name} keeps only {part} of them.", "/", "Kept"),
    Change("Only {part} of them are good, and the others are thrown away.", "/", "Good ones"),
)

QUESTIONS = (
    Question("How many {thing} does {name} have now?", "{name} has {r} {thing} now."),
    Question("How many {thing} are there in the end?", "There are {r} {thing} in the end."),
    Question("What is the number of {thing} after that?", "The number of {thing} is {r}."),
    Question(
        "All of them go into bags of {n}. How many bags are there?",
        "There are {r} bags.",
        Change("", "/", "Bags"),
    ),
    Question(
        "Each of them costs {n} dollars. How many dollars are they worth?",
        "They are worth {r} dollars.",
        Change("", "*", "Worth"),
    ),
    Question(
        "{third} has {n} more than that. How many {thing} does {third} have?",
        "{third} has {r} {thing}.",
        Change("", "+", "{third} has"),
    ),
    Question(
        "{third} has {n} fewer than that. How many {thing} does {third} have?",
        "{third} has {r} {thing}.",
        Change("", "-", "{third} has"),
    ),
    Question(
        "{third} has {fold} as many. How many {thing} does {third} have?",
        "{third} has {r} {thing}.",
        Change("", "*", "{third} has"),
    ),
)
