"""A language model as one value: decoder, parameters, tokenizer, and what identifies them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from llmprior_jax.models import adapters, architectures, checkpoint, lora
from llmprior_jax.models.adapters import Adapter
from llmprior_jax.models.checkpoint import Checkpoint
from llmprior_jax.models.config import CheckpointError, DecoderConfig
from llmprior_jax.models.encoder_decoder import EncoderDecoder
from llmprior_jax.models.formats import hf_directory, places

# Importing transformers takes seconds, and it imports torch where torch is installed. Only who
# loads a model pays for that.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_DTYPES = ("float32", "bfloat16", "float16")


class ModelConfig(Protocol):
    """The fields that the config of any model must have.

    Examples:
      >>> config: models.ModelConfig = models.load("tiny").config
      >>> config.hidden_size < config.vocab_size
      True

    Attributes:
      vocab_size: token ids are less than this.
      hidden_size: width of a hidden state, D.
      max_position_embeddings: longest text in tokens.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder, or an encoder and a decoder, with parameters and tokenizer.

    To use a model of your own or of another library, make a `LanguageModel` by hand:
    `LanguageModel(config, *nnx.split(module), tokenizer, fingerprint)`. Its `module` is a Flax NNX
    module with two functions:

      module(tokens i32[B, L], positions i32[B, L], mask bool[B, L, L]) -> hidden [B, L, D]
      module.logits(hidden [..., D]) -> f32[..., V]

    `positions` is the position of each token in its own text, and `mask[b, i, j]` says whether
    token i may attend to token j. A row can hold several texts, so the module must use both and not
    assume that the tokens of a row follow one another. A module that computes logits directly can
    return them as its hidden states and use the identity as `logits`, with `hidden_size` V, at the
    cost of an array [B, L, V]. `Decoder` documents both functions; sampling also needs its
    `extend`. A config must have the fields of `ModelConfig`. Models whose numbers may differ must
    have different fingerprints.

    A pure function takes `params` as an argument and merges the model inside:
    `nnx.merge(lm.graphdef, params)(tokens, positions, mask)`.

    Examples:
      >>> from flax import nnx
      >>> lm = models.load("tiny")
      >>> @jax.jit
      ... def hidden(params, tokens):
      ...     positions = jnp.arange(tokens.shape[1])[None]
      ...     mask = jnp.tri(tokens.shape[1], dtype=bool)[None]
      ...     return nnx.merge(lm.graphdef, params)(tokens, positions, mask)
      >>> hidden(lm.params, jnp.array([[1, 2]])).shape == (1, 2, lm.config.hidden_size)
      True

    Attributes:
      config: shape and variant of the model: a `DecoderConfig`, an `EncoderDecoderConfig`, or
        another `ModelConfig`.
      graphdef: the model without its parameters (hashable, a static argument of `jax.jit`).
      params: the model's parameters, a pytree of arrays.
      tokenizer: the checkpoint's own fast tokenizer.
      fingerprint: SHA-256 over the checkpoint's config, tokenizer and weight files (or its GGUF
        file), the dtype, and the version of what computes numbers here: two models with the same
        fingerprint give the same numbers.
      mesh: the devices that the parameters are on, where `partition` put them; None for one device.
      kept: what was computed with these parameters and may be needed again, by name; a copy made by
        `dataclasses.replace` begins without.
    """

    config: Any
    graphdef: nnx.GraphDef[Any]
    params: nnx.State[Any, Any]
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    mesh: jax.sharding.Mesh | None = None
    kept: dict[str, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )


def load(
    path_or_hub_id: str | Path, dtype: Any = None, quantize: str | None = None
) -> LanguageModel:
    """Loads a language model from an unmodified Hugging Face checkpoint, or a GGUF file.

    Families, by the `model_type` of `config.json`: Qwen1.5, 2 and 2.5 ("qwen2"), Qwen3 ("qwen3"),
    Llama ("llama"), Mistral ("mistral"), Gemma 2 ("gemma2"), Gemma 3 ("gemma3_text", and "gemma3",
    whose part for images is left out), and the encoder-decoders T5 and Flan-T5 ("t5").

    GGUF files, by their `general.architecture`: "llama" (Mistral, too), "qwen2", "qwen3", "gemma2"
    and "gemma3". Tokenizer and chat template come from the file. Its weights are converted to
    `dtype`, so the model takes as much memory as any other of its shape; llama.cpp, which also
    rounds activations, gives slightly different numbers.

    Adapters in PEFT's format (`models.adapters`): their base model, adapted.

    On a CPU, loading needs as much host memory as the weights in `dtype`, the tokenizer (some
    100 MB for Gemma's 262,144 tokens, otherwise little) and 30 MB.

    Examples:
      >>> lm = models.load("tiny")  # or "Qwen/Qwen2.5-0.5B", or a directory
      >>> lm.config.num_hidden_layers > 0
      True
      >>> models.load("/nowhere")
      Traceback (most recent call last):
      CheckpointError: ...

    Args:
      path_or_hub_id: a directory with `config.json`, `model.safetensors` (or shards and their
        index) and `tokenizer.json`; or an id on the Hugging Face hub such as "Qwen/Qwen2.5-0.5B",
        whose files are downloaded once; or "tiny", the small model that comes with the package. Or
        a GGUF file, a directory with no more than one, or one on the hub, "owner/name/file.gguf".
        Of a GGUF file that is split ("x-00001-of-00003.gguf"), any part stands for all. Or the
        directory of an adapter, which names the model that it is for.
      dtype: of parameters and activations: float32, bfloat16 or float16. None is float32 on a CPU,
        and bfloat16 on accelerators, whose matrix units are made for it. Norms, softmax and
        log-probabilities are float32 always.
      quantize: "int8" keeps the weight matrices of a decoder's blocks in 8 bits, for a model that
        does not fit otherwise; `quantization` says what that does to log-probabilities. While it is
        quantized the host's memory holds 1.7 times the weights in `dtype` (SmolLM2, float32).

    Returns:
      The model, its parameters on the default device.

    Raises:
      CheckpointError: there is no such directory or hub id, or the checkpoint is not complete,
        not supported or damaged; the message lists all that is wrong.
      ValueError: `dtype` is not one of the three, or the model cannot be quantized so.
    """
    dtype = _default_dtype() if dtype is None else dtype
    check_dtype(dtype)
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize is {quantize!r}; supported are 'int8' and None")
    adapter, found = _open(path_or_hub_id, hf_directory.FILES)

    def read() -> checkpoint.Contents:
        contents = checkpoint.read(found, dtype, architectures.LANGUAGE_MODELS)
        if adapter is None:
            return contents
        factors = adapter.read(contents.config, adapters.shapes_of(contents.params))
        return contents._replace(params=lora.merge(contents.params, factors))

    if quantize is None:
        config, graphdef, params, tokenizer = read()
    else:
        try:
            from llmprior_jax.models import quantization
        except ModuleNotFoundError as error:
            raise ImportError(
                f"weights of 8 bits need {error.name}: pip install 'llmprior-jax[int8]'"
            ) from error

        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            config, graphdef, params, tokenizer = read()
            if not isinstance(config, DecoderConfig):
                raise ValueError(f"{found.path} is no decoder, and only decoders can be quantized")
            graphdef, params = quantization.int8(graphdef, params)
        (default,) = jnp.zeros(()).devices()
        params = jax.device_put(params, default)
    return LanguageModel(
        config=config,
        graphdef=graphdef,
        params=params,
        tokenizer=tokenizer,
        fingerprint=_fingerprint(adapter, found, dtype, quantize),
    )


def check(path_or_hub_id: str | Path) -> None:
    """Raises the error that `load` would, as far as that shows without reading the weights.

    Raises:
      CheckpointError: there is no such directory or hub id, or the checkpoint is not complete, or
        not supported.
    """
    adapter, found = _open(path_or_hub_id, hf_directory.FILES)
    checked = checkpoint.check(found, _default_dtype(), architectures.LANGUAGE_MODELS)
    if adapter is not None:
        adapter.check(checked.config, adapters.shapes_of(nnx.from_flat_state(checked.parameters)))


def fingerprint(path_or_hub_id: str | Path, dtype: Any = None, quantize: str | None = None) -> str:
    """The `fingerprint` of the model that `load` would give, without loading it.

    Examples:
      >>> models.fingerprint("tiny") == models.load("tiny").fingerprint
      True

    Raises:
      CheckpointError: there is no such directory or hub id.
    """
    dtype = _default_dtype() if dtype is None else dtype
    adapter, found = _open(path_or_hub_id, hf_directory.FILES)
    return _fingerprint(adapter, found, dtype, quantize)


def load_tokenizer(path_or_hub_id: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the model that `load` would give, without its weights.

    It has the checkpoint's `chat_template`, if there is one: that of a GGUF file, or
    `chat_template.jinja`, or the one in `tokenizer_config.json`.

    Examples:
      >>> tokenizer = models.load_tokenizer("tiny")
      >>> tokenizer.decode(tokenizer("wash the cup").input_ids)
      'wash the cup'

    Args:
      path_or_hub_id: as `load` takes it. Of a directory on the hub, no weights are downloaded.

    Raises:
      CheckpointError: there is no such checkpoint, or its tokenizer cannot be read.
    """
    _, found = _open(path_or_hub_id, hf_directory.TOKENIZER_FILES, weights=False)
    return found.load_tokenizer()


def reads_apart(path_or_hub_id: str | Path) -> bool:
    """Whether the model that `load` would give is an encoder-decoder, found without its weights.

    An encoder-decoder reads a prompt apart from its answers.

    Raises:
      CheckpointError: there is no such checkpoint.
    """
    _, found = _open(path_or_hub_id, (hf_directory.CONFIG,), weights=False)
    fields = found.read_fields([]) or {}
    architecture = architectures.LANGUAGE_MODELS.get(str(fields.get("model_type")))
    return architecture is not None and architecture.module is EncoderDecoder


def _open(
    path_or_hub_id: str | Path, files: Sequence[str], weights: bool = True
) -> tuple[Adapter | None, Checkpoint]:
    """A checkpoint as `places.find` finds it, and what it is adapted by."""
    if not adapters.is_adapter(path_or_hub_id):
        return None, places.open_checkpoint(places.find(path_or_hub_id, files, weights))
    adapter = adapters.open_adapter(path_or_hub_id)
    try:
        return adapter, places.open_checkpoint(places.find(adapter.base, files, weights))
    except CheckpointError as error:
        of = f"the model that it adapts, {adapter.base} (base_model_name_or_path in"
        problems = [f"{of} {adapters.CONFIG}): {problem}" for problem in error.problems]
        raise CheckpointError(str(path_or_hub_id), problems) from error


def _fingerprint(
    adapter: Adapter | None, found: Checkpoint, dtype: Any, quantize: str | None
) -> str:
    of_base = checkpoint.fingerprint(found, dtype, quantize or "")
    if adapter is None:
        return of_base
    return hashlib.sha256(f"{of_base} adapted by {adapter.identity}".encode()).hexdigest()


def _default_dtype() -> Any:
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def check_dtype(dtype: Any) -> None:
    """Raises a ValueError unless models can be loaded in this dtype."""
    if jnp.dtype(dtype).name not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; supported are {', '.join(_DTYPES)}")
