"""The compiled programs of one network, and the loop over them."""

import contextlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import BATCH, MODEL, TX, assert_equal, first, programs

from experiments.groundwork import recipe
from mnist_jax import train
from mnist_jax.data import Split
from mnist_jax.model import PLACEMENTS, LeNet
from mnist_jax.programs import Epoch, Programs, ahead_of_time, compiled, fit, uncompiled

FASTER = optax.sgd(0.03, momentum=0.9)  # for the network without a normalising block


def of(placement) -> Programs:
    return programs(LeNet(placement), FASTER if placement == "none" else TX)


@pytest.fixture(scope="module")
def splits(synthetic):
    """The made-up splits as device arrays; training images of six whole batches."""
    return jax.tree.map(jnp.asarray, (first(synthetic[0], 6 * BATCH), synthetic[1]))


def run(splits, placement: str, seed: int = 0, *, epochs: int) -> list[Epoch]:
    init_key, order_key = jax.random.split(jax.random.key(seed))
    state = of(placement).init_state(init_key)
    return list(fit(of(placement), state, *splits, order_key, epochs=epochs))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_learns_and_a_run_that_is_continued_is_the_run(splits, placement):
    """Bit for bit: `fit` needs the state and the number of epochs behind it, and nothing else."""
    whole = run(splits, placement, epochs=12)
    assert [epoch.number for epoch in whole] == list(range(1, 13))
    assert {(int(e.train.count), int(e.test.metrics.count)) for e in whole} == {(192, 77)}
    assert whole[-1].train.mean_loss < 0.2 * whole[0].train.mean_loss
    assert whole[-1].train.accuracy_percent > 90
    # Running statistics lag behind such fast learning, so less is asked here; chance is 10 %.
    assert whole[-1].test.metrics.accuracy_percent > 50

    state = jax.tree.map(np.array, whole[9].state)  # as from a file
    _, key = jax.random.split(jax.random.key(0))
    assert_equal(list(fit(of(placement), state, *splits, key, epochs=12, done=10)), whole[10:])
    other = run(splits, placement, 1, epochs=1)
    assert other[0].train.loss != whole[0].train.loss

    order = train.epoch_order(jax.random.key(1), 1, 192)
    with jax.transfer_guard("disallow"):  # nothing is moved between host and device
        state, _ = of(placement).train_epoch(whole[0].state, splits[0], order)
        of(placement).evaluate(train.variables_of(state), splits[1])


def test_fit_follows_epoch_order_and_evaluates_after_the_epoch(synthetic, splits):
    start = state = programs().init_state(jax.random.key(0))
    given = first(synthetic[0], 192), synthetic[1]
    epochs = fit(programs(), start, *given, jax.random.key(1), epochs=2)
    for number in (1, 2):
        epoch = next(epochs)
        order = train.epoch_order(jax.random.key(1), number, 192)
        state, sums = programs().train_epoch(state, splits[0], order)
        tested = programs().evaluate(train.variables_of(state), splits[1])
        assert_equal(epoch, Epoch(number, state, sums, tested))
    assert next(epochs, None) is None


@pytest.mark.parametrize("wrong", [-1, 10])
@pytest.mark.parametrize("place", [0, 1])
def test_fit_refuses_labels_that_are_no_digits(splits, wrong, place):
    """Where the programs would take -1 for 9, and 10 would make the loss NaN."""
    given = list(splits)
    given[place] = Split(given[place].images, given[place].labels.at[3].set(wrong))
    state = programs().init_state(jax.random.key(0))
    with pytest.raises(ValueError, match="labels must be 0 to 9"):
        next(fit(programs(), state, *given, jax.random.key(1), epochs=1))


def test_compiled_ahead_of_time_is_the_same(splits):
    ours = ahead_of_time(programs(), 192, 77)
    start = ours.init_state(jax.random.key(0))
    assert_equal(start, programs().init_state(jax.random.key(0)))
    order = train.epoch_order(jax.random.key(1), 1, 192)
    after_one = programs().train_epoch(start, splits[0], order)
    assert_equal(ours.train_epoch(start, splits[0], order), after_one)
    variables = train.variables_of(start)
    assert_equal(ours.evaluate(variables, splits[1]), programs().evaluate(variables, splits[1]))
    with pytest.raises(TypeError):
        ours.evaluate(variables, splits[0])  # of another size
    others = ahead_of_time(programs(), 192, 77, ["recalibrate", "evaluate_batch"])
    assert others.train_epoch is programs().train_epoch  # was not named
    recalibrated = others.recalibrate(variables, splits[0])
    assert_equal(recalibrated, programs().recalibrate(variables, splits[0]))
    found = others.evaluate_batch(recalibrated, splits[1])
    assert_equal(found, programs().evaluate_batch(recalibrated, splits[1]))


def test_nothing_is_moved_between_host_and_device(synthetic, splits):
    """By the programs that the test above does not call either."""
    variables = train.variables_of(programs().init_state(jax.random.key(0)))
    with jax.transfer_guard("disallow"):
        programs().evaluate_batch(variables, splits[1])
        programs().recalibrate(variables, splits[0])
        with pytest.raises(Exception, match="Disallowed host-to-device"):  # the guard would notice
            programs().evaluate(variables, synthetic[1])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_everything_lowers_for_accelerators(splits, placement):
    """Nothing but the CPU's own kernels depends on the platform; no such device is needed."""
    pure = uncompiled(LeNet(placement), TX, batch_size=BATCH)
    state = jax.eval_shape(pure.init_state, jax.random.key(0))
    order = jax.ShapeDtypeStruct((192,), jnp.int32)
    variables = train.variables_of(state)
    for function, arguments in (
        (pure.train_epoch, (state, splits[0], order)),
        (pure.evaluate, (variables, splits[1])),
        (pure.recalibrate, (variables, splits[0])),
    ):
        exported = jax.export.export(jax.jit(function), platforms=["cuda", "rocm", "tpu"])
        program = exported(*arguments)
        assert program.platforms == ("cuda", "rocm", "tpu")
        if function is not pure.recalibrate or placement != "none":
            assert "stablehlo.convolution" in program.mlir_module()


@contextlib.contextmanager
def other_settings():
    """What a user may have set of JAX, and what would change bits."""
    jax.config.update("jax_random_seed_offset", 5)
    try:
        with (
            jax.threefry_partitionable(False),
            jax.default_prng_impl("rbg"),
            jax.default_matmul_precision("BF16_BF16_F32"),
            jax.enable_x64(True),
        ):
            yield
    finally:
        jax.config.update("jax_random_seed_offset", 0)


def test_settings_of_jax_change_no_bit_of_a_seed(splits):
    """Neither its keys nor its order nor its training, with a schedule that is computed, too."""
    cycle = replace(recipe.Recipe("none"), epochs=2, schedule="one_cycle")

    def bits():
        recipe.optimiser.cache_clear()
        ours = ahead_of_time(compiled(MODEL, recipe.optimiser(cycle), batch_size=64), 192, 77)
        init_key, order_key = recipe.keys_of(3)
        epochs = fit(ours, ours.init_state(init_key), *splits, order_key, epochs=2)
        return jax.device_get(list(epochs))

    expected = bits()
    with other_settings():
        found = bits()
    assert_equal(found, expected)
    assert_equal(jax.tree.map(np.result_type, found), jax.tree.map(np.result_type, expected))
    key = jax.random.split(jax.random.key(3))[0]
    assert_equal(jax.random.key_data(recipe.keys_of(3)[0]), jax.random.key_data(key))
