"""A language model as one value: decoder, parameters, tokenizer, and what identifies them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from llmprior_jax.models import architectures, checkpoint
from llmprior_jax.models.config import CheckpointError, DecoderConfig
from llmprior_jax.models.encoder_decoder import EncoderDecoder

# Importing transformers takes seconds, and it imports torch where torch is installed. Only who
# loads a model pays for that.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_EMBEDDED = {"tiny": Path(__file__).parent / "tiny"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_DTYPES = ("float32", "bfloat16", "float16")


class ModelConfig(Protocol):
    """What the config of any model has, whatever else.

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

    A model of your own, or one of another library, takes part as a `LanguageModel` made by hand:
    `LanguageModel(config, *nnx.split(module), tokenizer, fingerprint)`. Its `module` is a Flax NNX
    module of two functions:

      module(tokens i32[B, L], positions i32[B, L], mask bool[B, L, L]) -> hidden [B, L, D]
      module.logits(hidden [..., D]) -> f32[..., V]

    `positions` says where each token stands in its own text, and `mask[b, i, j]` whether token i
    may attend to token j. Both hold several texts in one row, so the module must go by them and may
    not assume that the tokens of a row follow one another. A module that gives logits at once can
    return them as its hidden states and have the identity as `logits`, with `hidden_size` V, at the
    price of an array [B, L, V]. `Decoder` documents both functions; sampling also needs its
    `extend`. A config must have what `ModelConfig` has. The fingerprint must differ wherever the
    numbers may.

    A pure function takes `params` as an argument and puts the model together inside:
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
      fingerprint: SHA-256 over the checkpoint's config, tokenizer and weight files and the dtype:
        two models with the same fingerprint give the same numbers.
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
    """Loads a language model from an unmodified Hugging Face checkpoint.

    Families, by the `model_type` of `config.json`: Qwen1.5, 2 and 2.5 ("qwen2"), Qwen3 ("qwen3"),
    Llama ("llama"), Mistral ("mistral"), Gemma 2 ("gemma2"), Gemma 3 ("gemma3_text", and "gemma3",
    whose part for images is left out), and the encoder-decoders T5 and Flan-T5 ("t5").

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
        whose files are downloaded once; or "tiny", the small model that comes with the package.
      dtype: of parameters and activations: float32, bfloat16 or float16. None is float32 on a CPU,
        and bfloat16 on accelerators, whose matrix units are made for it. Norms, softmax and
        log-probabilities are float32 always.
      quantize: "int8" keeps the weight matrices of a decoder's blocks in 8 bits, for a model that
        does not fit otherwise; `quantization` says what that does to log-probabilities. The host's
        memory must hold the whole model for a while.

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
    directory = find_directory(path_or_hub_id, checkpoint.FILES)
    supported = architectures.LANGUAGE_MODELS
    if quantize is None:
        config, graphdef, params = checkpoint.read(directory, dtype, supported)
    else:
        from llmprior_jax.models import quantization

        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            config, graphdef, params = checkpoint.read(directory, dtype, supported)
            if not isinstance(config, DecoderConfig):
                raise ValueError(f"{directory} is no decoder, and only decoders can be quantized")
            graphdef, params = quantization.int8(graphdef, params)
        (default,) = jnp.zeros(()).devices()
        params = jax.device_put(params, default)
    return LanguageModel(
        config=config,
        graphdef=graphdef,
        params=params,
        tokenizer=read_tokenizer(directory, config),
        fingerprint=checkpoint.fingerprint(directory, dtype, quantize or ""),
    )


def load_tokenizer(path_or_hub_id: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the model that `load` would give, without its weights.

    Examples:
      >>> tokenizer = models.load_tokenizer("tiny")
      >>> tokenizer.decode(tokenizer("wash the cup").input_ids)
      'wash the cup'

    Raises:
      CheckpointError: there is no such directory or hub id, or its tokenizer cannot be read.
    """
    return read_tokenizer(find_directory(path_or_hub_id, checkpoint.FILES))


def reads_apart(path_or_hub_id: str | Path) -> bool:
    """Whether the model that `load` would give is an encoder-decoder, found without its weights.

    An encoder-decoder reads a prompt apart from its answers.

    Raises:
      CheckpointError: there is no such directory or hub id.
    """
    directory = find_directory(path_or_hub_id, checkpoint.FILES)
    fields = checkpoint.read_json(directory / checkpoint.CONFIG, []) or {}
    architecture = architectures.LANGUAGE_MODELS.get(str(fields.get("model_type")))
    return architecture is not None and architecture.module is EncoderDecoder


def fingerprint(path_or_hub_id: str | Path, dtype: Any = None, quantize: str | None = None) -> str:
    """The `fingerprint` of the model that `load` would give, without loading it.

    Examples:
      >>> models.fingerprint("tiny") == models.load("tiny").fingerprint
      True

    Raises:
      CheckpointError: there is no such directory or hub id.
    """
    dtype = _default_dtype() if dtype is None else dtype
    directory = find_directory(path_or_hub_id, checkpoint.FILES)
    return checkpoint.fingerprint(directory, dtype, quantize or "")


def _default_dtype() -> Any:
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def check_dtype(dtype: Any) -> None:
    """Raises a ValueError unless models can be loaded in this dtype."""
    if jnp.dtype(dtype).name not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; supported are {', '.join(_DTYPES)}")


def find_directory(path_or_hub_id: str | Path, files: Sequence[str]) -> Path:
    """The directory of a checkpoint; of one on the hub, `files` (patterns) are downloaded once.

    Raises:
      CheckpointError: it is neither here nor on the hub.
    """
    name = str(path_or_hub_id)
    directory = _EMBEDDED.get(name, Path(name).expanduser())
    if directory.is_dir():
        return directory
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            name, ["it is no directory, and its name is not of the form that hub ids have"]
        )
    return _download(name, files)


def _download(hub_id: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            hub_id,
            [
                "it is no directory here, and the Hugging Face hub did not give it: check the "
                "name, the network, and for a gated model that you are logged in; or download the "
                f"checkpoint elsewhere and give its path ({type(error).__name__}: {error})"
            ],
        ) from error


def read_tokenizer(directory: Path, config: ModelConfig | None = None) -> PreTrainedTokenizerFast:
    """A checkpoint's own fast tokenizer.

    Raises:
      CheckpointError: it cannot be read, or has more tokens than the model of `config`.
    """
    from transformers import PreTrainedTokenizerFast

    # The class for any tokenizer.json, whatever class tokenizer_config.json names: the file alone
    # says how text becomes tokens, and no other code is needed.
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # The tokenizers library raises bare Exceptions.
        problem = f"{checkpoint.TOKENIZER} cannot be read: {type(error).__name__}: {error}"
        raise CheckpointError(str(directory), [problem]) from error
    # Tokens added later, such as an image's, may lie beyond the embedding and mostly never occur.
    if config is not None and tokenizer.vocab_size > config.vocab_size:
        problem = (
            f"{checkpoint.TOKENIZER} has {tokenizer.vocab_size} tokens, but the model embeds only "
            f"{config.vocab_size} (vocab_size in {checkpoint.CONFIG}): it belongs to another model"
        )
        raise CheckpointError(str(directory), [problem])
    return tokenizer
