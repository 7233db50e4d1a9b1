"""What is wrong with links that are no tree's, in plain Python: only a refusal needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class WrongLink(NamedTuple):
    argument: str
    node: int
    link: int
    must_be: str


def wrong_link(next_token: Sequence[int], next_sibling: Sequence[int]) -> WrongLink | None:
    """The first link that a walk from the root can come upon and that leads out of the tree or back
    to where it came from; if there is none, the first that leads where another does."""
    nodes, shared = len(next_token), None
    way, seen = [(0, _links_of(0, next_token, next_sibling))], {0}
    while way:
        node, links = way[-1]
        argument, link = next(links, ("", -1))
        if not argument:
            way.pop()
        elif not 0 <= link < nodes:
            return WrongLink(argument, node, link, f"-1 or a node below N = {nodes}")
        elif any(link == before for before, _ in way):
            return WrongLink(argument, node, link, "without a cycle")
        elif link in seen:
            shared = shared or WrongLink(argument, node, link, "the only link to its node")
        else:
            seen.add(link)
            way.append((link, _links_of(link, next_token, next_sibling)))
    return shared


def _links_of(
    node: int, next_token: Sequence[int], next_sibling: Sequence[int]
) -> Iterator[tuple[str, int]]:
    if next_token[node] != -1:
        yield "retrieve_next_token", next_token[node]
    if node != 0 and next_sibling[node] != -1:
        yield "retrieve_next_sibling", next_sibling[node]
