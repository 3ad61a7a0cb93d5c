"""Names, shapes and views of lambdas, against the published symbols' argument lists."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError

PUBLISHED = {
    "B_names_cifar_search_share_d110": ("share", False),
    "B_names_cifar_search_full_adflops_d110": ("full", True),
    "B_names_imagenet_search_share": ("share", False),
    "B_cifar_search_full_d26_L2": ("full", False),
    "B_cifar_search_full_d38_L2": ("full", False),
    "B_cifar_search_share_d38_L3": ("share", False),
}


def published_spec(entry, operations):
    details = entry["spec"]
    imagenet = details["folder"] == "Imagenet"
    count = (details["depth"] - 2) // 12
    blocks = (2, 2, 13, 6) if imagenet else (count - 1,) * 3
    widths = tuple(details["width"] * 2**stage for stage in range(len(blocks)))
    stem = "imagenet" if imagenet else "cifar"
    size = (3, details["hw"], details["hw"])
    return NetworkSpec(BlockTopology(details["L"], operations), stem, blocks, widths, 10, size)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_names_and_shapes_are_the_published_ones(name, golden_folder, topology):
    entry = json.loads((golden_folder / "manifest.json").read_text())[name]
    arrays = np.load(golden_folder / entry["file"], allow_pickle=False)
    published = {
        str(argument): tuple(int(size) for size in shape if size)
        for argument, shape in zip(arrays["symbol/arg_names"], arrays["symbol/arg_shapes"])
        if argument.startswith("lambda")
    }
    scope, packed = PUBLISHED[name]
    assert LambdaLayout(published_spec(entry, topology.operations), scope, packed).shapes() == published


def test_lambdas_are_as_many_as_in_the_published_supernets(golden_folder, topology):
    """The full scope on ImageNet has 64 a block rather than 124, a block's levels reaching back one level only."""
    published = json.loads((golden_folder / "F_params_flops.json").read_text())
    sizes = {(entry["folder"], entry["kind"], entry["num_layers"]): entry for entry in published}
    for folder, kind, reach in (
        ("Cifar", "search_share", "all"),
        ("Cifar", "search_full", "all"),
        ("Cifar", "search_full_adflops", "all"),
        ("Imagenet", "search_share", "all"),
        ("Imagenet", "search_full", "previous"),
    ):
        stem, blocks = ("cifar", (8, 8, 8)) if folder == "Cifar" else ("imagenet", (2, 2, 13, 6))
        block = BlockTopology(4, topology.operations, reach)
        spec = NetworkSpec(block, stem, blocks, (4,) * len(blocks), 10, (3, 32, 32))
        scope = "share" if kind == "search_share" else "full"
        shapes = LambdaLayout(spec, scope, packed=kind == "search_full_adflops").shapes()
        entry = sizes[(folder, kind, 4)]
        assert len(shapes) == entry["n_lambda_tensors"]
        assert sum(count for _, count in shapes.values()) == entry["n_lambda_scalars"]
    assert entry["n_lambda_scalars"] == 1478 == 23 * 64 + 3 * 2


@pytest.mark.parametrize("reach", ["all", "previous"])
@pytest.mark.parametrize("scope,packed", [("share", False), ("full", False), ("full", True)])
def test_views_are_inverse(spec, scope, packed, reach):
    spec = dataclasses.replace(spec, topology=dataclasses.replace(spec.topology, reach=reach))
    layout = LambdaLayout(spec, scope, packed)
    rng = np.random.default_rng(1)
    values = {name: rng.random(shape, dtype=np.float32) for name, shape in layout.shapes().items()}
    back = layout.from_units(layout.to_units(values))
    assert list(back) == list(values)
    for name, value in values.items():
        assert back[name].dtype == np.float32 and np.array_equal(back[name], value)


def test_all_layouts_show_the_same_vectors(spec):
    vectors = {unit.name: np.random.default_rng(2).random(124) for unit in spec.block_units()}
    vectors.update({unit.name: np.array([0.25, 0.5]) for unit in spec.reduction_units()})
    for scope, packed in (("share", False), ("full", False), ("full", True)):
        layout = LambdaLayout(spec, scope, packed)
        shown = layout.to_units(layout.from_units(vectors))
        assert list(shown) == [unit.name for unit in spec.units()]
        assert all(np.array_equal(shown[name], np.float32(vectors[name])) for name in vectors)


def test_share_refuses_blocks_that_differ(spec):
    vectors = {unit.name: np.ones(124 if unit.kind == "block" else 2) for unit in spec.units()}
    vectors["stage2_unit1"] = np.zeros(124)
    with pytest.raises(UserError, match="stage2_unit1"):
        LambdaLayout(spec, "share").from_units(vectors)
    assert LambdaLayout(spec, "full").from_units(vectors)["lambda_after_stage2_unit1"].sum() == 0


def test_missing_and_misshapen_lambdas_are_named(spec):
    layout = LambdaLayout(spec, "share")
    values = {name: np.ones(shape) for name, shape in layout.shapes().items()}
    with pytest.raises(UserError, match="lambda_layer_3_2: missing"):
        layout.to_units({name: value for name, value in values.items() if name != "lambda_layer_3_2"})
    with pytest.raises(UserError, match="lambda_after: 15 entries"):
        layout.to_units({**values, "lambda_after": np.ones((1, 15))})
    with pytest.raises(UserError, match="stage1_unit1: missing"):
        layout.from_units({})


def test_unknown_layouts_are_refused(spec):
    with pytest.raises(UserError, match="scope: unknown 'shared'"):
        LambdaLayout(spec, "shared")
    with pytest.raises(UserError, match="packed"):
        LambdaLayout(spec, "share", packed=True)
