"""A long text in stretches, for judges that read only so much at once."""


def windows(text: str, size: int) -> list[str]:
    """Cut a text into stretches of at most `size` characters, between words where there are any.

    Returns:
        at least one stretch; joined they are the text.
    """
    cut: list[str] = []
    start = 0
    while len(text) - start > size:
        space = max(text.rfind(mark, start, start + size) for mark in " \n")
        end = space + 1 if space > start else start + size
        cut.append(text[start:end])
        start = end
    return [*cut, text[start:]]
