"""Trains the embedded checkpoint: a small Qwen2-format language model of kitchens and households.

The library needs a language model that is there on every machine. This command writes one: it
generates a corpus (`launch.pretraining`), learns a tokenizer from it, trains `models.Decoder` on
it for a few minutes on a CPU, and saves a Hugging Face checkpoint, which `models.load` and
 transformers' `Qwen2ForCausalLM` read like any other.

    python -m launch.pretrain --out=runs/tiny

What the corpus leaves out on purpose, and how good the result is, stands in
`llmprior_jax/models/tiny/DATASHEET.md`.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from absl import flags
from flax import nnx
from transformers import PreTrainedTokenizerBase

from launch.common import app
from launch.pretraining import corpus
from launch.pretraining.phrases import Document
from launch.pretraining.tokenizer import train_tokenizer
from llmprior_jax import progress
from llmprior_jax.models import Decoder, DecoderConfig, checkpoint

_OUT = flags.DEFINE_string("out", None, "Folder to write the checkpoint to.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the corpus and of the initial parameters.")
_DOCUMENTS = flags.DEFINE_integer(
    "documents", 32_000, "Documents to train on, each once.", lower_bound=500
)
_HELD_OUT = flags.DEFINE_integer("held_out", 1000, "Documents to measure the loss on.")

VOCABULARY = 1536
CONTEXT = 1024  # the longest prompt that the model claims to read
ROW = 512  # tokens per training row
BATCH = 4  # rows per step
LEARNING_RATE = 4e-3
EMBEDDING_DEVIATION = 0.2
RESIDUAL_GAIN = 0.1
# The words of a decision are few, and what the model is for.
DECISION_WEIGHT = 4.0


class Rows(NamedTuple):
    """Documents packed into rows, every document with positions and attention of its own.

    Attributes:
      tokens: i32[N, L].
      positions: i32[N, L], the position within the document.
      segments: i32[N, L], which document of its row a token belongs to, from 1; 0 is padding.
      weights: f32[N, L], how much the prediction of the token counts; 0 for a document's first.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    weights: np.ndarray


def encode(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]
) -> list[tuple[list[int], list[float]]]:
    """Tokens, end of text included, and weights of every document."""
    encoded = tokenizer([document.text for document in documents], return_offsets_mapping=True)
    end = tokenizer.eos_token_id
    result = []
    for document, tokens, offsets in zip(
        documents, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        weight = np.ones(len(document.text))
        start = 0
        for piece in document.pieces:
            if piece.decision:
                weight[start : start + len(piece.text)] = DECISION_WEIGHT
            start += len(piece.text)
        weights = [0.0, *(float(weight[first]) for first, _ in offsets[1:]), 1.0]
        result.append(([*tokens, end], weights))
    return result


def pack(encoded: Sequence[tuple[list[int], list[float]]], length: int) -> Rows:
    """Packs documents into rows, best fit, longest first; any longer than a row is left out."""
    rows: list[list[int]] = []
    room: list[int] = []
    by_room: dict[int, list[int]] = {}
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]))
    for i in order:
        size = len(encoded[i][0])
        if size > length:
            continue
        best = next((r for r in range(size, length + 1) if by_room.get(r)), None)
        row = by_room[best].pop() if best is not None else len(rows)
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(i)
        room[row] -= size
        by_room.setdefault(room[row], []).append(row)
    shape = (len(rows), length)
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    weights = np.zeros(shape, np.float32)
    for row, members in enumerate(rows):
        start = 0
        for number, i in enumerate(members, 1):
            ids, weight = encoded[i]
            span = slice(start, start + len(ids))
            tokens[row, span], weights[row, span] = ids, weight
            positions[row, span], segments[row, span] = np.arange(len(ids)), number
            start += len(ids)
    return Rows(tokens, positions, segments, weights)


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
    for start in range(0, len(rows.tokens), BATCH):
        part = Rows(*(_pad(field[start : start + BATCH]) for field in rows))
        values, weights = np.asarray(losses(decoder, part)), part.weights[:, 1:]
        for i, counted in enumerate((weights > 0, weights > 1)):
            sums[i] += values[counted].sum()
            counts[i] += counted.sum()
    return tuple((sums / counts).tolist())


def _pad(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, BATCH - len(rows)), (0, 0)))


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
            parameter[...] = value * (EMBEDDING_DEVIATION / 0.02)
        elif path[-1] == "kernel":
            gain = RESIDUAL_GAIN if path[-2] in ("o_proj", "down_proj") else 1.0
            parameter[...] = value * gain / (0.02 * value.shape[0] ** 0.5)
    nnx.update(decoder, nnx.from_flat_state(parameters))


def train(decoder: Decoder, rows: Rows, seed: int) -> None:
    """Trains the decoder in place, one pass over the rows, with a progress bar."""
    steps = len(rows.tokens) // BATCH
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, LEARNING_RATE, max(1, steps // 20), steps, 0.02 * LEARNING_RATE
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=0.05),
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
        batch = Rows(*(field[order[number * BATCH : (number + 1) * BATCH]] for field in rows))
        params, state, value = step(params, state, batch)
        if number % 10 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    nnx.update(decoder, params)


def save(out: pathlib.Path, decoder: Decoder, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes a Hugging Face checkpoint: config.json, model.safetensors, the tokenizer's files."""
    out.mkdir(parents=True, exist_ok=True)
    config = decoder.config
    fields = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "use_sliding_window": False,
        "rope_theta": config.rope.rope_theta,
        "eos_token_id": tokenizer.eos_token_id,
        "torch_dtype": "float32",
    }
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    ):
        fields[name] = getattr(config, name)
    (out / checkpoint.CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(out)
    tensors = checkpoint.to_hf(config, nnx.state(decoder))
    safetensors.numpy.save_file(tensors, out / checkpoint.WEIGHTS, metadata={"format": "pt"})


def main(_: Sequence[str]) -> None:
    """Corpus, tokenizer, training, held-out loss, checkpoint."""
    start = time.time()
    seed = _SEED.value
    documents = list(corpus.documents(seed, "train", _DOCUMENTS.value))
    known = {document.text for document in documents}
    held_out = [
        document
        for document in corpus.documents(seed, "heldout", _HELD_OUT.value)
        if document.text not in known
    ]
    tokenizer = train_tokenizer((d.text for d in documents[:10_000]), VOCABULARY, CONTEXT)
    rows = pack(encode(tokenizer, documents), ROW)
    decoder = Decoder(
        DecoderConfig(
            vocab_size=len(tokenizer),
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
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(decoder)))
    print(
        f"{len(documents):,} documents, {(rows.segments > 0).sum():,} tokens in "
        f"{len(rows.tokens):,} rows; vocabulary {len(tokenizer)}; {size:,} parameters"
    )
    train(decoder, rows, seed)
    every, decision = held_out_loss(decoder, pack(encode(tokenizer, held_out), ROW))
    save(pathlib.Path(_OUT.value), decoder, tokenizer)
    print(
        f"held-out loss per token, on {len(held_out):,} documents: {every:.4f}, "
        f"of decisions {decision:.4f}; {time.time() - start:.0f} s in all; wrote {_OUT.value}"
    )


if __name__ == "__main__":
    app.run(main)
