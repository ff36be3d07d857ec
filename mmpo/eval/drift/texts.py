"""The texts and prompts that every evaluation is given beside its benchmarks. Changing one changes numbers, so its id
must change too.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT_PROMPT = "Write one sentence."
"""The user's turn that each of `SENTENCES` answers."""
CAPTION_PROMPT = "Describe the image in one sentence."

SENTENCES: tuple[str, ...] = (
    "The bakery on the corner opens before sunrise and sells out of rye bread by nine.",
    "When water freezes it takes up more room, which is why full bottles crack in the cold.",
    "My grandmother kept her letters in a tin box under the stairs.",
    "A triangle with two equal sides also has two equal angles.",
    "The train to the coast was late again, so we shared our sandwiches on the platform.",
    "He apologised for the noise and promised to mend the fence by Friday.",
    "Bees tell one another where flowers are by dancing in the dark of the hive.",
    "Please send the signed form back within ten working days.",
    "The river splits into three arms before it reaches the sea.",
    "She learned to play the cello at forty and joined an orchestra at fifty.",
    "If you double the recipe, use a wider pan rather than a deeper one.",
    "The committee voted seven to four in favour of the new library.",
    "Iron rusts faster near the sea because salt helps the current flow.",
    "Nobody remembered who had locked the shed or where the key had gone.",
    "A good map leaves out almost everything.",
    "The old lighthouse was painted white so that sailors could find it by day.",
    "In winter the lake is quiet enough to hear the ice move.",
    "They built the bridge from both banks and met in the middle within two centimetres.",
    "The museum is free on the first Sunday of the month.",
    "Light from the nearest star needs more than four years to arrive.",
    "He reads the last page first and is never disappointed.",
    "The price of onions doubled after a wet summer and a short harvest.",
    "Turn left at the chapel, cross the stream and follow the yellow signs.",
    "Her argument was simple: what cannot be repaired should not be sold.",
    "Owls fly almost without a sound because the edges of their feathers are soft.",
    "We missed the beginning of the film and understood the ending all the better.",
    "The teacher asked for silence and got, for a moment, a room full of whispers.",
    "An odd number times an odd number is always odd.",
    "Most of the village works in the quarry or has a cousin who does.",
    "The doctor told him to walk every day and to worry about nothing else.",
    "It had rained for a week, and the football pitch had become a pond.",
    "Clay keeps its shape because its grains are flat and cling to each other.",
    "The shop assistant folded the shirt so neatly that I was sorry to open it.",
    "Two of the four witnesses changed their minds before the trial began.",
    "The moon pulls at the oceans, and the oceans answer twice a day.",
    "I would rather be early and bored than late and sorry.",
    "The engine starts on the third try if you are patient and kind to it.",
    "Her brother speaks five languages and is shy in all of them.",
    "Cut the paper along the dotted line and keep the smaller part.",
    "The festival ends with a meal to which everybody brings a chair and a spoon.",
    "Copper was worked long before iron because it melts at a lower heat.",
    "The parcel arrived open, empty and with a polite note from the post office.",
    "A whole number is divisible by nine if the sum of its digits is.",
    "The wind turned in the night and blew the smoke back over the valley.",
    "They named the boat after a teacher who could not swim.",
    "Good soil smells of rain even when it is dry.",
    "The contract runs for two years and renews itself unless either side objects.",
    "Children in the back row could see the puppet's strings and did not mind.",
    "After the storm the beach was covered with small blue shells.",
    "The last candidate answered every question with another one and got the job.",
)  # fmt: skip


@dataclass(frozen=True)
class NeutralPrompt:
    """A request that no benchmark makes; `image` says whether it shows a picture."""

    id: str
    text: str
    image: bool


def sentence_id(place: int) -> str:
    """The id of the sentence at a place of `SENTENCES`."""
    return f"sentence-{place + 1:02d}"


def _prompts(kind: str, image: bool, *texts: str) -> tuple[NeutralPrompt, ...]:
    return tuple(NeutralPrompt(f"{kind}-{number}", text, image) for number, text in enumerate(texts, start=1))


NEUTRAL_PROMPTS: tuple[NeutralPrompt, ...] = (
    *_prompts(
        "describe",
        True,
        "Describe this picture.",
        "What is the first thing that you notice here?",
        "Give this picture a title, and say why it fits.",
        "Which colours do you see, and where?",
    ),
    *_prompts(
        "count",
        True,
        "How many separate things can you count in this picture? Name them.",
        "Is there more on the left or on the right of this picture?",
        "How many different colours does this picture have?",
    ),
    *_prompts(
        "read",
        True,
        "Is anything written in this picture? If so, what?",
        "Write a short message to a friend about this picture.",
        "What might have happened just before this picture was taken?",
    ),
    *_prompts(
        "translate",
        False,
        "Translate into French: The shop is closed on Mondays.",
        "Translate into German: Where can I buy a ticket?",
        "Translate into Spanish: My brother lives near the station.",
    ),
    *_prompts(
        "reckon",
        False,
        "What is 17 plus 26? Explain in one sentence.",
        "Count from one to ten in words.",
        "Put these words in alphabetical order: pear, apple, plum, cherry.",
    ),
    *_prompts(
        "talk",
        False,
        "Hello! How are you today?",
        "Can you recommend a hobby for rainy evenings?",
        "Why is the sky blue?",
        "Tell me a very short story about a lost umbrella.",
    ),
)
