"""The manifest of a study: what its runs share, and which commands trained them on what.

It holds the following.

    recipes      of each variant, without the placement, which each run has for itself
    data_sha256  digests of the data that the first command trained on
    test_labels  the digits of the test images, in the order of the original files
    sessions     for each command that added runs: the runs, as variant, placement, first and last
                 seed; when it began (UTC); versions, machine and commit. The last session that
                 names a run has trained it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.groundwork.recipe import Recipe
from experiments.study.runs import Group
from mnist_jax import store
from mnist_jax.data import Dataset
from mnist_jax.store import StoreError

Manifest = dict[str, Any]


def begun(recipes: Mapping[str, Recipe], dataset: Dataset) -> Manifest:
    """The manifest of a study in which the variants with these recipes are to be trained."""
    shared = {variant: asdict(recipe) for variant, recipe in recipes.items()}
    for recipe in shared.values():
        del recipe["placement"]
    return {
        "recipes": shared,
        "data_sha256": dict(dataset.sha256),
        "test_labels": "".join(map(str, np.asarray(dataset.test.labels).tolist())),
        "sessions": [],
    }


def signed(manifest: Manifest, session: Mapping[str, Any], added: Iterable[Group]) -> Manifest:
    """A manifest with one more session, which has added these groups of runs."""
    runs = [[one.variant, one.recipe.placement, one.seeds[0], one.seeds[-1]] for one in added]
    return {**manifest, "sessions": [*manifest["sessions"], {"runs": runs, **session}]}


def read(path: Path) -> Manifest:
    """Reads a manifest, also one of version 0.2, which had settings in place of recipes.

    Raises:
      StoreError: the file cannot be read, or is something else.
    """
    found = store.read_json(path)
    for seal in ("crc32", "sha256"):  # of version 0.2
        found.pop(seal, None)
    try:
        if "settings" in found:
            for recipe in found["settings"].values():
                recipe["pixels"] = recipe.pop("normalisation")
            found = {"recipes": found.pop("settings"), **found}
        kinds = {"recipes": dict, "test_labels": str, "sessions": list}
        if all(isinstance(found[name], kind) for name, kind in kinds.items()):
            return found
    except (AttributeError, KeyError, TypeError):
        pass
    raise StoreError(f"{path}: not the manifest of a study")


def join(first: Manifest, second: Manifest, where: str) -> Manifest:
    """The manifest of two studies together.

    The data are compared by the labels of the test images, because version 0.2 kept digests of
    another order. Of a recipe that both have, what both state is kept: version 0.2 stated less.

    Args:
      first: one of the two.
      second: the other.
      where: names both, for the message.

    Raises:
      StoreError: a variant has different recipes in the two, or the data differ.
    """
    if first["test_labels"] != second["test_labels"]:
        raise StoreError(f"{where}: the test images are different ones")
    recipes = first["recipes"] | second["recipes"]
    for variant in first["recipes"].keys() & second["recipes"].keys():
        known, other = first["recipes"][variant], second["recipes"][variant]
        recipes[variant] = {name: known[name] for name in known if name in other}
        for name, value in recipes[variant].items():
            if value != other[name]:
                message = f"{name} of {variant} is {value} in one and {other[name]} in the other"
                raise StoreError(f"{where}: {message}")
    sessions = [one for one in second["sessions"] if one not in first["sessions"]]
    return {**first, "recipes": recipes, "sessions": [*first["sessions"], *sessions]}
