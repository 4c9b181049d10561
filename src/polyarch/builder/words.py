"""Names for builders that nobody named: an adjective and somebody who made machines work together."""

from __future__ import annotations

import random
from collections.abc import Container

_ADJECTIVES = (
    "able agile amber apt brave bright brisk calm candid civil clear clever cordial crisp daring deft "
    "eager early exact fair fleet fluent frank gentle glad grand handy happy honest humble jolly keen "
    "kind lively lucid merry modest neat nimble noble patient placid plucky polite prompt proud quick "
    "quiet ready robust sage serene sharp sound steady subtle sunny swift tidy trim upbeat vivid warm "
    "wise witty zesty"
).split()
_NAMES = (
    "allen amdahl atanasoff babbage backus baran bartik bell berners boole brooks cerf chomsky church "
    "clarke codd conway cook cray dahl davies dijkstra eckert engelbart floyd furber gosling gray "
    "hamilton hamming hoare hollerith holberton hopper huffman iverson kahn karp kay kernighan kilby "
    "kleene knuth lamarr lamport liskov lovelace mauchly mccarthy metcalfe minsky moore naur neumann "
    "noyce nygaard perlis perlman pike postel rabin ritchie shannon stallman sutherland tarjan thompson "
    "turing wilkes wilson wirth yao zuse"
).split()


def new_name(taken: Container[str]) -> str:
    """A name that nobody has yet."""
    while True:
        name = f"{random.choice(_ADJECTIVES)}_{random.choice(_NAMES)}"
        if name not in taken:
            return name
        if all(f"{first}_{second}" in taken for first in _ADJECTIVES for second in _NAMES):
            return f"{name}_{random.randrange(10**6)}"
