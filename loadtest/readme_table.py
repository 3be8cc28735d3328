"""What commands write into README and docs: text between two markers."""


class MarkersMissing(Exception):
    """The text has no place for what is written."""


def between_markers(text: str, name: str, body: str) -> str:
    """The text with `body` between the markers `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise MarkersMissing(f"put {begin} and {end} where it belongs")
    return f"{before}{begin}\n{body}\n{end}{after}"
