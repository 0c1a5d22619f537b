"""A small grammar of English and French, for training without data: agreement, negation, adjectives after the noun."""

from __future__ import annotations

from itertools import product

import numpy as np

SUBJECTS = (
    ("i", "je", 0), ("you", "tu", 1), ("he", "il", 2), ("she", "elle", 2), ("we", "nous", 3), ("they", "ils", 4),
)  # fmt: skip
"""English, French, and the form of the verb"""
VERBS = {
    "see": ("vois", "vois", "voit", "voyons", "voient"),
    "want": ("veux", "veux", "veut", "voulons", "veulent"),
    "sell": ("vends", "vends", "vend", "vendons", "vendent"),
    "take": ("prends", "prends", "prend", "prenons", "prennent"),
    "keep": ("garde", "gardes", "garde", "gardons", "gardent"),
    "clean": ("nettoie", "nettoies", "nettoie", "nettoyons", "nettoient"),
}
NOUNS = {
    "house": ("maison", True), "car": ("voiture", True), "table": ("table", True), "chair": ("chaise", True),
    "book": ("livre", False), "coat": ("manteau", False), "boat": ("bateau", False), "knife": ("couteau", False),
}  # fmt: skip
"""French, and whether it is feminine"""
ADJECTIVES = {
    "": ("", ""), "red": ("rouge", "rouge"), "green": ("vert", "verte"),
    "white": ("blanc", "blanche"), "black": ("noir", "noire"),
}  # fmt: skip
"""masculine and feminine"""
ARTICLES = {"the": ("le", "la"), "a": ("un", "une"), "my": ("mon", "ma")}


def sentences(random: np.random.Generator, count: int) -> list[str]:
    """`count` different lines, or all there are: English, a tab, French."""
    parts = list(product(SUBJECTS, VERBS.items(), NOUNS.items(), ADJECTIVES.items(), ARTICLES.items(), (False, True)))
    return [_line(*parts[i]) for i in random.permutation(len(parts))[:count]]


def _line(
    subject: tuple[str, str, int],
    verb: tuple[str, tuple[str, ...]],
    noun: tuple[str, tuple[str, bool]],
    adjective: tuple[str, tuple[str, str]],
    article: tuple[str, tuple[str, str]],
    negated: bool,
) -> str:
    who, qui, form = subject
    third = form == 2
    thing, (chose, feminine) = noun
    said = f"{'does' if third else 'do'} not {verb[0]}" if negated else verb[0] + "s" * third
    dit = f"ne {verb[1][form]} pas" if negated else verb[1][form]
    english = f"{who} {said} {article[0]} {adjective[0]} {thing} ."
    french = f"{qui} {dit} {article[1][feminine]} {chose} {adjective[1][feminine]} ."
    return "\t".join(" ".join(side.split()) for side in (english, french))
