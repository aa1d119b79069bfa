"""How much is scored at once: rows of a pass, tokens of a row, and the vocabulary's part.

The rule, by the platform that the model is on, its shape, and the memory of the device:

- **CPU.** Passes are small, so that what a pass needs stays in the caches: four rows, of 512 tokens
  at most; longer ones go one by one. The vocabulary is projected 64 positions at a time, and of its
  matrix as many columns at a time as 2^20 weights have. They stay in the cache while all positions
  are projected onto them, so the matrix is read from memory once, whatever the number of positions,
  and logits are never written to memory. Memory sets no limit: less is held than by 1% of the
  weights of any model that is worth asking.
- **GPU and TPU.** A pass has as many tokens as fill the matrix units: 2^24 over the model's width,
  from 2,048 to 16,384. The vocabulary is projected whole, 512 positions at a time, which is about
  as many as a matrix of 16 bits must meet to be worth its reading. Both are halved as often as it
  takes for activations to fit into a quarter and logits into a sixteenth of the memory that the
  weights leave.
- **A model cut over several devices** (`models.partition`) projects the vocabulary whole on any
  platform: its columns lie on different devices.

Rows have the standard length or that of the longest state, whichever costs less: its tokens, each
with its attention to the whole row, and a little for each pass (`packing`). Attention is the larger
part the narrower the model is, so a small model has short rows. Each length is compiled once, which
takes seconds. So where a row takes milliseconds, on an accelerator or with a small model, rows have
two lengths to each doubling if little is asked at once, in place of up to eight.

All processes of a run have the sizes of the first one, and scores are the same at all sizes but for
rounding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax

from llmprior_jax.distributed import processes
from llmprior_jax.models import DecoderConfig, LanguageModel

# A state with more tokens has a row of its own.
ROW_TOKENS = 512
_COLUMNS_WEIGHTS = 1 << 20
# A model with fewer weights, embeddings apart, computes a row in some hundredths of a second.
_SMALL_MODEL = 1 << 24


class Projection(NamedTuple):
    """How much of the projection onto the vocabulary is done at once.

    Attributes:
      positions: tokens whose next-token distribution is computed.
      columns: tokens of the vocabulary; None is all.
    """

    positions: int = 64
    columns: int | None = None


class Sizes(NamedTuple):
    """How much is scored at once.

    Attributes:
      rows: in one forward pass, at most; a power of two.
      pass_tokens: in all rows of a pass that has several.
      row_tokens: the standard length of a row that several states share: enough for them to have
        much in common and to leave little padding.
      attention_tokens: at this length of a row, a token's attention costs as much as all else.
      lengths_of_little: lengths of rows to each doubling, where little is asked at once.
      projection: onto the vocabulary.
    """

    rows: int = 4
    pass_tokens: int = 2048
    row_tokens: int = ROW_TOKENS
    attention_tokens: float = float("inf")
    lengths_of_little: int = 8
    projection: Projection = Projection()

    def rows_per_pass(self, row_tokens: int) -> Iterator[int]:
        """The numbers of rows of so many tokens that passes may have, falling to 1.

        Each is a quarter of the one before, so few shapes are compiled, and no rows of padding are
        computed: what is left of one number is done with the next.
        """
        rows = self.rows
        while rows > 1:
            if rows * row_tokens <= self.pass_tokens:
                yield rows
            rows //= 4
        yield 1


DEFAULT = Sizes()


def choose(lm: LanguageModel) -> Sizes:
    """The sizes for a model where it is: what `rule` says of it, kept with it."""
    sizes = lm.kept.get("sizes")
    if sizes is None:
        leaves = jax.tree.leaves(lm.params)
        parts = 1 if lm.mesh is None else lm.mesh.shape["model"]
        device = min(leaves[0].sharding.addressable_devices, key=lambda device: device.id)

        def memory() -> bytes:
            """How many bytes the device has; 0 where it does not say, as CPUs do not."""
            return int((device.memory_stats() or {}).get("bytes_limit", 0)).to_bytes(8)

        size = memory() if lm.mesh is None else processes.from_first(memory)
        free = int.from_bytes(size) - sum(leaf.nbytes for leaf in leaves) // parts
        config = lm.config if isinstance(lm.config, DecoderConfig) else None
        sizes = lm.kept["sizes"] = rule(config, device.platform, parts > 1, free)
    return sizes


def rule(config: DecoderConfig | None, platform: str, is_cut: bool, free: int) -> Sizes:
    """The sizes for a model, as the module says.

    Args:
      config: of the model; None where it is no decoder of ours, of which less is known.
      platform: "cpu", "gpu" or "tpu".
      is_cut: whether its weights are cut over several devices.
      free: bytes of memory that a device has beside the weights.
    """
    if config is None:
        return DEFAULT
    heads = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    block = config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)
    attention_tokens = block / (2 * heads)
    if platform == "cpu":
        columns = None if is_cut else _power_of_two(_COLUMNS_WEIGHTS / config.hidden_size)
        if columns is not None and columns >= config.vocab_size:
            columns = None
        return Sizes(
            attention_tokens=attention_tokens,
            lengths_of_little=2 if config.num_hidden_layers * block < _SMALL_MODEL else 8,
            projection=Projection(columns=columns),
        )
    tokens = min(max(_power_of_two((1 << 24) / config.hidden_size), 2048), 16_384)
    # Of a token, while a layer is computed: vectors of the model's width, those of the MLP, and
    # what each head makes of each token of the row, in float32.
    per_token = 4 * (6 * config.hidden_size + 3 * config.intermediate_size)
    per_token += 4 * 2 * config.num_attention_heads * ROW_TOKENS
    while tokens > ROW_TOKENS and tokens * per_token > free / 4:
        tokens //= 2
    positions = 512
    while positions > 32 and positions * config.vocab_size * 4 > free / 16:
        positions //= 2
    return Sizes(
        rows=tokens // 128,
        pass_tokens=tokens,
        attention_tokens=attention_tokens,
        lengths_of_little=2,
        projection=Projection(positions),
    )


def _power_of_two(number: float) -> int:
    """The largest power of two up to a number, 1 or more."""
    return 1 << max(0, int(number).bit_length() - 1)
