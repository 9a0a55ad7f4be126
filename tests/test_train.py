"""Training as a pure function, on the small made-up split."""

import functools
import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import BATCH, MODEL, TX, assert_close, assert_equal, distance, first, in_numpy, programs

from experiments.groundwork import recipe
from mnist_jax import metrics, train
from mnist_jax.compilation import jit
from mnist_jax.data import Split
from mnist_jax.model import PLACEMENTS, LeNet, centres


@functools.cache
def jitted_step(model):
    return jit(partial(train.train_step, model=model, tx=TX), quickly=True)


@pytest.fixture(scope="module")
def splits(synthetic):
    """The made-up splits as device arrays."""
    return jax.tree.map(jnp.asarray, synthetic)


@pytest.fixture(scope="module")
def start():
    return programs().init_state(jax.random.key(0))


@pytest.fixture(scope="module")
def order():
    return train.epoch_order(jax.random.key(1), 1, 200)


@pytest.fixture(scope="module")
def after_one(splits, start, order):
    """State and metrics after one epoch."""
    return programs().train_epoch(start, splits[0], order)


@pytest.fixture(scope="module")
def variables(after_one):
    return train.variables_of(after_one[0])


# SHA-256 of the order of training as int32, computed by version 0.2, which held the images in
# another order: by seed, epoch and number of images held out of MNIST's 60,000.
ORDERS = {
    (0, 1, 0): "bddf237bcdad7db5",
    (0, 2, 0): "7828d9937cf9ef08",
    (1000, 1, 0): "ab0afc6bfa608eb8",
    (1000, 2, 0): "740d5c1e509c79e4",
    (0, 1, 10_000): "30ca0a0dfd725522",
    (0, 2, 10_000): "9837aed113e47543",
    (1000, 1, 10_000): "de040d715f40c4f6",
    (1000, 2, 10_000): "bd7988bcaa98d5c7",
}


class TestEpochOrder:
    @pytest.mark.parametrize("seed, epoch, held_out", ORDERS)
    def test_is_pinned(self, seed, epoch, held_out):
        """Another order trains other weights, and a continued run would not be the run."""
        _, key = recipe.keys_of(seed)
        order = np.asarray(train.epoch_order(key, epoch, 60_000 - held_out, held_out))
        np.testing.assert_array_equal(np.sort(order), np.arange(60_000 - held_out))
        digest = hashlib.sha256(order.tobytes()).hexdigest()
        assert digest[:16] == ORDERS[seed, epoch, held_out], "see GOLDEN"

    def test_is_the_same_under_jit_and_for_a_traced_epoch(self):
        key = jax.random.key(0)
        jitted = jax.jit(train.epoch_order, static_argnums=2)(key, jnp.int32(3), 100)
        np.testing.assert_array_equal(jitted, train.epoch_order(jax.random.clone(key), 3, 100))


def test_an_epoch_is_a_loop_over_steps_and_the_last_partial_batch_counts(splits, start, order):
    state = before = start
    sums = metrics.zero()
    for begin in range(0, 200, BATCH):
        before, chosen = state, order[begin : begin + BATCH]
        batch = jax.tree.map(lambda x, chosen=chosen: x[chosen], splits[0])
        state, step = jitted_step(MODEL)(state, batch)
        sums += step
    found, found_sums = programs().train_epoch(start, splits[0], order)
    # Far from the state before the partial batch, close to the one after it.
    assert distance(found.params, before.params) > 100 * distance(found.params, state.params)
    assert_close(found, state, 1e-4)
    assert (found_sums.correct, found_sums.count) == (sums.correct, 200)
    np.testing.assert_allclose(found_sums.loss, sums.loss, rtol=1e-5)


def test_a_batch_size_that_exceeds_the_split(splits, start, order):
    state, sums = programs(batch_size=300).train_epoch(start, splits[0], order)
    expected, _ = jitted_step(MODEL)(start, jax.tree.map(lambda x: x[order], splits[0]))
    assert sums.count == 200
    assert_close(state, expected)


def test_a_last_batch_of_one_cannot_be_normalised(splits, start, order):
    with pytest.raises(ValueError, match="one value a channel"):
        programs(batch_size=199).train_epoch(start, splits[0], order)
    with pytest.raises(ValueError, match="one value a channel"):
        programs(batch_size=199).recalibrate(train.variables_of(start), splits[0])


# After fc1 no gradient reaches eight of the nine weights of a 3x3 kernel.
AFTER = LeNet("after_fc1")
SIZE = 120  # channels of the block there


def kernels_of(tree) -> list:
    """The 3x3 kernels among the leaves, or their centres: two, and the momentum of each."""
    found = [x for x in jax.tree.leaves(tree) if jnp.shape(x)[2:] == (SIZE, SIZE)]
    assert len(found) == 4
    return found


def carried(tx, state, split, order) -> list:
    """The shapes of those kernels in what goes from step to step of an epoch."""
    epoch = partial(train.train_epoch, model=AFTER, tx=tx, batch_size=BATCH)
    equations = jax.make_jaxpr(epoch)(state, split, order).eqns
    (loop,) = [each for each in equations if each.primitive.name == "scan"]
    return [x.shape for x in kernels_of([x.aval for x in loop.outvars])]


def keeping_more(tx):
    """The same optimiser, whose state has an array that is none of a parameter's."""

    def init(params):
        kernel = params["resnet_block"]["conv1"]["kernel"]
        return tx.init(params), jnp.zeros(kernel.size)

    def update(gradients, state, params=None):
        updates, inner = tx.update(gradients, state[0], params)
        return updates, (inner, state[1])

    return optax.GradientTransformation(init, update)


def test_an_epoch_does_without_weights_that_no_gradient_reaches(splits, order):
    """They stay as they are: bit for bit the result of an optimiser that sees all of them."""
    order = order[: 2 * BATCH]
    state = programs(AFTER).init_state(jax.random.key(0))
    assert carried(TX, state, splits[0], order) == [(1, 1, SIZE, SIZE)] * 4
    more = keeping_more(TX)
    whole = train.start_from(train.variables_of(state), more)
    assert carried(more, whole, splits[0], order) == [(3, 3, SIZE, SIZE)] * 4
    epoch = partial(train.train_epoch, model=AFTER, batch_size=BATCH)
    found, sums = jit(partial(epoch, tx=TX), quickly=True)(state, splits[0], order)
    expected, expected_sums = jit(partial(epoch, tx=more), quickly=True)(whole, splits[0], order)
    assert_equal(train.variables_of(found), train.variables_of(expected))
    assert_equal((found.opt_state, sums), (expected.opt_state[0], expected_sums))
    for new, old in zip(kernels_of(found), kernels_of(state), strict=True):
        same = np.asarray(new == old).all((2, 3))
        assert same.sum() == 8 and not same[1, 1]
    others = {"resnet_block": {"conv1": {"kernel": np.zeros((3, 3, 16, 16))}}}
    assert centres(LeNet("before_fc1"), others) is others


def test_an_optimiser_may_keep_what_it_likes(splits, order):
    tx = optax.adafactor(1e-3)
    with jax.numpy_dtype_promotion("standard"):  # which optax's needs
        state = jax.eval_shape(partial(train.init_state, AFTER, tx), jax.random.key(0))
        epoch = partial(train.train_epoch, model=AFTER, tx=tx, batch_size=BATCH)
        after, _ = jax.eval_shape(epoch, state, splits[0], order)
    assert after == state


@pytest.mark.parametrize("batch_size", [7, 500])
def test_evaluation_in_any_batch_size_gives_the_same(splits, variables, batch_size):
    test = splits[1]
    running = variables["batch_stats"]["BatchNorm_0"]
    expected, *_ = in_numpy(variables, test.images, (running["mean"], running["var"]))
    found, logits = programs(test_batch_size=batch_size).evaluate(variables, test)
    assert (found.correct, found.count) == ((expected.argmax(-1) == test.labels).sum(), 77)
    assert_close(logits, expected)
    assert found.correct > 0


@pytest.mark.parametrize("batch_size", [32, 500])
def test_statistics_of_each_batch(splits, variables, batch_size):
    """What PyTorch computes without a call of `eval()`: each batch is normalised by itself."""
    test = splits[1]
    cuts = range(batch_size, 77, batch_size)
    parts = [in_numpy(variables, part)[0] for part in np.split(np.asarray(test.images), cuts)]
    expected = np.concatenate(parts)
    found = programs(batch_size=batch_size).evaluate_batch(variables, test)
    assert_close(found.logits, expected, 1e-4)
    assert found.metrics.correct == (expected.argmax(-1) == test.labels).sum()
    assert found.metrics.count == 77


def test_statistics_that_do_not_exist_are_refused(splits, variables):
    """A user of the command line knows a third name."""
    predict = partial(train.predict, model=MODEL, statistics="recalibrated")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be 'running' or 'batch', not 'recalibrated'"):
        predict(variables, splits[1].images[:5])


@pytest.mark.parametrize("batch_size", [32, 300])
def test_recalibration_is_a_mean_in_which_every_image_counts_once(splits, variables, batch_size):
    images = np.asarray(splits[0].images)
    batches = np.split(images, range(batch_size, 200, batch_size))
    moments = [in_numpy(variables, batch)[1:] for batch in batches]
    mean, var = np.average(moments, axis=0, weights=[len(batch) for batch in batches])
    found = programs(batch_size=batch_size).recalibrate(variables, splits[0])
    assert_close(found["batch_stats"], {"BatchNorm_0": {"mean": mean, "var": var}})
    assert_equal(found["params"], variables["params"])
    assert distance(found["batch_stats"], variables["batch_stats"]) > 0.1
    # What it starts from does not matter.
    others = jax.tree.map(lambda x: x + 3, variables["batch_stats"])
    given = variables | {"batch_stats": others}
    assert_equal(programs(batch_size=batch_size).recalibrate(given, splits[0]), found)


def test_recalibration_leaves_a_network_without_normalisation_alone(splits):
    without = {"params": {}, "batch_stats": {}}
    assert train.recalibrate(without, splits[0], model=LeNet("none")) is without


def test_numpy_arrays_and_no_jit_give_the_same(synthetic, start, variables):
    batch = first(synthetic[0], 8)
    found = train.train_step(start, batch, model=MODEL, tx=TX)
    assert_close(found, jitted_step(MODEL)(start, batch))
    images = synthetic[1].images
    tested = programs().evaluate(variables, synthetic[1])
    assert_close(train.predict(variables, images[:5], model=MODEL), tested.logits[:5])


def test_sizes_that_do_not_fit_are_refused(synthetic, start, order):
    """They would be cut or repeated silently."""
    split, variables = synthetic[0], train.variables_of(start)
    longer = Split(split.images, np.concatenate([split.labels, split.labels[:40]]))
    with pytest.raises(ValueError, match=r"labels of 200 images must be \[200\]"):
        programs().evaluate(variables, longer)
    with pytest.raises(ValueError, match=r"labels of 200 images must be \[200\]"):
        programs().train_epoch(start, longer, order)
    with pytest.raises(ValueError, match=r"order of 100 examples cannot be \[200\] int32"):
        programs().train_epoch(start, first(split, 100), order)
    with pytest.raises(ValueError, match=r"\[200\] float32"):
        programs().train_epoch(start, split, order.astype(jnp.float32))


def test_float64_all_the_way(synthetic):
    with jax.enable_x64(True):
        model = LeNet("before_fc1", dtype=jnp.float64)
        state = jax.eval_shape(partial(train.init_state, model, TX), jax.random.key(0))
        epoch = partial(train.train_epoch, model=model, tx=TX, batch_size=BATCH)
        state, sums = jax.eval_shape(epoch, state, synthetic[0], np.arange(200))
        evaluate = partial(train.evaluate, model=model)
        tested = jax.eval_shape(evaluate, train.variables_of(state), synthetic[1])
        floats = jax.tree.leaves((state, sums.loss, tested.metrics.loss, tested.logits))
        assert {leaf.dtype for leaf in floats} == {jnp.dtype("float64")}
        counts = sums.correct, sums.count, tested.metrics.correct, tested.metrics.count
        assert {count.dtype for count in counts} == {jnp.dtype("int32")}


def test_no_tracer_leaks(splits):
    model = LeNet("before_fc1")
    state = jax.eval_shape(partial(train.init_state, model, TX), jax.random.key(0))

    def epoch(*arguments):  # a function not traced before
        return train.train_epoch(*arguments, model=model, tx=TX, batch_size=BATCH)

    with jax.checking_leaks():
        jax.eval_shape(epoch, state, splits[0], np.arange(2 * BATCH))


# Of one step from seed 0 on the first 64 made-up images: the loss before it, how far it moved the
# parameters, and how far the running statistics.
GOLDEN = {
    "none": (2.3194237, 0.00194484, 0),
    "before_fc1": (2.3117266, 0.0102166, 0.551697),
    "after_fc1": (2.3589587, 0.0536299, 1.544679),
}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_golden_step(splits, placement):
    model = LeNet(placement)
    state = programs(model).init_state(jax.random.key(0))
    after, sums = jitted_step(model)(state, first(splits[0], 64))

    found = (
        sums.mean_loss,
        distance(after.params, state.params),
        distance(after.batch_stats, state.batch_stats),
    )
    np.testing.assert_allclose(
        found,
        GOLDEN[placement],
        rtol=2e-4,
        err_msg=f"one step of {placement} gives {found}. If you meant to change the networks, "
        "their initialisation, normalisation or the optimiser, put these into GOLDEN and say so "
        "in the commit; if not, something else changed the results: find it with the other tests.",
    )
