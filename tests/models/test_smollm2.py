"""A real language model on real weights: `docs/examples/smollm2.py` beside transformers' Llama.

The reference runs in the same session, so that nothing recorded can be out of date.
"""

import itertools
import re
import time

import numpy as np
import pytest
from examples import example

pytestmark = pytest.mark.models

PROMPTS = (
    "Once upon a time",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n    ",
    "Water boils at 100 degrees Celsius, and in 1803 Ångström's naïve friend said: «",
    "The bank of the river was flooded. Water rose over the river's edge, and the old mill, "
    "which had stood there since 1803, was carried away in the night. In the morning the people "
    "of the village came down from the hill, where they had slept in the church, and looked at "
    "what was left: a wheel, three walls without a roof, and on the fourth a picture of the "
    "miller's grandfather, which nobody had liked while there was something else to look at. "
    "Some wept, some laughed, and one, who had been a sailor, began to count the trees that had "
    "come down with the water, because, he said, somebody would have to pay for them. When he "
    "had come to forty he stopped, sat down on a stone and",
)

NUM_TOKENS = 64


@pytest.fixture(scope="module")
def smollm2():
    return example("smollm2")


@pytest.fixture(scope="module")
def reader(smollm2):
    return smollm2.open_model()


@pytest.fixture(scope="module")
def tokenizer(smollm2, reader):
    return smollm2.load_tokenizer(reader)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer.encode(prompt).ids for prompt in PROMPTS]


@pytest.fixture(scope="module")
def params(smollm2, reader):
    return smollm2.load_params(reader)


@pytest.fixture(scope="module")
def reference(reader):
    """Transformers' own model, with the numbers of the same file."""
    import torch
    from gguf.quants import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    def field(name):
        return reader.get_field(name).contents()

    config = LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=field("llama.attention.head_count"),
        num_key_value_heads=field("llama.attention.head_count_kv"),
        max_position_embeddings=field("llama.context_length"),
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    weights = {}
    for tensor in reader.tensors:
        *block, name, _weight = tensor.name.split(".")
        weight = np.array(dequantize(tensor.data, tensor.tensor_type))
        if name in ("attn_q", "attn_k"):
            # The file has the two features of a pair side by side, transformers half a head
            # apart.
            pairs = weight.reshape(-1, config.head_dim // 2, 2, weight.shape[-1])
            weight = pairs.swapaxes(1, 2).reshape(weight.shape)
        prefix = f"model.layers.{block[1]}." if block else ""
        weights[f"{prefix}{names[name]}.weight"] = torch.asarray(weight)
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing in ([], ["lm_head.weight"])
    assert not unexpected
    return model


@pytest.fixture(scope="module")
def theirs(reference, prompts):
    """The tokens that transformers generates for each prompt."""
    import torch

    def generate(prompt):
        tokens = torch.asarray([prompt])
        options = {"attention_mask": torch.ones_like(tokens), "pad_token_id": 0}
        out = reference.generate(tokens, max_new_tokens=NUM_TOKENS, do_sample=False, **options)
        return out[0, len(prompt) :].tolist()

    return [generate(prompt) for prompt in prompts]


@pytest.fixture(scope="module", params=["numpy", "torch", "jax"])
def run(request, smollm2, params):
    """A library's name, and `generate(prompt)`: the example's tokens there, without end."""
    xp, compiled = smollm2.library(request.param)
    there = smollm2.to_library(params, xp.asarray)

    def generate(prompt):
        # One capacity for all of them: jax.jit compiles for each.
        return smollm2.generate(there, prompt, 256, xp=xp, compiled=compiled)

    return request.param, generate


class TestMain:
    def test_prints_the_text_and_how_fast_it_came(self, smollm2, capsys):
        smollm2.main(["Once upon a time", "--tokens", "4"])

        printed = capsys.readouterr().out
        assert "Once upon a time" in printed
        assert re.search(r"4/4 +\d+\.\d tokens/s", printed)


class TestSmolLM2:
    def test_tokens_are_those_of_transformers(self, run, prompts, theirs, report):
        assert max(map(len, prompts)) > 100
        library, generate = run

        ours, seconds = [], []
        for prompt in prompts:
            tokens = generate(prompt)
            ours.append(list(itertools.islice(tokens, 2)))  # jax.jit compiles in both
            for _ in range(NUM_TOKENS - 2):
                start = time.perf_counter()
                ours[-1].append(next(tokens))
                seconds.append(time.perf_counter() - start)

        assert ours == theirs
        report(
            f"SmolLM2, {library}: {sum(map(len, ours))} tokens of {len(prompts)} prompts as "
            f"transformers has them, {1 / np.median(seconds):.1f} tokens a second"
        )
