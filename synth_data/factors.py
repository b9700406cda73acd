"""Factors of variation: declaring a table of ranges, reading it from a recipe, and drawing from it.

A table is a frozen dataclass whose fields are made by `span`, `count`, `chance`, `shares` or `places`. A recipe may
narrow or widen each range within the declared limits.
"""

import difflib
import math
from dataclasses import field, fields
from typing import Any

import numpy as np

from synth_data.errors import UserError


def span(low: float, high: float, least: float = 0.0, most: float = math.inf, log: bool = False) -> Any:
    """A real factor, uniform in [low, high] (in the logarithm if `log`); the recipe gives `[low, high]`."""
    return field(default=(low, high), metadata={"kind": "span", "least": least, "most": most, "log": log})


def count(low: int, high: int, least: int = 0, most: float = math.inf) -> Any:
    """An integer factor, uniform in low..high, both included; the recipe gives `[low, high]`."""
    return field(default=(low, high), metadata={"kind": "count", "least": least, "most": most, "log": False})


def chance(probability: float) -> Any:
    """A yes-or-no factor; the recipe gives the probability of yes."""
    return field(default=probability, metadata={"kind": "chance"})


def shares(**weights: float) -> Any:
    """One of several named choices; the recipe gives each name's share (any scale; names left out get 0)."""
    return field(default=tuple(weights.items()), metadata={"kind": "shares", "choices": tuple(weights)})


def places() -> Any:
    """A file or folder; the recipe gives its path, or several as {PATH: SHARE, ...}. The default '' is none."""
    return field(default=(("", 1.0),), metadata={"kind": "places"})


def unknown(word: str, known: list[str] | tuple[str, ...], place: str) -> UserError:
    """The error for an unknown key, with the closest known one if any is close.

    The beginnings and ends of names are compared too: `sampels` suggests `samples_per_pixel`.
    """
    word = str(word)
    parts = {name[at]: name for name in reversed(known) for at in (slice(-len(word), None), slice(len(word)))}
    near = difflib.get_close_matches(word, [*known, *parts], n=1, cutoff=0.6)
    guess = f"; did you mean '{parts.get(near[0], near[0])}'?" if near else ""
    return UserError(f"{place}: unknown key '{word}'{guess} (known: {', '.join(known)})")


def read_number(value: Any, place: str, least: float = 0.0, most: float = math.inf, whole: bool = False) -> Any:
    """`value` if it is a finite number (an integer if `whole`) within [least, most]; UserError otherwise."""
    sort = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise UserError(f"{place}: {value!r} is not {sort}")
    if not math.isfinite(value) or not least <= value <= most:
        limit = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
        raise UserError(f"{place}: {value!r} is out of range; give {sort}, {limit}")
    return value if whole else float(value)


def read_shares(value: Any, choices: tuple[str, ...], place: str) -> tuple[tuple[str, float], ...]:
    """A mapping name -> share as pairs in the order of `choices`; UserError for an unknown name or all zeros."""
    if not isinstance(value, dict):
        raise UserError(f"{place}: {value!r} is not a mapping of name: share")
    for name in value:
        if name not in choices:
            raise unknown(name, choices, place)
    pairs = tuple((name, read_number(value.get(name, 0.0), f"{place}.{name}")) for name in choices)
    if sum(weight for _, weight in pairs) <= 0:
        raise UserError(f"{place}: every share is zero; give at least one name a share above 0")
    return pairs


def read_places(value: Any, place: str) -> tuple[tuple[str, float], ...]:
    """A path, or a mapping path -> share, as pairs with shares above 0; UserError if it is neither, or all are zero."""
    value = {value: 1.0} if isinstance(value, str) else value
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{place}: {value!r} is not a path; give PATH, or {{PATH: SHARE, PATH: SHARE}} for several")
    return tuple(pair for pair in read_shares(value, tuple(value), place) if pair[1] > 0)


def read_table(table: type, values: Any, place: str) -> Any:
    """A `table` with the recipe's `values` (factor -> range) in place of its defaults, all checked."""
    if not isinstance(values, dict):
        raise UserError(f"{place}: {values!r} is not a mapping of factor: range")
    known = {f.name: f for f in fields(table)}
    chosen = {}
    for name, value in values.items():
        if name not in known:
            raise unknown(name, list(known), place)
        rule, where = known[name].metadata, f"{place}.{name}"
        if rule["kind"] == "chance":
            chosen[name] = read_number(value, where, 0.0, 1.0)
        elif rule["kind"] == "shares":
            chosen[name] = read_shares(value, rule["choices"], where)
        elif rule["kind"] == "places":
            chosen[name] = read_places(value, where)
        else:
            if not isinstance(value, (list, tuple)) or len(value) != 2:
                raise UserError(f"{where}: {value!r} is not a range; give [low, high]")
            whole = rule["kind"] == "count"
            low, high = (read_number(v, where, rule["least"], rule["most"], whole) for v in value)
            if low > high:
                raise UserError(f"{where}: impossible range [{low:g}, {high:g}]; put the smaller number first")
            if rule["log"] and low <= 0:
                raise UserError(f"{where}: {low:g} is out of range; this factor must be above 0")
            chosen[name] = (low, high)
    return table(**chosen)


def pick(rng: np.random.Generator, pairs: tuple[tuple[str, float], ...]) -> str:
    """One name of (name, share) pairs."""
    weights = np.array([weight for _, weight in pairs], dtype=np.float64)
    edge = np.cumsum(weights) / weights.sum()
    return pairs[int(np.searchsorted(edge, rng.random(), side="right"))][0]


def draw(rng: np.random.Generator, table: Any) -> dict[str, Any]:
    """One value of every factor of a table, as plain JSON values (reals rounded to six digits)."""
    drawn: dict[str, Any] = {}
    for f in fields(table):
        value, kind = getattr(table, f.name), f.metadata["kind"]
        if kind == "chance":
            drawn[f.name] = bool(rng.random() < value)
        elif kind == "shares":
            drawn[f.name] = pick(rng, value)
        elif kind == "places":  # one alone takes no random number
            drawn[f.name] = value[0][0] if len(value) == 1 else pick(rng, value)
        elif kind == "count":
            drawn[f.name] = int(rng.integers(value[0], value[1] + 1))
        elif f.metadata["log"]:
            drawn[f.name] = round(float(np.exp(rng.uniform(*np.log(value)))), 6)
        else:
            drawn[f.name] = round(float(rng.uniform(*value)), 6)
    return drawn
