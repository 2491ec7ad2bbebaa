"""A number of things in words."""


def counted(number: int, thing: str) -> str:
    """Such as "1 document" and "1,200 documents"."""
    return f"{number:,} {thing}" + "s" * (number != 1)
