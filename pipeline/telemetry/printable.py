"""Text for terminals and logs that cannot move the cursor, forge a line or reorder what is read."""

import json


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with every character that is not printable as JSON writes it: `\n`, `\u001b`, `\u202e` …

    Not printable are control, bidirectional and other invisible characters, separators but the blank, halves of
    surrogate pairs. Those in `keep` stay as they are. In JSON that was written without ASCII escapes the result is the
    same JSON.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else json.dumps(character)[1:-1] for character in text
    )
