"""The summary of each network: names in order, shapes, parameters and multiply-adds."""

import flax.linen as nn
import pytest

from mnist_jax.model import PLACEMENTS, LeNet, NormReLU, ResidualBlock
from mnist_jax.summary import summary

PARAMETERS = {"none": 44_426, "before_fc1": 49_098, "after_fc1": 304_106}
CHANNELS = {"before_fc1": 16, "after_fc1": 120}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_summary(placement):
    rows = {row.name: row for row in summary(LeNet(placement))}
    names = ["conv1", "conv2", "fc1", "fc2", "fc3"]
    block = [f"resnet_block/{name}" for name in ("conv1", "bn1", "conv2", "bn2")]
    at = {"none": 2, "before_fc1": 2, "after_fc1": 3}[placement]
    assert list(rows) == names[:at] + (block if placement != "none" else []) + names[at:]
    assert sum(row.parameters for row in rows.values()) == PARAMETERS[placement]
    lenet = 24 * 24 * 25 * 6 + 8 * 8 * 150 * 16 + 256 * 120 + 120 * 84 + 84 * 10
    pixels = {"none": 0, "before_fc1": 16, "after_fc1": 1}[placement]
    convolutions = 2 * 9 * CHANNELS.get(placement, 0) ** 2 * pixels
    assert sum(row.multiply_adds for row in rows.values()) == lenet + convolutions
    assert [rows[name].shape for name in names] == [(6, 12, 12), (16, 4, 4), (120,), (84,), (10,)]
    if placement != "none":
        shape = {"before_fc1": (16, 4, 4), "after_fc1": (120, 1, 1)}[placement]
        assert {rows[name].shape for name in block} == {shape}


def test_the_rows_follow_what_the_network_is_made_of():
    wide = {row.name: row for row in summary(LeNet("none", fc1_features=134))}
    assert wide["fc1"].shape == (134,)
    assert sum(row.parameters for row in wide.values()) == 49_200
    bare = [row.name for row in summary(LeNet("before_fc1", resnet_block=NormReLU()))]
    assert bare == ["conv1", "conv2", "resnet_block/bn1", "fc1", "fc2", "fc3"]
    plain = LeNet("after_fc1", resnet_block=ResidualBlock(normalise=False))
    assert {row.name: row.parameters for row in summary(plain)}["resnet_block/conv2"] == (
        9 * 120 * 120 + 120
    )
    dropout = LeNet("after_fc1", resnet_block=Dropped())
    assert {row.name: row.parameters for row in summary(dropout)}["resnet_block/Dropout_0"] == 0


class Dropped(nn.Module):
    """A block without parameters."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dropout(0.5, deterministic=True)(x)
