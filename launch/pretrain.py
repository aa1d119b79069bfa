"""Trains the embedded checkpoint: a small Qwen2-format language model of kitchens and households.

The library needs a language model that is available on every machine. This command makes one: it
generates a corpus (`launch.pretraining`), learns a tokenizer from it, trains `models.Decoder` on
it for a few minutes on a CPU, and saves a Hugging Face checkpoint, which `models.load` and
transformers' `Qwen2ForCausalLM` read like any other.

    python -m launch.pretrain --out=runs/tiny

`llmprior_jax/models/tiny/DATASHEET.md` says what the corpus leaves out on purpose, and how good the
model is.
"""

import pathlib
import time
from collections.abc import Sequence

import jax
from flax import nnx

from launch.common import app
from llmprior_jax import ranges
from llmprior_jax.files import check_writable
from llmprior_jax.models.formats import hf_directory

FLAGS = app.Flags()
_OUT = FLAGS.string("out", None, "Folder to write the checkpoint to.", required=True)
_SEED = FLAGS.integer(
    "seed",
    0,
    "Seed of the corpus and of the initial parameters.",
    0,
    ranges.LARGEST_SEED,
)
_DOCUMENTS = FLAGS.integer(
    "documents", 32_000, "Documents to train on, each once.", lower_bound=500
)
_HELD_OUT = FLAGS.integer("held_out", 1000, "Documents to measure the loss on.")

_VOCABULARY = 1536
_TOKENIZED = 10_000  # documents that the tokenizer is learned from


def main(argv: Sequence[str]) -> None:
    """Corpus, tokenizer, training, held-out loss, checkpoint."""
    from launch.pretraining import corpus, packing, training
    from launch.pretraining.tokenizer import train_tokenizer

    del argv
    out = pathlib.Path(_OUT.value)
    check_writable(out / hf_directory.CONFIG)
    start = time.time()
    seed = _SEED.value
    documents = list(corpus.documents(seed, "train", _DOCUMENTS.value))
    known = {document.text for document in documents}
    held_out = [
        document
        for document in corpus.documents(seed, "heldout", _HELD_OUT.value)
        if document.text not in known
    ]
    texts = (document.text for document in documents[:_TOKENIZED])
    tokenizer = train_tokenizer(texts, _VOCABULARY, training.CONTEXT)
    rows = packing.pack(packing.encode(tokenizer, documents), packing.ROW_TOKENS)
    decoder = training.make_decoder(len(tokenizer), seed)
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(decoder)))
    print(
        f"{len(documents):,} documents, {(rows.segments > 0).sum():,} tokens in "
        f"{len(rows.tokens):,} rows; vocabulary {len(tokenizer)}; {size:,} parameters"
    )
    training.train(decoder, rows, seed)
    held_out_rows = packing.pack(packing.encode(tokenizer, held_out), packing.ROW_TOKENS)
    every, decision = training.held_out_loss(decoder, held_out_rows)
    training.save(out, decoder, tokenizer)
    print(
        f"held-out loss per token, on {len(held_out):,} documents: {every:.4f}, "
        f"of decisions {decision:.4f}; {time.time() - start:.0f} s in all; wrote {_OUT.value}"
    )


if __name__ == "__main__":
    app.run(main, FLAGS)
