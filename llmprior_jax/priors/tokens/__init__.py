"""Text to token ids, as every use of a language model here wants them.

A prompt is a string in which special tokens are read as such: the markup of a chat template, say.
Text from outside, as of an environment, is to be read as text whatever it looks like, so it goes
into a prompt by way of `literal`, which puts a mark into what looks like a special token. All that
reads prompts here knows the mark and reads the text without it; for people there is `visible`.
"""

from llmprior_jax.priors.tokens.alignment import align, begins_plainly
from llmprior_jax.priors.tokens.encoding import (
    check_known,
    count_tokens,
    encode,
    encode_from_start,
    encode_whole,
    leading_special_tokens,
    must_be_decoder,
)
from llmprior_jax.priors.tokens.literals import literal, visible
from llmprior_jax.priors.tokens.words import last_cut

__all__ = [
    "align",
    "begins_plainly",
    "check_known",
    "count_tokens",
    "encode",
    "encode_from_start",
    "encode_whole",
    "last_cut",
    "leading_special_tokens",
    "literal",
    "must_be_decoder",
    "visible",
]
