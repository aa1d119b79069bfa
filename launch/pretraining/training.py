"""Trains a small decoder on rows of tokens and saves it as a Hugging Face checkpoint."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from flax import nnx
from transformers import PreTrainedTokenizerBase

from launch.pretraining.packing import Rows
from llmprior_jax import progress
from llmprior_jax.models import Decoder, DecoderConfig, checkpoint
from llmprior_jax.models.formats import hf_directory

CONTEXT = 1024  # the longest prompt that the model claims to read
_BATCH = 4  # rows per step
_LEARNING_RATE = 4e-3
_EMBEDDING_DEVIATION = 0.2
_RESIDUAL_GAIN = 0.1


def make_decoder(vocab_size: int, seed: int) -> Decoder:
    """A fresh model of the embedded checkpoint's shape."""
    decoder = Decoder(
        DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            qkv_bias=True,
        ),
        rngs=nnx.Rngs(seed),
    )
    rescale(decoder)
    return decoder


def token_losses(decoder: Decoder, rows: Rows) -> jax.Array:
    """-log p of every token but the first of each row, f32[N, L - 1]; padding is not masked out."""
    length = rows.tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    mask = (rows.segments[:, :, None] == rows.segments[:, None, :]) & causal
    hidden = decoder(jnp.asarray(rows.tokens), jnp.asarray(rows.positions), mask)
    return optax.softmax_cross_entropy_with_integer_labels(
        decoder.logits(hidden[:, :-1]), rows.tokens[:, 1:]
    )


def held_out_loss(decoder: Decoder, rows: Rows) -> tuple[float, float]:
    """Mean -log p per token, of all tokens and of the tokens of decisions."""
    losses = nnx.jit(token_losses)
    sums, counts = np.zeros(2), np.zeros(2)
    for start in range(0, len(rows.tokens), _BATCH):
        part = Rows(*(_pad(field[start : start + _BATCH]) for field in rows))
        values, weights = np.asarray(losses(decoder, part)), part.weights[:, 1:]
        for i, counted in enumerate((weights > 0, weights > 1)):
            sums[i] += values[counted].sum()
            counts[i] += counted.sum()
    return tuple((sums / counts).tolist())


def _pad(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, _BATCH - len(rows)), (0, 0)))


def rescale(decoder: Decoder) -> None:
    """Rescales fresh parameters, all drawn with deviation 0.02, for a model this narrow.

    That deviation suits wide layers. Here kernels get deviation 1 / sqrt(inputs), or attention
    stays nearly uniform; the embedding gets a larger one and what the blocks add to it a smaller
    one, or which word was read is lost among what they add. With this the model finds out within a
    few hundred steps that words of the task come back in the decisions; without it, it takes far
    longer.
    """
    parameters = nnx.to_flat_state(nnx.state(decoder))
    for path, parameter in parameters:
        value = parameter[...]
        if path == ("embed",):
            parameter[...] = value * (_EMBEDDING_DEVIATION / 0.02)
        elif path[-1] == "kernel":
            gain = _RESIDUAL_GAIN if path[-2] in ("o_proj", "down_proj") else 1.0
            parameter[...] = value * gain / (0.02 * value.shape[0] ** 0.5)
    nnx.update(decoder, nnx.from_flat_state(parameters))


def train(decoder: Decoder, rows: Rows, seed: int) -> None:
    """Trains the decoder in place, one pass over the rows, with a progress bar."""
    steps = len(rows.tokens) // _BATCH
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, _LEARNING_RATE, max(1, steps // 20), steps, 0.02 * _LEARNING_RATE
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05)
    )
    graphdef, params = nnx.split(decoder)

    def loss(params, batch):
        values = token_losses(nnx.merge(graphdef, params), batch)
        weights = batch.weights[:, 1:]
        return (values * weights).sum() / weights.sum()

    @jax.jit
    def step(params, state, batch):
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    order = np.random.default_rng(seed).permutation(len(rows.tokens))
    bar = progress.bar(range(steps), desc="training", unit="step")
    for number in bar:
        batch = Rows(*(field[order[number * _BATCH : (number + 1) * _BATCH]] for field in rows))
        params, state, value = step(params, state, batch)
        if number % 10 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    nnx.update(decoder, params)


def save(out: pathlib.Path, decoder: Decoder, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes a Hugging Face checkpoint: config.json, model.safetensors, the tokenizer's files."""
    out.mkdir(parents=True, exist_ok=True)
    config = decoder.config
    own = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
        *("rms_norm_eps", "tie_word_embeddings"),
    )
    fields = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "use_sliding_window": False,
        "rope_theta": config.rope.rope_theta,
        "eos_token_id": tokenizer.eos_token_id,
        "torch_dtype": "float32",
        **{name: getattr(config, name) for name in own},
    }
    (out / hf_directory.CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(out)
    tensors = checkpoint.to_hf(config, nnx.state(decoder))
    safetensors.numpy.save_file(tensors, out / hf_directory.WEIGHTS, metadata={"format": "pt"})
