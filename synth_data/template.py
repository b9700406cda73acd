"""A complete recipe as commented YAML, every factor with its range and meaning: a start for recipes of one's own."""

import ast
import inspect
import json
import textwrap
from dataclasses import fields, replace
from typing import Any

from synth_data.factors import unknown
from synth_data.recipe import Recipe, parse_recipe
from synth_data.subjects import FAMILIES

TABLES = ("arrangement", "camera", "lights", "exposure", "background", "capture", "recompose")
WIDTH = 118
HEAD = """\
# {about}
#
# [low, high] is drawn uniformly (starred: uniformly in the logarithm), {{name: share}} picks a name, a single number
# is the probability of yes. A factor left out keeps its default. Every draw is a function of (seed, index) and is
# recorded in metadata.jsonl.

name: {name}
target: {target}  # alpha: the matte; mask adds a binary one; classes adds class and instance ids
compositing: {compositing}  # disk: finished pictures; on_the_fly: layers, recombined each time they are read
samples_per_pixel: {samples_per_pixel}  # light paths per pixel; coverage is a multiple of 1 / samples_per_pixel
max_depth: {max_depth}  # most segments of a light path
composites_per_foreground: {composites_per_foreground}  # samples that share one rendered foreground
refraction: {refraction}  # largest mean displacement of what is seen through a subject, in frame widths
photos: {photos}  # folders of pictures, or Hub ids of data sets, for backgrounds of the kind photo
environments: {environments}  # folders of .hdr or .exr files, for skies of the kind environment
licences: {licences}  # where they and meshes are from, for the cards: [{{path: , source: , licence: , author: }}]
"""


def meanings(table: type) -> dict[str, str]:
    """The docstring under each field of a factor table, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(table))).body[0].body
    found = {}
    for statement, after in zip(body, body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
            found[statement.target.id] = " ".join(ast.literal_eval(after.value).split())
    return found


def _number(value: float) -> str:
    return f"{value:.6g}"


def _value(rule: dict[str, Any], value: Any) -> str:
    if rule["kind"] == "shares":
        return "{" + ", ".join(f"{name}: {_number(share)}" for name, share in value) + "}"
    if rule["kind"] in ("span", "count"):
        return f"[{_number(value[0])}, {_number(value[1])}]"
    if rule["kind"] == "places":
        return json.dumps(value[0][0] if len(value) == 1 else dict(value), ensure_ascii=False)
    return _number(value)


def table_text(name: str, table: Any) -> str:
    """One table of a recipe, with a comment for each factor."""
    known = meanings(type(table))
    about = " ".join(type(table).__doc__.split())
    if len(name) + len(about) + 5 <= WIDTH:
        lines = [f"{name}:  # {about}"]
    else:
        lines = [*textwrap.wrap(about, WIDTH, initial_indent="# ", subsequent_indent="# "), f"{name}:"]
    for f in fields(table):
        entry = f"  {f.name}: {_value(f.metadata, getattr(table, f.name))}"
        remark = ("* " if f.metadata.get("log") else "") + known[f.name]
        if len(entry) + len(remark) + 4 <= WIDTH:
            lines.append(f"{entry}  # {remark}")
        else:
            lines += [f"  # {line}" for line in textwrap.wrap(remark, WIDTH - 4)]
            if f.metadata["kind"] == "places":  # a path must stay on its line
                lines.append(entry)
            else:
                lines += textwrap.wrap(entry.strip(), WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def recipe_text(recipe: Recipe, about: str) -> str:
    """The recipe as YAML, with all its tables and those of the families that have a share."""
    head = {f.name: getattr(recipe, f.name) for f in fields(Recipe)}
    head |= {key: "[" + ", ".join(head[key]) + "]" for key in ("photos", "environments")}
    head["licences"] = json.dumps(head["licences"], ensure_ascii=False)
    head["refraction"] = _number(recipe.refraction)
    text = HEAD.format(about=about, **head)
    shown = [(name, share) for name, share in recipe.families if share > 0]
    shares = "{" + ", ".join(f"{name}: {_number(share)}" for name, share in shown) + "}"
    text += "\n".join(textwrap.wrap(f"families: {shares}", WIDTH, subsequent_indent="  ")) + "\n"
    for name in TABLES:
        text += "\n" + table_text(name, getattr(recipe, name))
    for name, _ in shown:
        text += "\n" + table_text(name, recipe.tables[name])
    return text


def template(families: list[str]) -> str:
    """A recipe with equal shares of the named families and every default. UserError for an unknown family."""
    for family in families:
        if family not in FAMILIES:
            raise unknown(family, tuple(FAMILIES), "--families")
    plain = parse_recipe("{name: mine, families: {solids: 1}}", "template")
    shares = tuple((name, 1.0) for name in families)
    return recipe_text(replace(plain, families=shares), "A recipe to start from.")
