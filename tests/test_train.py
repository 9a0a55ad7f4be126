"""Training as a pure function, on the small synthetic split of conftest.py."""

import functools
import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.groundwork import recipe
from mnist_jax import layers, metrics, train
from mnist_jax.data import PIXELS, normalise
from mnist_jax.model import PLACEMENTS, LeNet, centres
from mnist_jax.programs import Epoch, ahead_of_time, compiled, fit, uncompiled

BATCH = 32  # 200 = 6 * 32 + 8
TX = optax.sgd(0.01, momentum=0.9)
FASTER = optax.sgd(0.03, momentum=0.9)  # for the network without a normalising block


class Tiny(nn.Module):
    """Compiles in a moment; for what does not depend on the network."""

    @nn.compact
    def __call__(self, images, *, train):
        x = normalise(images[:, ::4, ::4, 0], PIXELS["half"]).reshape(images.shape[0], 49).T
        x = layers.Dense(16)(x)[:, None, None]  # [16, 1, 1, B]
        x = nn.relu(layers.BatchNorm()(x, train=train))
        return layers.Dense(10)(x[:, 0, 0]).T


MODEL = Tiny()


@functools.cache
def programs(model=MODEL, tx=TX, **batch_sizes):
    """What a user has: the programs of `programs.compiled`, compiled once for all tests."""
    return compiled(model, tx, **{"batch_size": BATCH} | batch_sizes)


@functools.cache
def jitted_step(model, tx):
    return jax.jit(functools.partial(train.train_step, model=model, tx=tx))


def train_step(state, batch, *, model=MODEL, tx=TX):
    return jitted_step(model, tx)(state, batch)


def first(split, count):
    return jax.tree.map(lambda x: x[:count], split)


@pytest.fixture(scope="module")
def splits(synthetic):
    """The synthetic splits as device arrays."""
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


def assert_close(found, expected, tolerance=1e-5):
    """Within `tolerance`, and a loss summed over a split within some rounding errors of float32."""
    close = functools.partial(np.testing.assert_allclose, rtol=5e-7, atol=tolerance)
    jax.tree.map(close, found, expected)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def differs(a, b) -> bool:
    return any(np.any(x != y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def distance(a, b) -> float:
    """Euclidean, over all leaves."""
    squares = jax.tree.map(lambda x, y: jnp.square(x - y).sum(), a, b)
    return float(sum(jax.tree.leaves(squares))) ** 0.5


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
    @pytest.mark.parametrize("size", [1, 64, 1000])
    def test_is_a_permutation(self, size):
        order = train.epoch_order(jax.random.key(0), 1, size)
        np.testing.assert_array_equal(np.sort(order), np.arange(size))
        assert order.dtype == jnp.int32

    def test_is_the_same_for_the_same_key_and_epoch_and_no_other(self):
        def order(seed, epoch):
            return tuple(np.asarray(train.epoch_order(jax.random.key(seed), epoch, 100)))

        pairs = [(seed, epoch) for seed in range(3) for epoch in range(1, 5)]
        orders = [order(*pair) for pair in pairs]
        assert orders == [order(*pair) for pair in pairs]
        assert len({*orders, tuple(range(100))}) == len(pairs) + 1

    @pytest.mark.parametrize("seed, epoch, held_out", ORDERS)
    def test_is_pinned(self, seed, epoch, held_out):
        """Another order trains other weights, and a continued run would not be the run."""
        _, key = recipe.keys_of(seed)
        order = np.asarray(train.epoch_order(key, epoch, 60_000 - held_out, held_out))
        digest = hashlib.sha256(order.tobytes()).hexdigest()
        assert digest[:16] == ORDERS[seed, epoch, held_out], "see GOLDEN"

    def test_is_the_same_under_jit_and_for_a_traced_epoch(self):
        key = jax.random.key(0)
        jitted = jax.jit(train.epoch_order, static_argnums=2)(key, jnp.int32(3), 100)
        np.testing.assert_array_equal(jitted, train.epoch_order(jax.random.clone(key), 3, 100))


@pytest.mark.parametrize("model", [MODEL, LeNet("after_fc1")])
def test_an_epoch_is_a_loop_over_steps_and_the_last_partial_batch_counts(splits, order, model):
    train_split, _ = splits
    start = programs(model).init_state(jax.random.key(0))
    state, sums = start, metrics.zero()
    for begin in range(0, 200, BATCH):
        before, chosen = state, order[begin : begin + BATCH]
        batch = jax.tree.map(lambda x, chosen=chosen: x[chosen], train_split)
        state, step = train_step(state, batch, model=model)
        sums += step
    assert step.count == 8 and differs(before.params, state.params)
    found, found_sums = programs(model).train_epoch(start, train_split, order)
    assert found_sums.count == 200
    # Far from the state before the partial batch, close to the one after it.
    assert distance(found.params, before.params) > 100 * distance(found.params, state.params)
    assert_close(found, state, 1e-4)
    assert found_sums.correct == sums.correct
    np.testing.assert_allclose(found_sums.loss, sums.loss, rtol=1e-5)


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
    epoch = functools.partial(train.train_epoch, model=AFTER, tx=tx, batch_size=BATCH)
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


def test_weights_that_no_gradient_reaches_stay_as_they_are(splits, order):
    state = programs(AFTER).init_state(jax.random.key(0))
    after, _ = programs(AFTER).train_epoch(state, splits[0], order)
    for new, old in zip(kernels_of(after), kernels_of(state), strict=True):
        same = np.asarray(new == old).all((2, 3))
        assert same.sum() == 8 and not same[1, 1]


def test_an_epoch_does_without_weights_that_no_gradient_reaches(splits, order):
    """Bit for bit the result of an optimiser that sees all of them."""
    state = programs(AFTER).init_state(jax.random.key(0))
    assert carried(TX, state, splits[0], order) == [(1, 1, SIZE, SIZE)] * 4
    more = keeping_more(TX)
    whole = train.start_from(train.variables_of(state), more)
    assert carried(more, whole, splits[0], order) == [(3, 3, SIZE, SIZE)] * 4
    found, sums = programs(AFTER).train_epoch(state, splits[0], order)
    expected, expected_sums = programs(AFTER, more).train_epoch(whole, splits[0], order)
    assert_equal(train.variables_of(found), train.variables_of(expected))
    assert_equal((found.opt_state, sums), (expected.opt_state[0], expected_sums))


@pytest.mark.parametrize("tx", [optax.adam(1e-3), optax.adafactor(1e-3)], ids=["adam", "adafactor"])
def test_an_optimiser_may_keep_what_it_likes(tx, splits, order):
    with jax.numpy_dtype_promotion("standard"):  # these of optax's need it
        state = programs(AFTER, tx).init_state(jax.random.key(0))
        after, _ = programs(AFTER, tx).train_epoch(state, splits[0], order)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert differs(after.params, state.params)


@pytest.mark.parametrize("placement", ["none", "before_fc1"])
def test_elsewhere_a_gradient_reaches_every_weight(placement, splits):
    network = LeNet(placement)
    batch = first(splits[0], 8)
    variables = network.init(jax.random.key(0), batch.images, train=True)
    assert centres(network, variables) is variables


@pytest.mark.parametrize("batch_size, steps", [(100, 2), (200, 1), (300, 1)])
def test_batch_sizes_that_leave_no_rest_or_exceed_the_split(
    splits, start, order, batch_size, steps
):
    state, sums = programs(batch_size=batch_size).train_epoch(start, splits[0], order)
    expected = start
    for chosen in jnp.split(order, steps):
        batch = jax.tree.map(lambda x, chosen=chosen: x[chosen], splits[0])
        expected, _ = train_step(expected, batch)
    assert sums.count == 200
    assert_close(state, expected)


def test_a_last_batch_of_one_cannot_be_normalised(splits, start, order):
    with pytest.raises(ValueError, match="one value a channel"):
        programs(batch_size=199).train_epoch(start, splits[0], order)


class Linear(nn.Module):
    """No running statistics: training and evaluation see the same function."""

    @nn.compact
    def __call__(self, images, *, train):
        x = normalise(images[:, ::4, ::4, 0], PIXELS["half"])
        return nn.Dense(10)(x.reshape(images.shape[0], 49))


def test_every_example_is_seen_once(splits, order):
    unmoved = programs(Linear(), optax.sgd(0.0))  # at learning rate 0 the order cannot matter
    state = unmoved.init_state(jax.random.key(0))
    _, sums = unmoved.train_epoch(state, splits[0], order)
    expected = unmoved.evaluate(train.variables_of(state), splits[0]).metrics
    assert (sums.correct, sums.count) == (expected.correct, expected.count)
    np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-5)


def test_jit_equals_no_jit(splits, start):
    batch = first(splits[0], 8)
    plain = train.train_step(start, batch, model=MODEL, tx=TX)
    assert_close(plain, train_step(start, batch))


def test_a_learning_rate_of_0_leaves_the_parameters_untouched(splits, start):
    tx = optax.sgd(0.0, momentum=0.9)
    state = train.start_from(train.variables_of(start), tx)
    after, _ = train_step(state, first(splits[0], 8), tx=tx)
    assert_equal(after.params, start.params)
    assert differs(after.batch_stats, start.batch_stats)


def test_training_leaves_its_arguments_untouched(splits, order):
    state = programs().init_state(jax.random.key(0))
    before = jax.tree.map(np.array, (state, splits, order))
    programs().train_epoch(state, splits[0], order)
    assert_equal((state, splits, order), before)


def test_momentum_is_pytorchs():
    # velocity = momentum * velocity + gradient; parameter -= rate * velocity
    gradients = [np.float32(g) for g in (1, -3, 0.5)]
    parameter, velocity = np.float32(2), np.float32(0)
    params = jnp.float32(2)
    state = TX.init(params)
    for gradient in gradients:
        updates, state = TX.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        velocity = np.float32(0.9) * velocity + gradient
        parameter -= np.float32(0.01) * velocity
        np.testing.assert_allclose(params, parameter, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 77, 500])
def test_evaluation_in_any_batch_size_gives_the_same(splits, after_one, batch_size):
    variables, test = train.variables_of(after_one[0]), splits[1]
    expected, expected_logits = programs(test_batch_size=20).evaluate(variables, test)
    found, logits = programs(test_batch_size=batch_size).evaluate(variables, test)
    assert (found.correct, found.count) == (expected.correct, 77)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    assert_close(logits, expected_logits)
    assert found.correct > 0


def test_predictions_keep_the_order_of_the_images(splits, after_one):
    variables, test = train.variables_of(after_one[0]), splits[1]
    predict = jax.jit(functools.partial(train.predict, model=MODEL, batch_size=20))
    logits = predict(variables, test.images)
    assert_close(logits, MODEL.apply(variables, test.images, train=False))
    evaluated = programs(test_batch_size=20).evaluate(variables, test)
    assert_close(evaluated.logits, logits)
    assert evaluated.metrics.correct == (logits.argmax(-1) == test.labels).sum()


def test_statistics_that_do_not_exist_are_refused(splits, after_one):
    """A user of the command line knows a third name."""
    with pytest.raises(ValueError, match="must be 'running' or 'batch', not 'recalibrated'"):
        train.predict(
            train.variables_of(after_one[0]),
            splits[1].images[:5],
            model=MODEL,
            statistics="recalibrated",  # type: ignore[arg-type]
        )


def test_five_images_are_predicted(splits, after_one):
    """As they come from the split, with the batch size left alone."""
    variables, images = train.variables_of(after_one[0]), np.asarray(splits[1].images)
    logits = train.predict(variables, images[:5], model=MODEL)
    assert logits.shape == (5, 10)
    assert_close(logits, train.predict(variables, images, model=MODEL)[:5])


def in_numpy(variables, images, statistics=None):
    """`Tiny` in numpy and float64: logits, and mean and variance of what is normalised.

    It normalises with `statistics`, or with those of the images.
    """
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = (np.asarray(images, np.float64)[:, ::4, ::4, 0] / 255 - 0.5) / 0.5
    x = x.reshape(-1, 49) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]  # [N, 16]
    mean, var = map(np.asarray, statistics or (x.mean(0), x.var(0)))
    norm = params["BatchNorm_0"]
    y = (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
    logits = np.maximum(y, 0) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    return logits, x.mean(0), x.var(0, ddof=1)


def test_the_plain_computation_is_the_networks(splits, after_one):
    variables, test = train.variables_of(after_one[0]), splits[1]
    running = variables["batch_stats"]["BatchNorm_0"]
    expected, *_ = in_numpy(variables, test.images, (running["mean"], running["var"]))
    assert_close(train.predict(variables, test.images, model=MODEL), expected)


@pytest.mark.parametrize("batch_size", [7, 32, 77, 500])
def test_statistics_of_each_batch(splits, after_one, batch_size):
    """What PyTorch computes without a call of `eval()`: each batch is normalised by itself."""
    variables, test = train.variables_of(after_one[0]), splits[1]
    cuts = range(batch_size, 77, batch_size)
    parts = [in_numpy(variables, part)[0] for part in np.split(np.asarray(test.images), cuts)]
    expected = np.concatenate(parts)
    found = programs(batch_size=batch_size).evaluate_batch(variables, test)
    assert_close(found.logits, expected, 1e-4)
    assert found.metrics.correct == (expected.argmax(-1) == test.labels).sum()
    assert found.metrics.count == 77
    predicted = train.predict(
        variables, test.images, model=MODEL, batch_size=batch_size, statistics="batch"
    )
    assert_close(predicted, expected, 1e-4)
    running = programs().evaluate(variables, test)
    assert np.abs(found.logits - running.logits).max() > 0.01


class TestRecalibrate:
    @pytest.mark.parametrize("batch_size", [32, 64, 100, 300])
    def test_is_a_mean_over_batches_in_which_every_image_counts_once(
        self, splits, after_one, batch_size
    ):
        variables, images = train.variables_of(after_one[0]), np.asarray(splits[0].images)
        batches = np.split(images, range(batch_size, 200, batch_size))
        moments = [in_numpy(variables, batch)[1:] for batch in batches]
        mean, var = np.average(moments, axis=0, weights=[len(batch) for batch in batches])
        found = programs(batch_size=batch_size).recalibrate(variables, splits[0])
        expected = {"BatchNorm_0": {"mean": mean, "var": var}}
        assert_close(found["batch_stats"], expected)
        assert_equal(found["params"], variables["params"])
        # The first layer that is normalised sees each image alone, so its mean is that of them all.
        assert_close(found["batch_stats"]["BatchNorm_0"]["mean"], in_numpy(variables, images)[1])
        assert distance(found["batch_stats"], variables["batch_stats"]) > 0.1

    @pytest.mark.parametrize("placement", ["before_fc1", "after_fc1"])
    def test_averages_what_training_would_have_accumulated(self, splits, placement):
        """Applied from statistics of 0, training leaves a tenth of each batch's own."""
        model = LeNet(placement)
        variables = train.variables_of(programs(model).init_state(jax.random.key(0)))
        zero = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

        @jax.jit
        def tenth(images):
            given = variables | {"batch_stats": zero}
            return model.apply(given, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]

        expected = zero
        for batch in jnp.split(splits[0].images, list(range(BATCH, 200, BATCH))):
            share = 10 * len(batch) / 200
            expected = jax.tree.map(lambda x, y, share=share: x + share * y, expected, tenth(batch))
        found = programs(model).recalibrate(variables, splits[0])
        assert_close(found["batch_stats"], expected, 2e-5)
        assert_equal(found["params"], variables["params"])

    def test_a_split_twice_has_the_same_statistics(self, splits, after_one):
        """They are means, not sums: they know nothing of the number of batches."""
        variables, whole = train.variables_of(after_one[0]), first(splits[0], 6 * BATCH)
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), whole)
        once = programs().recalibrate(variables, whole)
        assert_close(programs().recalibrate(variables, twice), once, 1e-6)

    def test_does_not_depend_on_the_statistics_before(self, splits, after_one):
        variables = train.variables_of(after_one[0])
        others = variables | {
            "batch_stats": jax.tree.map(lambda x: x + 3, variables["batch_stats"])
        }
        found = [programs().recalibrate(given, splits[0]) for given in (variables, others)]
        assert_equal(*found)

    def test_leaves_a_network_without_a_block_alone(self, splits):
        model = LeNet("none")
        variables = train.variables_of(programs(model).init_state(jax.random.key(0)))
        assert_equal(programs(model).recalibrate(variables, splits[0]), variables)
        assert train.recalibrate(variables, splits[0], model=model) is variables

    def test_a_last_batch_of_one_is_refused(self, splits, after_one):
        with pytest.raises(ValueError, match="one value a channel"):
            programs(batch_size=199).recalibrate(train.variables_of(after_one[0]), splits[0])


@jax.custom_vjp
def without_gradient(x):
    return x


def refuse(*_):
    raise AssertionError("a gradient was asked for")


without_gradient.defvjp(refuse, refuse)


class WithoutGradient(nn.Module):
    """A network that cannot be differentiated."""

    @nn.compact
    def __call__(self, images, *, train):
        x = normalise(images, PIXELS["half"])
        return without_gradient(nn.Dense(10)(x.reshape(len(images), -1)))


def test_evaluation_computes_no_gradient(splits):
    model = WithoutGradient()
    state = programs(model).init_state(jax.random.key(0))
    with pytest.raises(AssertionError, match="a gradient was asked for"):
        train.train_step(state, first(splits[0], 8), model=model, tx=TX)
    assert programs(model).evaluate(train.variables_of(state), splits[1]).metrics.count == 77


def run(splits, placement: str, seed: int = 0, *, epochs: int = 12) -> list[Epoch]:
    init_key, order_key = jax.random.split(jax.random.key(seed))
    ours = programs(LeNet(placement), FASTER if placement == "none" else TX)
    state = ours.init_state(init_key)
    return list(fit(ours, state, *splits, order_key, epochs=epochs))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_learns_the_synthetic_split(splits, placement):
    epochs = run(splits, placement)
    assert [epoch.number for epoch in epochs] == list(range(1, 13))
    counts = {(int(epoch.train.count), int(epoch.test.metrics.count)) for epoch in epochs}
    assert counts == {(200, 77)}
    assert epochs[-1].train.mean_loss < 0.2 * epochs[0].train.mean_loss
    assert epochs[-1].train.accuracy_percent > 90
    # Running statistics lag behind such fast learning, so less is asked here; chance is 10 %.
    assert epochs[-1].test.metrics.accuracy_percent > 50


def test_the_same_seed_gives_the_same_bits(splits):
    once, again = (run(splits, "after_fc1", epochs=3) for _ in range(2))
    assert_equal(once, again)
    assert differs(once[-1].state.params, run(splits, "after_fc1", 1, epochs=3)[-1].state.params)


def test_fit_follows_epoch_order_and_evaluates_after_the_epoch(splits, start):
    epochs = fit(programs(), start, *splits, jax.random.key(1), epochs=2)
    state = start
    for number in (1, 2):
        epoch = next(epochs)
        order = train.epoch_order(jax.random.key(1), number, 200)
        state, sums = programs().train_epoch(state, splits[0], order)
        tested = programs().evaluate(train.variables_of(state), splits[1])
        assert_equal(epoch, Epoch(number, state, sums, tested))
    assert next(epochs, None) is None


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("done", [1, 3])
def test_a_run_that_is_continued_is_the_run(splits, placement, done):
    """Bit for bit: `fit` needs the state and the number of epochs behind it, and nothing else."""
    ours, key = programs(LeNet(placement)), functools.partial(jax.random.key, 1)
    start = ours.init_state(jax.random.key(0))
    whole = list(fit(ours, start, *splits, key(), epochs=4))
    state = jax.tree.map(np.array, whole[done - 1].state)  # as from a file
    rest = list(fit(ours, state, *splits, key(), epochs=4, done=done))
    assert_equal(rest, whole[done:])
    assert list(fit(ours, state, *splits, key(), epochs=done, done=done)) == []


class TestNumpy:
    """Splits as `load_mnist` returns them, numpy arrays, in every function as first guessed."""

    @pytest.fixture
    def pure(self):
        return {"model": MODEL, "tx": TX, "batch_size": BATCH}

    def test_train_epoch(self, synthetic, start, order, after_one, pure):
        assert {type(array) for array in synthetic[0]} == {np.ndarray}
        found = train.train_epoch(start, synthetic[0], np.asarray(order), **pure)
        assert_close(found, after_one, 1e-4)

    def test_train_epoch_in_a_jit_of_the_users(self, synthetic, start, order, after_one, pure):
        epoch = jax.jit(functools.partial(train.train_epoch, **pure))
        assert_close(epoch(start, synthetic[0], order), after_one, 1e-4)

    def test_train_step(self, synthetic, start, splits):
        found = train.train_step(start, first(synthetic[0], 8), model=MODEL, tx=TX)
        assert_close(found, train_step(start, first(splits[0], 8)))

    def test_evaluate_and_predict(self, synthetic, after_one, splits):
        variables = train.variables_of(after_one[0])
        found = train.evaluate(variables, synthetic[1], model=MODEL)
        assert_close(found, programs().evaluate(variables, splits[1]))
        predicted = train.predict(variables, synthetic[1].images, model=MODEL)
        assert_close(predicted, found.logits)

    def test_recalibrate(self, synthetic, after_one, splits):
        variables = train.variables_of(after_one[0])
        found = train.recalibrate(variables, synthetic[0], model=MODEL, batch_size=BATCH)
        assert_close(found, programs().recalibrate(variables, splits[0]))

    def test_fit(self, synthetic, start, splits):
        ours, theirs = (
            list(fit(programs(), start, *given, jax.random.key(1), epochs=2))
            for given in (synthetic, splits)
        )
        assert_equal(ours, theirs)


def test_compiled_ahead_of_time_is_the_same(splits, start, order, after_one):
    ours = ahead_of_time(programs(), 200, 77)
    assert_equal(ours.init_state(jax.random.key(0)), start)
    assert_equal(ours.train_epoch(start, splits[0], order), after_one)
    variables = train.variables_of(start)
    assert_equal(ours.evaluate(variables, splits[1]), programs().evaluate(variables, splits[1]))
    with pytest.raises(TypeError):
        ours.evaluate(variables, splits[0])  # of another size
    others = ahead_of_time(programs(), 200, 77, ["recalibrate", "evaluate_batch"])
    assert others.train_epoch is programs().train_epoch  # was not named
    recalibrated = others.recalibrate(variables, splits[0])
    assert_equal(recalibrated, programs().recalibrate(variables, splits[0]))
    found = others.evaluate_batch(recalibrated, splits[1])
    assert_equal(found, programs().evaluate_batch(recalibrated, splits[1]))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nothing_is_moved_between_host_and_device(splits, placement):
    """Neither in an epoch nor in an evaluation, once data, state and order are on the device."""
    ours = programs(LeNet(placement))
    state = ours.init_state(jax.random.key(0))
    order = train.epoch_order(jax.random.key(1), 1, 200)
    with jax.transfer_guard("disallow"):
        state, _ = ours.train_epoch(state, splits[0], order)
        variables = train.variables_of(state)
        ours.evaluate(variables, splits[1])
        ours.evaluate_batch(variables, splits[1])
        ours.recalibrate(variables, splits[0])


def test_the_guard_would_notice(synthetic, start, order):
    with (
        jax.transfer_guard("disallow"),
        pytest.raises(Exception, match="Disallowed host-to-device"),
    ):
        programs().train_epoch(start, synthetic[0], order)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_everything_lowers_for_accelerators(splits, placement):
    """Nothing but the CPU's own kernels depends on the platform; no such device is needed."""
    pure = uncompiled(LeNet(placement), TX, batch_size=BATCH)
    state = jax.eval_shape(pure.init_state, jax.random.key(0))
    order = jax.ShapeDtypeStruct((200,), jnp.int32)
    variables = train.variables_of(state)
    for function, arguments in (
        (pure.train_epoch, (state, splits[0], order)),
        (pure.evaluate, (variables, splits[1])),
        (pure.evaluate_batch, (variables, splits[1])),
        (pure.recalibrate, (variables, splits[0])),
    ):
        for platform in ("cuda", "rocm", "tpu"):
            exported = jax.export.export(jax.jit(function), platforms=[platform])(*arguments)
            assert exported.platforms == (platform,)
            if function is not pure.recalibrate or placement != "none":
                assert "stablehlo.convolution" in exported.mlir_module()


def test_float64_all_the_way(synthetic):
    with jax.enable_x64(True):
        model = LeNet("before_fc1", dtype=jnp.float64)
        state = jax.eval_shape(functools.partial(train.init_state, model, TX), jax.random.key(0))
        epoch = functools.partial(train.train_epoch, model=model, tx=TX, batch_size=BATCH)
        state, sums = jax.eval_shape(epoch, state, synthetic[0], np.arange(200))
        evaluate = functools.partial(train.evaluate, model=model)
        tested = jax.eval_shape(evaluate, train.variables_of(state), synthetic[1])
        floats = jax.tree.leaves((state, sums.loss, tested.metrics.loss, tested.logits))
        assert {leaf.dtype for leaf in floats} == {jnp.dtype("float64")}
        counts = sums.correct, sums.count, tested.metrics.correct, tested.metrics.count
        assert {count.dtype for count in counts} == {jnp.dtype("int32")}


def test_no_tracer_leaks(splits):
    model = LeNet("before_fc1")
    state = programs(model).init_state(jax.random.key(0))

    def epoch(*arguments):  # a function not traced before
        return train.train_epoch(*arguments, model=model, tx=TX, batch_size=BATCH)

    with jax.checking_leaks():
        jax.eval_shape(epoch, state, splits[0], np.arange(2 * BATCH))


# Of one step from seed 0 on the first 64 synthetic images: the loss before it, how far it moved
# the parameters, and how far the running statistics.
GOLDEN = {
    "none": (2.3194237, 0.00194484, 0),
    "before_fc1": (2.3117266, 0.0102166, 0.551697),
    "after_fc1": (2.3589587, 0.0536299, 1.544679),
}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_golden_step(splits, placement):
    model = LeNet(placement)
    state = programs(model).init_state(jax.random.key(0))
    after, sums = train_step(state, first(splits[0], 64), model=model)

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
