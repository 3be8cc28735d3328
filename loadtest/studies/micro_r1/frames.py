"""The frames of the problems: text, ranges of the numbers, steps of the solution, answer.

Letters a to d are the numbers of the text; r1 and r2 are the results of earlier steps.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    text: str
    # "a:3-40 b:2-9": each number's least and greatest value.
    ranges: str
    # What a step is about, and its operation.
    steps: tuple[tuple[str, str], ...]
    answer: str


_NAMES = (
    "Mia Tom Ana Ben Lea Max Zoe Sam Eva Leo Ida Jon Amy Kim Noa Raj Lin Omar Sara Finn "
    "Nina Paul Rosa Hugo Tara Ivan Maya Otto Vera Emil Lucy Karl Anna Dan Jane Alex Ella Luis"
)
_THINGS = (
    "apples shells stamps cards books pens coins eggs stones cookies marbles pears plums "
    "flowers stickers nuts buttons candles oranges balls pencils beads tickets muffins"
)
NAMES = tuple(_NAMES.split())
THINGS = tuple(_THINGS.split())
PLACES = ("shop", "market stall", "museum", "kiosk", "school")

ONE_STEP = (
    Frame("What is {a} + {b}?", "a:3-150 b:3-99", (("Add", "a + b"),), "The sum is {r}."),
    Frame("What is {a} - {b}?", "a:9-250 b:3-99", (("Subtract", "a - b"),), "That is {r}."),
    Frame("What is {a} * {b}?", "a:3-40 b:2-9", (("Multiply", "a * b"),), "That is {r}."),
    Frame("What is {a} / {b}?", "a:6-108 b:2-9", (("Divide", "a / b"),), "That is {r}."),
    Frame(
        "{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?",
        "a:3-99 b:3-60",
        (("{name} gets more", "a + b"),),
        "{name} has {r} {thing} now.",
    ),
    Frame(
        "{name} has {a} {thing} and gives {b} to {friend}. How many {thing} are left?",
        "a:9-120 b:3-60",
        (("{name} gives some away", "a - b"),),
        "There are {r} {thing} left.",
    ),
)

TWO_STEPS = (
    Frame(
        "{name} has {a} {thing}. {friend} gives {name} {b} more. Then {name} loses {c} of them. "
        "How many {thing} does {name} have now?",
        "a:5-99 b:3-60 c:3-60",
        (("{name} gets more", "a + b"), ("Then some are lost", "r1 - c")),
        "{name} has {r} {thing} now.",
    ),
    Frame(
        "A {place} has {a} {thing}. It sells {b} in the morning and {c} in the afternoon. "
        "How many {thing} are left?",
        "a:30-200 b:3-80 c:3-80",
        (("After the morning", "a - b"), ("After the afternoon", "r1 - c")),
        "There are {r} {thing} left.",
    ),
    Frame(
        "{name} buys {a} boxes with {b} {thing} each and already owns {c} {thing}. "
        "How many {thing} does {name} have in all?",
        "a:2-9 b:3-30 c:3-80",
        (("In the boxes", "b * a"), ("With the others", "r1 + c")),
        "{name} has {r} {thing} in all.",
    ),
    Frame(
        "{name} shares {a} {thing} equally among {b} friends. One of them is {friend}, who already "
        "had {c}. How many {thing} does {friend} have now?",
        "a:6-108 b:2-9 c:3-80",
        (("Each friend gets", "a / b"), ("{friend} has", "r1 + c")),
        "{friend} has {r} {thing} now.",
    ),
    Frame(
        "A hall has {a} rows of {b} chairs. {c} chairs are taken. How many chairs are free?",
        "a:2-9 b:5-30 c:3-80",
        (("All chairs", "b * a"), ("Free chairs", "r1 - c")),
        "There are {r} free chairs.",
    ),
    Frame(
        "A train carries {a} people. At the first stop {b} people get off and at the second stop "
        "{c} get on. How many people are on the train?",
        "a:30-200 b:3-80 c:3-80",
        (("After the first stop", "a - b"), ("After the second stop", "r1 + c")),
        "There are {r} people on the train.",
    ),
    Frame(
        "{name} works {a} hours for {b} dollars an hour and then spends {c} dollars. "
        "How many dollars are left?",
        "a:2-9 b:5-30 c:3-80",
        (("The pay", "b * a"), ("After spending", "r1 - c")),
        "{name} has {r} dollars left.",
    ),
    Frame(
        "{name} picks {a} {thing} and {friend} picks {b}. They put all of them into bags of {c}. "
        "How many bags do they fill?",
        "a:3-60 b:3-60 c:2-9",
        (("Together", "a + b"), ("Bags", "r1 / c")),
        "They fill {r} bags.",
    ),
    Frame(
        "A baker makes {a} rolls and keeps {b} of them. The others are packed into bags of {c}. "
        "How many bags are there?",
        "a:12-160 b:3-80 c:2-9",
        (("To be packed", "a - b"), ("Bags", "r1 / c")),
        "There are {r} bags.",
    ),
    Frame(
        "{name} reads {a} pages on Monday and {b} times as many on Tuesday. "
        "How many pages does {name} read on both days?",
        "a:3-30 b:2-6",
        (("On Tuesday", "a * b"), ("On both days", "r1 + a")),
        "{name} reads {r} pages.",
    ),
    Frame(
        "{name} is {a} years old. {friend} is {b} years older. How old are they together?",
        "a:3-60 b:2-40",
        (("The age of {friend}", "a + b"), ("Together", "r1 + a")),
        "Together they are {r} years old.",
    ),
    Frame(
        "A rope is {a} metres long. {name} cuts off {b} pieces of {c} metres each. "
        "How many metres are left?",
        "a:30-200 b:2-9 c:3-20",
        (("Cut off", "c * b"), ("Left", "a - r1")),
        "There are {r} metres left.",
    ),
    Frame(
        "{name} buys {a} {thing} at {b} dollars each and pays with {c} dollars. "
        "How many dollars does {name} get back?",
        "a:2-9 b:2-20 c:20-200",
        (("The price", "b * a"), ("Back", "c - r1")),
        "{name} gets back {r} dollars.",
    ),
    Frame(
        "What is {a} + {b} - {c}?",
        "a:3-99 b:3-99 c:3-80",
        (("Add", "a + b"), ("Subtract", "r1 - c")),
        "That is {r}.",
    ),
    Frame(
        "What is {a} * {b} + {c}?",
        "a:3-30 b:2-9 c:3-80",
        (("Multiply", "a * b"), ("Add", "r1 + c")),
        "That is {r}.",
    ),
)

THREE_STEPS = (
    Frame(
        "{name} has {a} {thing}, finds {b} more and gives {c} to {friend}. The others go into {d} "
        "equal piles. How many {thing} are in each pile?",
        "a:5-80 b:3-60 c:3-60 d:2-9",
        (("With the found ones", "a + b"), ("After giving", "r1 - c"), ("Each pile", "r2 / d")),
        "There are {r} {thing} in each pile.",
    ),
    Frame(
        "{name} buys {a} packs of {b} {thing} and {c} packs of {d} {thing}. "
        "How many {thing} are there in all?",
        "a:2-9 b:3-20 c:2-9 d:3-20",
        (("The first packs", "b * a"), ("The other packs", "d * c"), ("In all", "r1 + r2")),
        "There are {r} {thing} in all.",
    ),
    Frame(
        "A farmer has {a} hens and {b} ducks. Each lays {c} eggs a week, and {d} eggs break. "
        "How many eggs are whole?",
        "a:3-20 b:3-20 c:2-7 d:3-60",
        (("All birds", "a + b"), ("All eggs", "r1 * c"), ("Whole eggs", "r2 - d")),
        "There are {r} whole eggs.",
    ),
    Frame(
        "A bus carries {a} people. First {b} get on, then {c} get off, then {d} get on. "
        "How many people are on the bus?",
        "a:10-90 b:3-60 c:3-60 d:3-60",
        (("First", "a + b"), ("Then", "r1 - c"), ("At last", "r2 + d")),
        "There are {r} people on the bus.",
    ),
    Frame(
        "{name} saves {a} dollars a week for {b} weeks, gets {c} dollars from {friend} and buys a "
        "game for {d} dollars. How many dollars are left?",
        "a:3-25 b:2-9 c:3-60 d:3-80",
        (("Saved", "a * b"), ("With the gift", "r1 + c"), ("After the game", "r2 - d")),
        "{name} has {r} dollars left.",
    ),
    Frame(
        "{name} has {a} {thing}. {friend} has {b} times as many. {third} has {c} fewer than "
        "{friend}. How many {thing} do {name} and {third} have together?",
        "a:4-30 b:2-6 c:3-60",
        (("{friend} has", "a * b"), ("{third} has", "r1 - c"), ("Together", "r2 + a")),
        "Together they have {r} {thing}.",
    ),
    Frame(
        "A library has {a} books on one shelf and {b} on another. {c} books are lent and {d} come "
        "back. How many books are on the shelves?",
        "a:10-99 b:10-99 c:3-80 d:3-60",
        (("Both shelves", "a + b"), ("After lending", "r1 - c"), ("After that", "r2 + d")),
        "There are {r} books on the shelves.",
    ),
    Frame(
        "A ticket costs {a} dollars for adults and {b} dollars for children. {name} pays for {c} "
        "adults and {d} children. How many dollars is that?",
        "a:5-25 b:3-15 c:2-6 d:2-9",
        (("The adults", "a * c"), ("The children", "b * d"), ("In all", "r1 + r2")),
        "{name} pays {r} dollars.",
    ),
    Frame(
        "{name} fills {a} boxes and gives {b} of them to {friend}. Each box holds {c} {thing}, and "
        "{name} has {d} loose ones. How many {thing} does {name} have left?",
        "a:4-12 b:2-8 c:3-25 d:3-60",
        (("Boxes left", "a - b"), ("In the boxes", "c * r1"), ("With the loose ones", "r2 + d")),
        "{name} has {r} {thing} left.",
    ),
    Frame(
        "A tank holds {a} litres. {name} takes out {b} buckets of {c} litres each and then pours "
        "in {d} litres. How many litres are in the tank?",
        "a:60-250 b:2-9 c:3-20 d:3-60",
        (("Taken out", "c * b"), ("Left", "a - r1"), ("After pouring", "r2 + d")),
        "There are {r} litres in the tank.",
    ),
    Frame(
        "{name} runs {a} kilometres on each of {b} days and {c} kilometres on Sunday. {friend} "
        "runs {d} kilometres fewer in all. How many kilometres does {friend} run?",
        "a:3-20 b:2-6 c:3-30 d:3-50",
        (("On the days", "a * b"), ("With Sunday", "r1 + c"), ("{friend} runs", "r2 - d")),
        "{friend} runs {r} kilometres.",
    ),
    Frame(
        "A pen costs {a} dollars and a bag costs {b} dollars more than the pen. {name} buys one of "
        "each and pays with {c} dollars. How many dollars does {name} get back?",
        "a:2-40 b:3-40 c:20-200",
        (("The bag", "a + b"), ("The price", "r1 + a"), ("Back", "c - r2")),
        "{name} gets back {r} dollars.",
    ),
    Frame(
        "What is {a} * {b} - {c} + {d}?",
        "a:3-30 b:2-9 c:3-80 d:3-80",
        (("Multiply", "a * b"), ("Subtract", "r1 - c"), ("Add", "r2 + d")),
        "That is {r}.",
    ),
)
FRAMES_BY_STEPS = {1: ONE_STEP, 2: TWO_STEPS, 3: THREE_STEPS}
