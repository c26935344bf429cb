"""A reward that even a policy of random weights earns, and not for every report alike: bytes that are ASCII letters."""


def letters(completions, **columns):
    """The share of letters in each completion; 0 for an empty one."""
    return [sum(c.isascii() and c.isalpha() for c in text) / max(len(text), 1) for text in completions]
