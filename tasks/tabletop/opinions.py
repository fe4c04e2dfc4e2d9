"""What people say when they like a thing and when they do not.

Open classes: each split speaks with words of its own (`share`), so that a model must know what they mean and cannot
have counted them in the training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hyperpelt_tasks.tabletop.lexicon import several

T = TypeVar("T")

GOOD = several(
    """
    wonderful lovely beautiful superb brilliant charming delightful excellent fantastic marvelous magnificent
    perfect splendid amazing gorgeous stunning elegant graceful pleasant impressive remarkable enchanting exquisite
    fabulous outstanding terrific great good nice adorable attractive appealing captivating cheerful clever cute
    dazzling delicious divine exciting extraordinary fascinating fine fun glorious handsome hilarious ideal
    imaginative incredible ingenious inspired inspiring inviting joyful magical masterful memorable moving neat
    original phenomenal playful pretty priceless radiant refreshing reliable rewarding satisfying sensational smart
    soothing spectacular stylish sublime sweet tasteful thrilling timeless touching useful valuable vibrant witty
    worthy awesome breathtaking comfortable fresh heavenly helpful honest lively pleasing polished precious wise
    """
)
BAD = several(
    """
    awful terrible horrible ugly dreadful boring dull disappointing disgusting nasty hideous pathetic ridiculous
    useless worthless annoying irritating tedious miserable appalling atrocious bad poor lousy bland bleak clumsy
    crude cruel dangerous depressing dirty dismal disturbing embarrassing empty exhausting fake faulty filthy flawed
    foolish forgettable frightening frustrating gloomy grim gross hateful hollow hopeless horrifying idiotic
    inferior insulting lame lazy lifeless mediocre messy monotonous obnoxious offensive outdated outrageous painful
    pointless pretentious repulsive revolting rotten rude sad senseless shabby shallow shameful shoddy sick silly
    sloppy stale strange stupid tasteless tiresome troubling unbearable unpleasant vile vulgar weak weary wicked
    wretched absurd cheap inadequate intolerable obscene terrifying tragic trashy unfair
    """
)

# Verbs of liking, past tense.
LIKED = several(
    """
    loved adored admired enjoyed praised treasured cherished liked appreciated celebrated recommended applauded
    favored respected welcomed
    """
)
LOATHED = several(
    """
    hated despised detested loathed disliked mocked cursed regretted rejected resented dreaded ridiculed condemned
    criticized avoided
    """
)

# What somebody did: one's feeling told without a word of feeling.
GLAD = (
    "could not stop smiling",
    "asked for two more",
    "cheered out loud",
    "told all her friends to get one",
    "kept it for the rest of the year",
    "laughed with joy",
    "wanted to see it again at once",
    "thanked us three times",
    "clapped and clapped",
    "gave it five stars",
    "put it in the place of honour",
    "would not trade it for anything",
    "hugged the seller",
    "danced around it for an hour",
    "begged to keep it",
    "came back every day to look at it",
    "showed it proudly to everyone",
    "smiled from ear to ear",
)
UPSET = (
    "asked for the money back",
    "threw it in the bin",
    "complained for a week",
    "told all her friends to stay away",
    "yawned the whole time",
    "walked out angry",
    "wanted to get rid of it at once",
    "burst into tears",
    "shook her head in disgust",
    "gave it one star",
    "hid it so that nobody could see it",
    "would not take it as a gift",
    "shouted at the seller",
    "frowned at it for an hour",
    "begged us to take it away",
    "never looked at it again",
    "felt cheated",
    "sighed and turned away",
)

# In front of an adjective: some turn its sense around, some only colour it.
TURNING = ("not", "never", "hardly", "far from", "anything but", "not at all", "by no means", "in no way")
KEEPING = ("very", "truly", "quite", "really", "so", "simply", "just", "rather")


def share(words: Sequence[T], split: str) -> list[T]:
    """The words of one split: of every six, train has four, validation one, test one.

    >>> share("abcdef", "test")
    ['f']
    """
    turn = {"validation": (4,), "test": (5,)}.get(split, (0, 1, 2, 3))
    return [word for place, word in enumerate(words) if place % 6 in turn]
