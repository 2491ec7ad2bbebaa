"""A count with its noun: one document, two documents."""


def counted(number: int, thing: str) -> str:
    """Such as "1 document" and "1,200 documents"."""
    return f"{number:,} {thing}" + "s" * (number != 1)
