"""Reading the answers that models and people write: numbers, choices, mathematics.

An answer is read whole or not at all: what may mean two things is not read, since a wrong answer
that is taken for a right one trains a model. All of it takes linear time, and texts longer than
``MAX_CHARACTERS`` are not read.
"""

MAX_CHARACTERS = 400
