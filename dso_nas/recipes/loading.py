"""From a recipe's name to the recipe: its file, the file that it extends, a profile, and `--set`.

Each of these is a layer, a plain nested mapping. A later layer's keys win; sections are merged key by key.
The layers are kept until validation is over, so that an error can name the file or the flag that said it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from dso_nas.errors import UserError
from dso_nas.recipes.rules import KeyProblem, read_section, show, suggest
from dso_nas.recipes.schema import PROFILES, Recipe
from dso_nas.recipes.yaml_text import MAX_BYTES, YamlError, parse_yaml

RECIPE_FOLDER = Path(__file__).resolve().parents[2] / "recipes"
_MAX_EXTENDS = 8
# Keys that say what other keys their section has, and what they are where they are not said.
_CHOOSERS = {"kind": None, "space": "normal"}

Tree = Dict[str, Any]


@dataclass(frozen=True)
class _Layer:
    """Some keys, and the words that come before one of them in an error."""

    source: str
    tree: Tree


def recipe_names() -> Tuple[str, ...]:
    """The names of the recipes that come with the project."""
    return tuple(sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml")))


def load_recipe(
    name_or_path: Union[str, Path], profile: Optional[str] = None, overrides: Sequence[str] = ()
) -> Recipe:
    """Resolve and validate a recipe.

    Args:
        name_or_path: one of `recipe_names()`, or a YAML file.
        profile: `paper`, `published` or `default`; None takes what the file says, else default.
        overrides: `KEY=VALUE` texts such as `search.gamma=0.01`, applied last and in order.

    Raises:
        UserError: a file, key, profile or override is wrong; one line that names it and what is allowed.
    """
    path = _find(str(name_or_path), "--recipe", None)
    files = _read_chain(path)
    layers = [
        _Layer(f"{source}:", {k: v for k, v in tree.items() if k != "profiles"}) for source, tree in files
    ]
    layers += _profile_layers(files, profile)
    layers += [_override_layer(text) for text in overrides]
    tree = reduce(_merge, (layer.tree for layer in layers), {"name": path.stem})
    try:
        return read_section(Recipe, tree)
    except KeyProblem as problem:
        source = _origin(layers, problem.path, f"{path}:")
        raise UserError(f"{source} {problem.path}: {problem.message}") from None


def _find(name: str, said_by: str, folder: Optional[Path]) -> Path:
    """The file that a name or path means; relative paths count from `folder`, else from the current one."""
    packaged = RECIPE_FOLDER / f"{name}.yaml"
    if name in recipe_names():
        return packaged
    path = (folder or Path()) / name
    if path.suffix not in (".yaml", ".yml"):
        hint = f"{suggest(name, recipe_names())}, or a .yaml file"
        raise UserError(f"{said_by}: no recipe is called {show(name)}; {hint}")
    return path


def _read_chain(path: Path) -> List[Tuple[str, Tree]]:
    """The file and those it extends, the base first, each with where it lies."""
    chain: List[Tuple[str, Tree]] = []
    target: Optional[Path] = path
    while target is not None:
        if len(chain) == _MAX_EXTENDS:
            raise UserError(f"{path}: extends: more than {_MAX_EXTENDS} recipes in a row, or a circle")
        tree = _read_file(target)
        base = tree.pop("extends", None)
        chain.insert(0, (str(target), tree))
        target = None if base is None else _base_of(target, base)
    for _, tree in chain[:-1]:
        tree.pop("name", None)
    return chain


def _base_of(path: Path, base: Any) -> Path:
    if not isinstance(base, str):
        raise UserError(f"{path}: extends: must be a recipe's name or file, not {show(base)}")
    return _find(base, f"{path}: extends", path.parent)


def _read_file(path: Path) -> Tree:
    try:
        if not path.is_file():
            raise UserError(f"{path}: there is no such recipe file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        tree = parse_yaml(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{show(str(path))}: the recipe cannot be read: {reason}") from None
    except YamlError as error:
        raise UserError(f"{path}: not a YAML file that recipes may be: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a section of keys, not {show(tree)}")
    return tree


def _profile_layers(files: Sequence[Tuple[str, Tree]], asked: Optional[str]) -> List[_Layer]:
    """The chosen profile's keys in each file, and the layer that records the choice."""
    recipe, said = files[-1][0], files[-1][1].get("profile", "default")
    profile = said if asked is None else asked
    if profile not in PROFILES:
        source = f"{recipe}: profile" if asked is None else "--profile"
        raise UserError(f"{source}: must be one of {', '.join(PROFILES)}, not {show(profile)}")
    sections = [(source, _profiles(source, tree)) for source, tree in files]
    layers = [
        _Layer(f"{s}: profiles.{profile}:", found[profile]) for s, found in sections if profile in found
    ]
    # A resolved recipe has no profiles left: it is already what the profile it names made of it.
    if not layers and profile != said:
        raise UserError(f"--profile: {recipe} has no profile {profile}; leave the flag out")
    return [*layers, _Layer("--profile", {"profile": profile})]


def _profiles(source: str, tree: Mapping[str, Any]) -> Mapping[str, Tree]:
    sections, known = tree.get("profiles", {}), PROFILES[1:]
    if not isinstance(sections, dict):
        raise UserError(f"{source}: profiles: must be a section of profiles, not {show(sections)}")
    for name, section in sections.items():
        if name not in known:
            raise UserError(f"{source}: profiles: unknown profile {show(name)}; known are {', '.join(known)}")
        if not isinstance(section, dict):
            raise UserError(f"{source}: profiles.{name}: must be a section of keys, not {show(section)}")
    return sections


def _override_layer(text: str) -> _Layer:
    """The mapping that one `--set KEY=VALUE` means; the value is YAML."""
    key, equals, value = text.partition("=")
    path = key.strip()
    parts = path.split(".")
    if not equals or not all(parts) or not path.isprintable():
        raise UserError(f"--set {show(text)}: must look like KEY=VALUE, such as search.gamma=0.01")
    if parts == ["profile"]:
        raise UserError("--set profile: a profile is more than its name; use --profile")
    try:
        tree = parse_yaml(value)
    except YamlError as error:
        raise UserError(f"--set {path}: the value is not YAML: {error}") from None
    for part in reversed(parts):
        tree = {part: tree}
    return _Layer("--set", tree)


def _merge(base: Tree, over: Tree) -> Tree:
    """Lay one tree over another; a section of another `kind` or `space` replaces the old one as a whole."""
    for chooser, default in _CHOOSERS.items():
        before = base.get(chooser, default)
        if over.get(chooser, before) != before:
            return over
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _origin(layers: Sequence[_Layer], path: str, fallback: str) -> str:
    """Which layer said the key at `path` last; the recipe's file when none did."""
    for layer in reversed(layers):
        node: Any = layer.tree
        for part in path.split("."):
            node = node.get(part, layer) if isinstance(node, dict) else layer
        if node is not layer:
            return layer.source
    return fallback
