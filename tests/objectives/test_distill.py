"""Distillation against NumPy, the three properties of UFM section 8, test 6, and truncation."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special as sp

from unified_fm.objectives import distill, lumps

RNG = np.random.default_rng(0)
# Logits of a text batch: B=2, L=4, V=5; one slot of four is unused, one token is padding.
STUDENT = RNG.normal(size=(2, 4, 5)).astype(np.float32)
TEACHER = RNG.normal(size=(2, 4, 5)).astype(np.float32)
POSITIONS = np.array([[1, 2], [0, 0]], np.int32)
BATCH = {
    "text_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool),
    "masked_positions": POSITIONS,
    "masked_ids": np.array([[3, 4], [2, -100]]),
}
NET = types.SimpleNamespace(image_head=lambda x: x, mlm_head=lambda x: x)


def text(student=STUDENT, teacher=TEACHER, batch=BATCH, key="mlm", **options):
    taught = np.take_along_axis(teacher, POSITIONS[..., None], 1) if key == "mlm" else teacher
    views = types.SimpleNamespace(text_masked=jnp.asarray(student), image=None)
    batch = batch | {"teacher": {"bert": {key: taught}}}
    return distill.Objective(teacher="bert", of="mlm", **options)(NET, views, batch)


def image(student, teacher, batch=None, key="image", **options):
    views = types.SimpleNamespace(image=student, text_masked=None)
    batch = (batch or {}) | {"teacher": {"vit": {key: teacher}}}
    return distill.Objective(teacher="vit", of="image", **options)(NET, views, batch)


def kl(teacher, student, temperature):
    p, q = sp.log_softmax(teacher / temperature, -1), sp.log_softmax(student / temperature, -1)
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1)


def test_kl_at_the_masked_positions():
    per_token = kl(TEACHER, STUDENT, 2.0)
    out = text(temperature=2.0)
    assert float(out.denominator) == 3
    assert float(out.loss) == pytest.approx(
        (per_token[0, 1] + per_token[0, 2] + per_token[1, 0]) / 3, rel=1e-5
    )
    same = (TEACHER.argmax(-1) == STUDENT.argmax(-1))[[0, 0, 1], [1, 2, 0]]
    assert float(out.metrics["agreement"]) == pytest.approx(same.mean())


def test_kl_at_all_real_tokens():
    per_token = kl(TEACHER, STUDENT, 1.0)
    out = text(key="mlm_all", positions="all")
    assert float(out.denominator) == 7
    assert float(out.loss) == pytest.approx(per_token[BATCH["text_mask"]].mean(), rel=1e-5)


def test_padded_rows_count_nowhere():
    out = text(batch=BATCH | {"weight": np.array([0.0, 1.0])}, temperature=2.0)
    assert float(out.loss) == pytest.approx(kl(TEACHER, STUDENT, 2.0)[1, 0], rel=1e-5)


Z, U = STUDENT[:, 0], TEACHER[:, 0]
P = sp.expit(U / 2)
EXPECTED = {  # the mean over two images, with T = 2 where there is one
    "kl": kl(U, Z, 2.0).mean(),
    "sigmoid_kl": 4 * (sp.rel_entr(P, sp.expit(Z / 2)) + sp.rel_entr(1 - P, sp.expit(-Z / 2))),
    "mse": np.square(U - Z).mean(),
    "hard": -sp.log_softmax(Z, -1)[[0, 1], U.argmax(-1)].mean(),
}
EXPECTED["sigmoid_kl"] = EXPECTED["sigmoid_kl"].sum(-1).mean()


@pytest.mark.parametrize("kind", EXPECTED)
def test_kinds_on_class_logits(kind):
    out = image(jnp.asarray(Z)[:, None], U, kind=kind, temperature=2.0)
    assert float(out.loss) == pytest.approx(EXPECTED[kind], rel=1e-5)
    assert float(out.denominator) == 2


def test_states():
    cosine = (STUDENT * TEACHER).sum(-1)
    cosine /= np.linalg.norm(STUDENT, axis=-1) * np.linalg.norm(TEACHER, axis=-1)
    out = image(jnp.asarray(STUDENT), TEACHER, key="image_hidden", kind="hidden_cos")
    assert float(out.loss) == pytest.approx(1 - cosine.mean(), rel=1e-5)
    out = image(jnp.asarray(STUDENT), TEACHER, key="image_hidden", kind="hidden_mse")
    assert float(out.loss) == pytest.approx(np.square(STUDENT - TEACHER).mean(), rel=1e-5)
    out = text(key="text_hidden", kind="hidden_cos")
    assert float(out.loss) == pytest.approx(1 - cosine[[0, 0, 1], [1, 2, 0]].mean(), rel=1e-5)
    assert float(out.metrics["cosine"]) == pytest.approx(1 - float(out.loss), rel=1e-5)


@pytest.mark.parametrize("kind", ["kl", "sigmoid_kl", "mse", "hidden_mse", "hidden_cos"])
def test_no_gradient_when_student_is_teacher(kind):
    states = jnp.asarray(STUDENT)
    key = "image_hidden" if "hidden" in kind else "image"

    def loss(x):
        taught = STUDENT if "hidden" in kind else STUDENT[:, 0]
        return image(x, taught, key=key, kind=kind, temperature=3.0).loss

    value, gradient = jax.value_and_grad(loss)(states)
    assert abs(float(value)) < 1e-6
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def gradient_norms(std):
    """|d KD / d z| at several T, for logits of a deviation."""
    rng = np.random.default_rng(1)
    student, teacher = std * rng.normal(size=(2, 64, 1, 100)).astype(np.float32)

    def norm(temperature):
        def loss(x):
            return image(x, teacher[:, 0], temperature=temperature).loss

        return float(jnp.linalg.norm(jax.grad(loss)(jnp.asarray(student))))

    return np.array([norm(t) for t in (1.0, 2.0, 4.0, 8.0)])


def test_the_gradient_does_not_depend_on_the_temperature_for_small_logits():
    """T^2 sees to that; for logits of deviation 3 the gradient does change."""
    norms = gradient_norms(0.1)
    np.testing.assert_allclose(norms / norms[0], 1, atol=0.02)
    norms = gradient_norms(3.0)
    assert norms.max() / norms.min() > 1.3


def test_the_teacher_gets_no_gradient():
    def loss(teacher):
        return image(jnp.asarray(Z)[:, None], teacher).loss

    np.testing.assert_array_equal(jax.grad(loss)(jnp.asarray(U)), 0)


def test_classes_that_the_teacher_excludes_have_probability_zero():
    """Logits of -inf: the teacher's softmax is over the others, the student's over all."""
    kept = U.copy()
    kept[0, [1, 2]] = kept[1, [0, 4]] = -np.inf
    few = np.array([U[0, [0, 3, 4]], U[1, [1, 2, 3]]])
    q = sp.log_softmax(Z / 2, -1)
    q = np.array([q[0, [0, 3, 4]], q[1, [1, 2, 3]]])
    p = sp.log_softmax(few / 2, -1)
    expected = 4 * (np.exp(p) * (p - q)).sum(-1).mean()

    def loss(x):
        return image(x, kept, temperature=2.0).loss

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(Z)[:, None])
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()


def test_teachers_that_do_not_fit_are_refused():
    x = jnp.asarray(STUDENT)
    with pytest.raises(ValueError, match="teacher 'vit' has 7 classes, the student 5"):
        image(x, np.zeros((2, 7)))
    with pytest.raises(ValueError, match=r"has 8 numbers in a state \(width\), the student 5"):
        image(x, np.zeros((2, 4, 8)), key="image_hidden", kind="hidden_mse")
    with pytest.raises(ValueError, match="has 10 tokens, the student 4"):
        image(x, np.zeros((2, 10, 5)), key="image_hidden", kind="hidden_mse")
    with pytest.raises(ValueError, match="teacher 'bert' has 6 words, the student 5"):
        text(teacher=np.zeros((2, 4, 6)))
    with pytest.raises(ValueError, match="needs 'mlm_all' of the teacher 'bert', which gives mlm"):
        text(positions="all")
    with pytest.raises(ValueError, match="no teacher 'vit' teaches this stream; those that do: b"):
        views = types.SimpleNamespace(image=x)
        objective = distill.Objective(teacher="vit", of="image")
        objective(NET, views, {"teacher": {"bert": {}}})
    for option in ({"kind": "kd"}, {"positions": "some"}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(option))):
            distill.Objective(teacher="vit", of="image", **option)


def truncated(logits, k, kind="kl", temperature=1.0, **options):
    """What a cache of the best k knows of a teacher's logits f[... C]."""
    ids = np.argsort(-logits, axis=-1)[..., :k].astype(np.int32)
    rest = lumps.rest(kind, jnp.asarray(logits), jnp.asarray(ids), temperature)
    return lumps.Truncated(
        ids=jnp.asarray(ids),
        logits=jnp.take_along_axis(jnp.asarray(logits), ids, axis=-1),
        rests={lumps.name(kind, temperature): rest},
        classes=logits.shape[-1],
    )


def lumped(x, ids, kind):
    """Probabilities of the k outcomes and of the lump, row by row, without any of our code."""
    found = []
    for row, kept in zip(np.float64(x), ids, strict=True):
        p = sp.softmax(row) if kind == "kl" else sp.expit(row)
        others = np.delete(p, kept)
        last = others.sum() if kind == "kl" else 1 - np.prod(1 - others)
        found.append([*p[kept], last])
    return np.array(found)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("kind", ["kl", "sigmoid_kl"])
def test_A1_a_truncated_teacher_is_k_outcomes_and_their_rest(kind, k, temperature):
    known = truncated(U, k, kind, temperature)

    def loss(z):
        return image(z[:, None], known, kind=kind, temperature=temperature).loss

    p, q = (lumped(x / temperature, np.asarray(known.ids), kind) for x in (U, Z))
    expected = sp.rel_entr(p, q)
    if kind == "sigmoid_kl":
        expected += sp.rel_entr(1 - p, 1 - q)
    expected = temperature**2 * expected.sum(-1).mean()
    assert float(loss(jnp.asarray(Z))) == pytest.approx(expected, rel=1e-5)
    whole = image(jnp.asarray(Z)[:, None], U, kind=kind, temperature=temperature).loss
    assert float(loss(jnp.asarray(Z))) <= float(whole) + 1e-6

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(U))  # the student is the teacher
    assert abs(float(value)) < 1e-6
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    # The rest may be divided in another way: nothing is said of it.
    order = np.argsort(-U, axis=-1)
    other = np.array(U)
    np.put_along_axis(
        other, order[:, k:], np.take_along_axis(U, order[:, : k - 1 : -1], -1), axis=-1
    )
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(other))
    assert abs(float(value)) < 1e-6
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def zipf(words, exponent=1.0717):
    """Probabilities of words, of entropy 5.22 if there are 1,996."""
    p = 1 / np.arange(1, words + 1) ** exponent
    return p / p.sum()


def optimum(loss, words, steps=80):
    """Logits at which a student without limits ends, by L-BFGS."""
    optimizer, start = optax.lbfgs(), jnp.zeros((1, words))

    @jax.jit
    def run(z):
        def step(carry, _):
            z, state = carry
            value, gradient = optax.value_and_grad_from_state(loss)(z, state=state)
            updates, state = optimizer.update(
                gradient, state, z, value=value, grad=gradient, value_fn=loss
            )
            return (optax.apply_updates(z, updates), state), None

        return jax.lax.scan(step, (z, optimizer.init(z)), None, length=steps)[0][0]

    return np.asarray(run(start))[0]


def spread_evenly(u, k, temperature=1.0):
    """The target of an earlier cache: one and the same logit for each of the rest."""
    rest = sp.logsumexp(u[:, k:]) - np.log(u.shape[-1] - k)
    return np.concatenate([u[:, :k], np.full((1, u.shape[-1] - k), rest)], -1).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_A1_a_student_without_limits_reaches_a_perfect_teacher(temperature):
    """CE + KD with the best 32 of 1,996 words leaves less than 0.001 nats to the entropy."""
    p = zipf(1996)
    entropy = -(p * np.log(p)).sum()
    assert entropy == pytest.approx(5.22, abs=0.005)
    u = np.log(p)[None].astype(np.float32)

    def excess(known):
        def loss(z):
            labels = -(jnp.asarray(p, jnp.float32) * jax.nn.log_softmax(z[0])).sum()
            return labels + image(z[:, None], known, temperature=temperature).loss

        z = np.float64(optimum(loss, len(p)))
        return -(p * sp.log_softmax(z)).sum() - entropy

    assert abs(excess(truncated(u, 32, "kl", temperature))) < 1e-3
    assert excess(spread_evenly(u, 32)) > 0.05  # so that this test can see the fault


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_A1_distillation_alone_ends_at_the_best_and_the_total_of_the_rest(temperature):
    u = np.log(zipf(300))[None].astype(np.float32)
    known = truncated(u, 8, "kl", temperature)

    def loss(z):
        return image(z[:, None], known, temperature=temperature).loss

    found, wanted = (sp.softmax(x / temperature) for x in (optimum(loss, 300), u[0]))
    np.testing.assert_allclose(found[:8], wanted[:8], atol=1e-4)
    assert found[8:].sum() == pytest.approx(wanted[8:].sum(), abs=1e-4)


def test_A1_whole_logits_give_the_divergence_bit_for_bit():
    """As the formula was before there were lumps: a live teacher, or a cache of all logits."""
    z, u = jnp.asarray(Z), jnp.asarray(U)
    for t in (1.0, 2.0, 3.0):
        p = jax.nn.softmax(u / t)
        gap = jax.nn.log_softmax(u / t) - jax.nn.log_softmax(z / t)
        values = t**2 * jnp.where(p > 0, p * gap, 0.0).sum(-1)
        assert float(image(z[:, None], u, temperature=t).loss) == float(values.sum() / 2)


def test_A1_other_kinds_of_a_truncated_teacher():
    known, best = truncated(U, 2), U.argmax(-1)
    out = image(jnp.asarray(Z)[:, None], known, kind="hard")
    assert float(out.loss) == pytest.approx(EXPECTED["hard"], rel=1e-6)
    same = float((best == Z.argmax(-1)).mean())
    assert float(out.metrics["agreement"]) == same
    assert float(image(jnp.asarray(Z)[:, None], known).metrics["agreement"]) == same
    with pytest.raises(
        ValueError, match="best 2 of 5 logits are known, and the rest for kl at T=1"
    ):
        image(jnp.asarray(Z)[:, None], known, temperature=2.0)
    with pytest.raises(ValueError, match=r"rest for kl at T=1\.0, not for mse"):
        image(jnp.asarray(Z)[:, None], known, kind="mse")
    with pytest.raises(ValueError, match="teacher 'vit' has 7 classes, the student 5"):
        image(jnp.asarray(Z)[:, None], truncated(np.zeros((2, 7), np.float32), 2))


def test_A1_questions_that_are_all_sure_have_a_finite_rest():
    """Sigmoid heads begin at -10 and may go far below; a student may also be sure of a yes."""
    known = truncated(np.full((1, 6), -10.0, np.float32), 2, "sigmoid_kl")
    both = jax.jit(jax.value_and_grad(lambda z: image(z[:, None], known, kind="sigmoid_kl").loss))
    for level in (-200.0, -40.0, 200.0):
        value, gradient = both(jnp.full((1, 6), level))
        assert np.isfinite(value) and np.isfinite(gradient).all()
