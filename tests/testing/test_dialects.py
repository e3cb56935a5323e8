"""What known implementations do, as data over the one core."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
from dialects.cases import asked, cases
from support import to_numpy

import attnfn as af
from attnfn.testing import DIALECTS, OPTIONS, Conventions, Dialect
from attnfn.testing._dialects._conventions import CHOICES
from attnfn.testing._dialects._translate import translated

CASES = cases()
#: What shows no convention: what no case can be asked of all.
OWN = {"explicit", "cumulative"}


def choices():
    """Every answer but attnfn's own."""
    defaults = Conventions()._asdict()
    return [
        (question, answer)
        for question, answers in CHOICES.items()
        for answer in answers
        if answer != defaults[question]
    ]


def answer_to(case, conventions, **more):
    """The output and log-sum-exp, or that the question is refused."""
    options = {**asked(case, conventions), **more}
    try:
        return translated(af.attention_with_lse, conventions)(*case[:3], **options)
    except ValueError:
        return None


def differ(one, other):
    if one is None or other is None:
        return one is not other
    return any(
        x.dtype != y.dtype or not np.allclose(x, y, rtol=1e-8, atol=1e-8, equal_nan=True)
        for x, y in zip(one, other, strict=True)
    )


class TestConventions:
    def test_every_answer_has_a_sentence(self):
        answers = {name: get_args(kind) for name, kind in get_type_hints(Conventions).items()}

        assert {name: tuple(said) for name, said in CHOICES.items()} == answers

    @pytest.mark.parametrize("question, answer", [x for x in choices() if x[1] not in OWN])
    @pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
    def test_each_answer_shows_in_a_case(self, question, answer):
        """By any other answer to the question that case comes out differently."""
        others = [other for other in CHOICES[question] if other not in (answer, "explicit")]

        for other in others:
            pair = [Conventions()._replace(**{question: x}) for x in (answer, other)]
            if question != "alignment":
                pair = [conventions._replace(alignment="top_left") for conventions in pair]
            # It is asked the same, whatever it makes of it.
            shown = [
                title
                for title, case in CASES.items()
                if differ(*(answer_to(case, c, **case.options) for c in pair))
            ]
            assert shown, other

    def test_cumulative_lengths_are_where_sequences_start(self):
        case, starts = CASES["lengths"], np.asarray([0, 4, 9])

        found = answer_to(case, Conventions(lengths="cumulative"), lengths=starts)

        assert not differ(found, answer_to(case, Conventions(), lengths=np.asarray([4, 5])))


class TestDialects:
    def test_cannot_be_changed(self):
        with pytest.raises(TypeError):
            DIALECTS["mine"] = DIALECTS["attnfn"]

    def test_attnfn_is_attnfn(self):
        assert DIALECTS["attnfn"].conventions == Conventions()

    @pytest.mark.parametrize("name", DIALECTS)
    def test_each_is_under_its_name_with_its_source(self, name):
        dialect = DIALECTS[name]

        assert isinstance(dialect, Dialect)
        assert dialect.name == name
        assert dialect.features <= OPTIONS | {"groups", "lse"}
        # "torch 2.13.0", or "owner/repository path/to/file at commit"
        assert len(dialect.source.split()) == 2 if dialect.evidence == "verified" else 4
        assert all(note.endswith(".") for note in dialect.notes)

    @pytest.mark.parametrize("name", [name for name in DIALECTS if name != "attnfn"])
    def test_each_answers_for_all_its_features(self, name):
        dialect = DIALECTS[name]

        for case in CASES.values():
            if case.needs <= dialect.features:
                options = asked(case, dialect.conventions)
                out, lse = dialect.attention_with_lse(*case[:3], **options)
                assert out.shape == case.query.shape
                assert lse.shape == case.query.shape[:-1]


#: Between them they take every step there and back.
SOME = ["flash_attn2", "hf_eager_gemma2", "jax_nn", "torch_multi_head_attention_weights"]
SOME += ["flashinfer", "x_transformers", "onnx_before_corrections"]


class TestDialectAttention:
    @pytest.mark.parametrize("name", SOME)
    def test_is_the_same_on_every_library(self, xp, name):
        dialect = DIALECTS[name]
        case = CASES["empty row" if "mask" in dialect.features else "causal, fewer keys"]
        options = asked(case, dialect.conventions)
        expected = dialect.attention_with_lse(*case[:3], **options)

        on_library = {
            x: xp.asarray(y) if hasattr(y, "shape") else y for x, y in options.items()
        }
        found = dialect.attention_with_lse(*map(xp.asarray, case[:3]), **on_library)

        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(to_numpy(x), y, rtol=2e-6, atol=2e-6)

    @pytest.mark.libraries("jax", reason="jit is JAX's")
    def test_is_traced(self, xp):
        import jax

        case = CASES["empty row"]

        for name in ("jax_nn", "hf_eager_bert", "mlx"):
            compute = jax.jit(
                lambda q, k, v, m, of=DIALECTS[name]: of.attention(q, k, v, mask=m)
            )
            found = compute(*case[:3], case.options["mask"])
            expected = DIALECTS[name].attention(*case[:3], **case.options)
            np.testing.assert_allclose(to_numpy(found), expected, rtol=2e-6, atol=2e-6)

    @pytest.mark.libraries("torch", "jax", reason="they differentiate")
    def test_a_row_of_hidden_keys_has_a_gradient_where_a_number_is_added(self, xp):
        case = CASES["empty row"]
        query, key, value = (xp.asarray(x) for x in case[:3])
        mask = xp.asarray(case.options["mask"])

        def of_first_row(name):
            def loss(query):
                out = DIALECTS[name].attention(query, key, value, mask=mask)
                return (out[..., 0, :] ** 2).sum()

            return to_numpy(gradient(xp, loss, query))[..., 0, :]

        assert np.abs(of_first_row("hf_eager_bert")).max() > 1e-3
        assert np.all(of_first_row("jax_nn") == 0)
        assert np.all(of_first_row("torch_sdpa") == 0)


def gradient(xp, f, x):
    if "torch" in xp.__name__:
        import torch

        return torch.func.grad(f)(x)
    import jax

    return jax.grad(f)(x)
