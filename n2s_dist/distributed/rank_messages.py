"""How ranks are told of each other: which are missing, what differs between them, what one of them failed with."""

from collections import Counter

from n2s_dist.utils.errors import described


def outcome_of(error: BaseException) -> tuple[int, str, bool]:
    """Exit code, line, and whether the rank that met the error would print that line itself."""
    if known := described(error):
        return *known, True
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        return code, f"ended with exit code {code}, and its own message says why", False
    return 1, f"failed with {type(error).__name__}, and its own traceback says why", False


def named_ranks(ranks: list[int]) -> str:
    """Such as "rank 3" or "ranks 1, 2"."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def difference_between(what: str, rows: list[tuple[str, dict[str, str]]]) -> str:
    """What is not the same everywhere, and who is the odd one. rows: each rank's host and facts."""
    names = {name: None for _, facts in rows for name in facts}
    differing = [name for name in names if len({facts.get(name) for _, facts in rows}) > 1]
    if not differing:
        return f"{what} differ between ranks"
    name = differing[0]
    values = [facts.get(name, "nothing") for _, facts in rows]
    usual, holders = Counter(values).most_common(1)[0]
    if 2 * holders <= len(rows):  # no majority: rank 0 is what others are compared with
        usual = values[0]
    odd = next(rank for rank, value in enumerate(values) if value != usual)
    other = values.index(usual)
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return (
        f"{what} differ between ranks: {name} is {values[odd]} on rank {odd} ({rows[odd][0]}), "
        f"{usual} on rank {other} ({rows[other][0]}){more}"
    )
