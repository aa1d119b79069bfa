"""Texts to vectors: an encoder, its parameters, its tokenizer, and how its tokens are pooled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmprior_jax.models import architectures, checkpoint
from llmprior_jax.models.config import CheckpointError, Reader
from llmprior_jax.models.encoder import EncoderConfig
from llmprior_jax.models.formats import hf_directory, places
from llmprior_jax.models.formats.hf_directory import HFDirectory
from llmprior_jax.models.language_model import check_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Where sentence-transformers keeps what comes after the encoder.
_MODULES, _SENTENCE = "modules.json", "sentence_bert_config.json"
_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_FILES = (*hf_directory.FILES, _MODULES, _SENTENCE, "*_Pooling/config.json")

_ROWS_PER_PASS = 32
_TOKENS_PER_STEP = 16


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A BERT encoder and how a text becomes one vector with it.

    Examples:
      >>> encoder = models.load_encoder("minilm")  # a directory, or a hub id
      >>> vectors = encoder.encode(["wash the cup", "clean the mug", "go to bed"])
      >>> bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
      True

    Attributes:
      config: shape and variant of the encoder; `config.hidden_size` is D.
      graphdef: the encoder without its parameters (hashable, a static argument of `jax.jit`).
      params: the encoder's parameters, a pytree of arrays.
      tokenizer: the checkpoint's own fast tokenizer.
      max_tokens: the longest text, special tokens among them.
      pooling: "mean" over a text's tokens, or "cls", the first one.
      unit_length: whether vectors are scaled to length 1.
      fingerprint: as that of a `LanguageModel`, over pooling and length too.
      lower_case: whether texts are read in lower case.
    """

    config: EncoderConfig
    graphdef: nnx.GraphDef[Any]
    params: nnx.State[Any, Any]
    tokenizer: PreTrainedTokenizerFast
    max_tokens: int
    pooling: str
    unit_length: bool
    fingerprint: str
    lower_case: bool = False

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> jax.Array:
        """The vector of each text, or of each pair of texts.

        Args:
          texts: B texts.
          pairs: for each of them a second one, which the encoder reads after it in the same row,
            as BERT was trained to: [CLS] text [SEP] pair [SEP].

        Returns:
          f32[B, D], on the default device. A vector depends on its own text alone.

        Raises:
          TypeError: `texts` or `pairs` is no list of strings.
          ValueError: there are more of one than of the other, a text is too long (texts are never
            cut), or the encoder knows no second text.
        """
        _check_texts(texts, pairs)
        if pairs is not None and self.config.num_segments < 2:
            raise ValueError(
                "this encoder was not trained on pairs of texts (type_vocab_size in its config is "
                f"{self.config.num_segments}); use another, or encode single texts"
            )
        vectors = np.zeros((len(texts), self.config.hidden_size), np.float32)
        if not texts:
            return jnp.asarray(vectors)
        encoded = self.tokenizer(
            self._as_read(texts),
            None if pairs is None else self._as_read(pairs),
            return_token_type_ids=True,
            verbose=False,
        )
        tokens, segments = encoded["input_ids"], encoded["token_type_ids"]
        lengths = np.array([len(row) for row in tokens])
        self._check_tokens(tokens, lengths)

        # Texts of like length share a pass, so that there is little padding; lengths and numbers of
        # rows take few values, so that few shapes are compiled.
        order = np.argsort(lengths, kind="stable")
        results = []
        for start in range(0, len(order), _ROWS_PER_PASS):
            chosen = order[start : start + _ROWS_PER_PASS]
            rows = _ROWS_PER_PASS if len(order) > _ROWS_PER_PASS else _power_of_two(len(order))
            longest = _power_of_two(-(-lengths[chosen].max() // _TOKENS_PER_STEP))
            length = min(longest * _TOKENS_PER_STEP, self.config.max_position_embeddings)
            padded = np.zeros((3, rows, length), np.int32)
            for row, i in enumerate(chosen):
                padded[:, row, : lengths[i]] = tokens[i], segments[i], [1] * lengths[i]
            results.append(
                encode_tokens(self.graphdef, self.params, *padded, self.pooling, self.unit_length)
            )
        passes = jax.device_get(results)
        vectors[order] = np.concatenate(passes)[: len(order)]
        return jnp.asarray(vectors)

    def _as_read(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() for text in texts] if self.lower_case else list(texts)

    def _check_tokens(self, tokens: Sequence[Sequence[int]], lengths: np.ndarray) -> None:
        longest = int(lengths.argmax())
        if lengths[longest] > self.max_tokens:
            raise ValueError(
                f"text {longest} makes {lengths[longest]} tokens, and the encoder reads "
                f"{self.max_tokens} at most; shorten it, e.g. its history"
            )
        if lengths.min() == 0:
            raise ValueError(f"text {lengths.argmin()} makes no token; give it some text")
        for i, row in enumerate(tokens):
            if max(row) >= self.config.vocab_size:
                raise ValueError(
                    f"text {i} has token {max(row)}, and the encoder knows "
                    f"{self.config.vocab_size}; the tokenizer belongs to another model"
                )


@functools.partial(jax.jit, static_argnames=("graphdef", "pooling", "unit_length"))
def encode_tokens(
    graphdef: nnx.GraphDef[Any],
    params: Any,
    tokens: jax.Array,
    segments: jax.Array,
    mask: jax.Array,
    pooling: str = "mean",
    unit_length: bool = False,
) -> jax.Array:
    """One vector for each row of tokens. Pure, and differentiable in `params`.

    Args:
      graphdef: the structure of an `Encoder`.
      params: its parameters, as `nnx.split` gives them.
      tokens: i32[B, L].
      segments: i32[B, L], 0 in the first text of a pair and 1 in the second.
      mask: bool or i32 [B, L], which tokens are text and not padding after it.
      pooling: "mean" or "cls".
      unit_length: whether vectors are scaled to length 1.

    Returns:
      f32[B, D]; arbitrary finite values in rows that are all padding.
    """
    hidden = nnx.merge(graphdef, params)(tokens, segments, mask != 0).astype(jnp.float32)
    if pooling == "cls":
        vectors = hidden[:, 0]
    else:
        weight = (mask != 0)[..., None].astype(jnp.float32)
        vectors = (hidden * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)
    if unit_length:
        length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors = vectors / jnp.maximum(length, 1e-12)
    return vectors


def load_encoder(path_or_hub_id: str | Path, dtype: Any = jnp.float32) -> TextEncoder:
    """Loads a BERT encoder, or a sentence encoder made of one, from an unmodified checkpoint.

    Examples:
      >>> encoder = models.load_encoder("minilm")  # a directory, or a hub id
      >>> encoder.encode(["wash the cup"]).shape == (1, encoder.config.hidden_size)
      True

    Args:
      path_or_hub_id: a directory with `config.json` (`model_type` "bert"), `model.safetensors` and
        `tokenizer.json`; or an id on the Hugging Face hub such as
        "sentence-transformers/all-MiniLM-L6-v2", whose files are downloaded once. Where
        `modules.json` of sentence-transformers is there, it says how tokens are pooled and whether
        vectors have length 1, and `sentence_bert_config.json` how long a text may be and whether it
        is read in lower case. Without it, vectors are means of whatever length.
      dtype: of parameters and activations: float32, bfloat16 or float16. Vectors are f32 always.

    Returns:
      The encoder, its parameters on the default device.

    Raises:
      CheckpointError: there is no such directory or hub id, or the checkpoint is not complete,
        not supported or damaged; the message lists all that is wrong.
      ValueError: `dtype` is not one of the three.
    """
    check_dtype(dtype)
    directory = places.find(path_or_hub_id, _FILES)
    if directory.is_file():
        raise CheckpointError(str(directory), ["GGUF files of text encoders are not supported"])
    found = HFDirectory(directory)
    pooling, unit_length, max_tokens, lower_case = _read_modules(directory)
    config, graphdef, params, tokenizer = checkpoint.read(found, dtype, architectures.ENCODERS)
    if max_tokens is None and (directory / _MODULES).is_file():
        # Where sentence-transformers 6 has it.
        max_tokens = tokenizer.model_max_length
    max_tokens = min(max_tokens or config.max_position_embeddings, config.max_position_embeddings)
    return TextEncoder(
        config=config,
        graphdef=graphdef,
        params=params,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        pooling=pooling,
        unit_length=unit_length,
        fingerprint=checkpoint.fingerprint(
            found, dtype, f"{pooling} {unit_length}{' lower case' if lower_case else ''}"
        ),
        lower_case=lower_case,
    )


def _read_modules(directory: Path) -> tuple[str, bool, int | None, bool]:
    """Pooling, whether vectors have length 1, the longest text if it is said, and lower case."""
    if not (directory / _MODULES).is_file():
        return "mean", False, None, False
    problems: list[str] = []
    modules = hf_directory.read_json(directory / _MODULES, problems, list)
    pooling, unit_length = "mean", False
    for i, module in enumerate(modules or []):
        module = module if isinstance(module, dict) else {}
        kind = str(module.get("type")).split(".")[-1]
        if kind == "Pooling":
            pooling = _read_pooling(directory, module.get("path"), problems)
        elif kind == "Normalize":
            unit_length = True
        elif kind != "Transformer":
            problems.append(
                f"{_MODULES}: module {i} is {kind!r}; supported are 'Transformer', 'Pooling' and "
                "'Normalize'"
            )
    max_tokens, lower_case = None, False
    if (directory / _SENTENCE).is_file():
        fields = hf_directory.read_json(directory / _SENTENCE, problems)
        reader = Reader(fields or {}, f"{_SENTENCE}: ", problems)
        if "max_seq_length" in reader.fields:
            max_tokens = reader.integer("max_seq_length")
        lower_case = reader.flag("do_lower_case", False)
        reader.must_be("transformer_task", "feature-extraction")
        reader.must_be("module_output_name", "token_embeddings")
        text = reader.table("modality_config").table("text")
        text.must_be("method", "forward")
        text.must_be("method_output_name", "last_hidden_state")
    if problems:
        raise CheckpointError(str(directory), problems)
    return pooling, unit_length, max_tokens, lower_case


def _read_pooling(directory: Path, path: Any, problems: list[str]) -> str:
    # A bare name, so that the list of modules cannot point out of its directory.
    if not isinstance(path, str) or Path(path).name != path:
        problems.append(f"{_MODULES}: path is {path!r}, which is no folder beside it")
        return "mean"
    fields = hf_directory.read_json(directory / path / hf_directory.CONFIG, problems)
    if fields is None:
        return "mean"
    if "pooling_mode" in fields:  # As sentence-transformers 6 writes it: one name, or several.
        given = fields["pooling_mode"]
        modes = [str(mode) for mode in given] if isinstance(given, list) else [str(given)]
        known = {mode: mode for mode in _POOLING.values()}
    else:
        modes = [name for name, on in fields.items() if name.startswith("pooling_mode_") and on]
        known = _POOLING
    if len(modes) == 1 and modes[0] in known:
        return known[modes[0]]
    problems.append(
        f"{path}/{hf_directory.CONFIG}: the pooling is {', '.join(modes) or 'not said'}; supported "
        f"is one of {', '.join(known)}"
    )
    return "mean"


def _power_of_two(n: int) -> int:
    return 1 << (int(n) - 1).bit_length()


def _check_texts(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    for name, group in (("texts", texts), ("pairs", [] if pairs is None else pairs)):
        if isinstance(group, str):
            raise TypeError(f"{name} must be a list of strings, not one string; put it in a list")
        for i, text in enumerate(group):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{i}] must be a string, not {type(text).__name__}")
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"{len(texts)} texts and {len(pairs)} pairs; every text needs one")
