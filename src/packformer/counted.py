"""A count with its noun: one document, two documents."""


def counted(number: int, thing: str, plural: str | None = None) -> str:
    """Such as "1 document" and "1,200 documents".

    Args:
        number: of things.
        thing: one of them.
        plural: several of them, where that is not ``thing`` with an s.
    """
    return f"{number:,} {thing if number == 1 else plural or f'{thing}s'}"
