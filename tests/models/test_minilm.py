"""A real encoder on real weights: `docs/examples/minilm.py` beside transformers' own model.

The reference runs in the same session, so that nothing recorded can be out of date.
"""

import functools

import numpy as np
import pytest
from examples import example

import attnfn as af

pytestmark = pytest.mark.models

SENTENCES = (
    "The bank of the river was flooded.",
    "Hi.",
    "Water rose over the river's edge, and the old mill, which had stood there since 1803, "
    "was carried away in the night.",
    "Attention is a weighted mean of values, and nothing else.",
    "one two three four five six seven eight nine ten " * 4,
)

#: float32: of the greatest value in a hidden state, and of the length of an embedding, 1.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def minilm():
    return example("minilm")


@pytest.fixture(scope="module")
def tokenizer(minilm):
    return minilm.load_tokenizer(minilm.model_directory())


@pytest.fixture(scope="module")
def tokens(minilm, tokenizer):
    return minilm.tokenize(tokenizer, SENTENCES)


@pytest.fixture(scope="module")
def params(minilm):
    return minilm.load_params(minilm.model_directory())


@pytest.fixture(scope="module")
def reference(minilm):
    """`reference(tokens, dtype)`: transformers' hidden states and weights, layer by layer."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(minilm.model_directory(), attn_implementation="eager")
    model.eval()

    def run(tokens, dtype):
        with torch.no_grad():
            out = model.to(getattr(torch, dtype))(
                input_ids=torch.asarray(tokens),
                attention_mask=torch.asarray(tokens != minilm.PAD),
                output_hidden_states=True,
                output_attentions=True,
            )
        return [x.numpy() for x in out.hidden_states], [x.numpy() for x in out.attentions]

    return run


@pytest.fixture(scope="module")
def theirs(reference, tokens):
    """Transformers' hidden states in float32."""
    return reference(tokens, "float32")[0]


@pytest.fixture(scope="module")
def exact(reference, tokens):
    """And in float64."""
    return reference(tokens, "float64")[0]


@pytest.fixture(scope="module", params=["numpy", "torch", "jax"])
def run(request, minilm, params):
    """`run(function, tokens)`: a function of the example on one library in float32, to NumPy."""
    xp, compiled = minilm.library(request.param)
    there = minilm.to_library(params, xp.asarray)

    def call(function, tokens):
        return [np.asarray(x) for x in compiled(function)(there, xp.asarray(tokens))]

    return call


@pytest.fixture(scope="module")
def ours(run, minilm, tokens):
    """The hidden states on one library."""
    return run(minilm.hidden_states, tokens)


@pytest.fixture(scope="module")
def embeddings(run, minilm, tokens):
    """The embeddings on one library."""
    return run(minilm.embed_sentences, tokens)


class TestMiniLM:
    def test_hidden_states_are_those_of_transformers(self, minilm, tokens, theirs, ours):
        is_token = tokens != minilm.PAD

        for mine, its in zip(ours, theirs, strict=True):
            assert mine.dtype == its.dtype == "float32"
            # What stands at padding reaches nothing; there both round as they please.
            assert np.abs(mine - its)[is_token].max() <= ROUNDING * np.abs(its).max()

    def test_rounding_is_no_worse_than_that_of_transformers(
        self, minilm, tokens, theirs, exact, ours
    ):
        is_token = tokens != minilm.PAD

        their_error = np.abs(theirs[-1] - exact[-1])[is_token].max()
        our_error = np.abs(ours[-1] - exact[-1])[is_token].max()

        assert our_error <= 2 * their_error

    def test_embeddings_are_those_of_transformers(self, minilm, tokens, theirs, embeddings):
        # sentence-transformers takes the mean of the last hidden states, and normalises it.
        pairs = zip(theirs[-1], tokens, strict=True)
        means = np.stack([x[t != minilm.PAD].mean(axis=0) for x, t in pairs])
        expected = means / np.linalg.norm(means, axis=-1, keepdims=True)

        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=ROUNDING)

    def test_padding_changes_no_embedding(self, minilm, tokens, run, embeddings):
        length = int((tokens[0] != minilm.PAD).sum())
        assert length < tokens.shape[1]

        alone = run(minilm.embed_sentences, tokens[:1, :length])

        np.testing.assert_allclose(alone[0], embeddings[0], rtol=0, atol=ROUNDING)

    def test_float64_agrees_to_its_own_rounding_even_at_padding(
        self, minilm, params, tokens, exact
    ):
        wide = minilm.to_library(params, functools.partial(np.asarray, dtype="float64"))

        ours = minilm.hidden_states(wide, tokens)

        for mine, its in zip(ours, exact, strict=True):
            np.testing.assert_allclose(mine, its, rtol=0, atol=1e-11)

    def test_main_prints_the_same_on_every_library(self, minilm, capsys):
        minilm.main()

        printed = capsys.readouterr().out.splitlines()
        blocks = {printed[i]: printed[i + 2 : i + 4] for i in range(0, len(printed), 4)}
        assert list(blocks) == ["numpy", "torch", "jax"]
        numbers = [[float(line.split()[0]) for line in lines] for lines in blocks.values()]
        # Six decimals are printed: the last may round either way.
        np.testing.assert_allclose(numbers, numbers[:1] * 3, rtol=0, atol=1.5e-6)
        # A river's bank is nearer to a river's edge than to a bank with money in it.
        assert numbers[0][0] > numbers[0][1]


class TestBank:
    def test_a_head_finds_out_what_kind_of_bank_it_is(self):
        bank = example("bank")

        for sentence, telling in zip(bank.SENTENCES[::2], ("river", "robbed"), strict=True):
            tokens, weights = bank.look(sentence)
            row = weights[tokens.index("bank")]
            assert tokens[int(row.argmax())] == telling
            assert row.max() > 0.4

    def test_the_picture_has_both_sentences(self):
        bank = example("bank")

        titles = [ax.get_title() for ax in bank.draw().axes]

        assert [title for title in titles if title] == [*bank.SENTENCES[::2]]


class TestDemoData:
    def test_package_data_is_what_its_script_makes(self):
        from attnfn._demo import load_sentence

        made = example("make_demo_data").demo_data()
        shipped = load_sentence()

        assert shipped.tokens == made["tokens"].tolist()
        assert shipped.text == made["sentence"]
        assert (shipped.layer, shipped.num_layers) == (made["layer"], made["num_layers"])
        for name in ("query", "key", "value"):
            # float64 rounded to float32: another machine may round a last digit another way.
            np.testing.assert_allclose(getattr(shipped, name), made[name], rtol=2e-7, atol=1e-8)

    def test_its_weights_are_those_of_transformers(self, tokenizer, reference):
        from attnfn._demo import load_sentence

        sentence = load_sentence()
        encoding = tokenizer.encode(sentence.text)
        _, theirs = reference(np.asarray([encoding.ids]), "float32")

        ours = af.attention_weights(sentence.query, sentence.key)

        assert sentence.tokens == encoding.tokens
        np.testing.assert_allclose(ours, theirs[sentence.layer][0], rtol=0, atol=ROUNDING)
