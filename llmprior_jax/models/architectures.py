"""The kinds of models that checkpoints hold, and the names of their parameters there.

An `Architecture` is all that reading and writing a checkpoint needs to know. Its table maps our
parameter to the checkpoint's tensor; a `*` stands for the number of a block.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from flax import nnx

from llmprior_jax.models.config import FAMILIES, DecoderConfig
from llmprior_jax.models.decoder import Decoder
from llmprior_jax.models.encoder import Encoder, EncoderConfig
from llmprior_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig


class Architecture(NamedTuple):
    """One kind of model.

    Attributes:
      read_config: makes a config out of the fields of `config.json` and the names of the tensors in
        the weight files; raises a CheckpointError.
      module: makes the model out of a config; takes `rngs`, `dtype` and `init` as `Decoder` does.
      tensors: for a config, our parameter -> the checkpoint's tensor.
      spare: whether a checkpoint of this config may hold a tensor that nothing needs.
      tied: the checkpoint's tensors for the embedding and for the logits, where a config with
        `tie_word_embeddings` may have either or both.
      prefixes: what some files write before the names of all tensors, and what stands for it here.
      endings: older endings of names, and what stands for them here.
    """

    read_config: Callable[[Mapping[str, Any], Collection[str]], Any]
    module: Callable[..., nnx.Module]
    tensors: Callable[[Any], Mapping[str, str]]
    spare: Callable[[str, Any], bool]
    tied: tuple[str, str] | None = None
    prefixes: tuple[tuple[str, str], ...] = ()
    endings: tuple[tuple[str, str], ...] = ()

    def tensor_name(self, path: tuple[Any, ...], config: Any) -> str:
        """The checkpoint's name of the parameter at `path`, as `nnx.to_flat_state` gives paths."""
        block = next((str(part) for part in path if isinstance(part, int)), "")
        starred = ".".join("*" if isinstance(part, int) else str(part) for part in path)
        return self.tensors(config)[starred].replace("*", block)

    def standard_name(self, name: str) -> str:
        """The name that the table has for a tensor, which files may name differently."""
        for before, after in self.prefixes:
            if name.startswith(before):
                name = after + name.removeprefix(before)
                break
        for before, after in self.endings:
            if name.endswith(before):
                name = name.removesuffix(before) + after
        return name


def of(config: Any) -> Architecture:
    """The architecture that a config is of."""
    return {
        DecoderConfig: _DECODER,
        EncoderDecoderConfig: _ENCODER_DECODER,
        EncoderConfig: _ENCODER,
    }[type(config)]


# Decoders.

_DECODER_TENSORS = {
    "embed": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "lm_head.kernel": "lm_head.weight",
    "blocks.*.input_norm.scale": "model.layers.*.input_layernorm.weight",
    "blocks.*.attention.q_proj.kernel": "model.layers.*.self_attn.q_proj.weight",
    "blocks.*.attention.q_proj.bias": "model.layers.*.self_attn.q_proj.bias",
    "blocks.*.attention.q_norm.scale": "model.layers.*.self_attn.q_norm.weight",
    "blocks.*.attention.k_proj.kernel": "model.layers.*.self_attn.k_proj.weight",
    "blocks.*.attention.k_proj.bias": "model.layers.*.self_attn.k_proj.bias",
    "blocks.*.attention.k_norm.scale": "model.layers.*.self_attn.k_norm.weight",
    "blocks.*.attention.v_proj.kernel": "model.layers.*.self_attn.v_proj.weight",
    "blocks.*.attention.v_proj.bias": "model.layers.*.self_attn.v_proj.bias",
    "blocks.*.attention.o_proj.kernel": "model.layers.*.self_attn.o_proj.weight",
    "blocks.*.attention.o_proj.bias": "model.layers.*.self_attn.o_proj.bias",
    "blocks.*.mlp_norm.scale": "model.layers.*.post_attention_layernorm.weight",
    "blocks.*.mlp.gate_proj.kernel": "model.layers.*.mlp.gate_proj.weight",
    "blocks.*.mlp.gate_proj.bias": "model.layers.*.mlp.gate_proj.bias",
    "blocks.*.mlp.up_proj.kernel": "model.layers.*.mlp.up_proj.weight",
    "blocks.*.mlp.up_proj.bias": "model.layers.*.mlp.up_proj.bias",
    "blocks.*.mlp.down_proj.kernel": "model.layers.*.mlp.down_proj.weight",
    "blocks.*.mlp.down_proj.bias": "model.layers.*.mlp.down_proj.bias",
}
# With norms on both sides of attention and MLP, a name means something else.
_POST_NORM_DECODER_TENSORS = _DECODER_TENSORS | {
    "blocks.*.attention_post_norm.scale": "model.layers.*.post_attention_layernorm.weight",
    "blocks.*.mlp_norm.scale": "model.layers.*.pre_feedforward_layernorm.weight",
    "blocks.*.mlp_post_norm.scale": "model.layers.*.post_feedforward_layernorm.weight",
}


def _decoder_spare(name: str, config: DecoderConfig) -> bool:
    tied_copy = config.tie_word_embeddings and name == "lm_head.weight"
    old_llama = name.endswith("rotary_emb.inv_freq")  # Computed here.
    # A model that reads images too is read for its text.
    images = ("vision_tower.", "multi_modal_projector.")
    return tied_copy or old_llama or name.removeprefix("model.").startswith(images)


_DECODER = Architecture(
    read_config=lambda fields, _: DecoderConfig.from_hf(fields),
    module=Decoder,
    tensors=lambda config: _POST_NORM_DECODER_TENSORS if config.post_norms else _DECODER_TENSORS,
    spare=_decoder_spare,
    tied=("model.embed_tokens.weight", "lm_head.weight"),
    prefixes=(
        ("language_model.model.", "model."),
        ("model.language_model.", "model."),
        ("language_model.lm_head.", "lm_head."),
    ),
)


# Encoder-decoders.


def _projections(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{name}_proj.kernel": f"{theirs}.{name}.weight" for name in "qkvo"}


_ENCODER_DECODER_TENSORS = {
    "embed": "shared.weight",
    "lm_head.kernel": "lm_head.weight",
    "decoder.blocks.*.cross_attention_norm.scale": "decoder.block.*.layer.1.layer_norm.weight",
    **_projections("decoder.blocks.*.cross_attention", "decoder.block.*.layer.1.EncDecAttention"),
}
for _stack, _mlp in ("encoder", 1), ("decoder", 2):
    _attention, _dense = f"{_stack}.block.*.layer.0", f"{_stack}.block.*.layer.{_mlp}"
    _ENCODER_DECODER_TENSORS.update(
        {
            f"{_stack}.norm.scale": f"{_stack}.final_layer_norm.weight",
            f"{_stack}.distance_bias": (
                f"{_stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            ),
            f"{_stack}.blocks.*.attention_norm.scale": f"{_attention}.layer_norm.weight",
            **_projections(f"{_stack}.blocks.*.attention", f"{_attention}.SelfAttention"),
            f"{_stack}.blocks.*.mlp_norm.scale": f"{_dense}.layer_norm.weight",
            f"{_stack}.blocks.*.mlp.gate_proj.kernel": f"{_dense}.DenseReluDense.wi_0.weight",
            f"{_stack}.blocks.*.mlp.up_proj.kernel": f"{_dense}.DenseReluDense.wi_1.weight",
            f"{_stack}.blocks.*.mlp.down_proj.kernel": f"{_dense}.DenseReluDense.wo.weight",
        }
    )
_UNGATED_ENCODER_DECODER_TENSORS = _ENCODER_DECODER_TENSORS | {
    "encoder.blocks.*.mlp.up_proj.kernel": "encoder.block.*.layer.1.DenseReluDense.wi.weight",
    "decoder.blocks.*.mlp.up_proj.kernel": "decoder.block.*.layer.2.DenseReluDense.wi.weight",
}


def _encoder_decoder_spare(name: str, config: EncoderDecoderConfig) -> bool:
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    # A bias between positions of decoder and encoder, which early files hold and never used.
    return name in copies or name.endswith("EncDecAttention.relative_attention_bias.weight")


_ENCODER_DECODER = Architecture(
    read_config=lambda fields, names: EncoderDecoderConfig.from_hf(fields, tensors=names),
    module=EncoderDecoder,
    tensors=lambda config: (
        _ENCODER_DECODER_TENSORS if config.gated_mlp else _UNGATED_ENCODER_DECODER_TENSORS
    ),
    spare=_encoder_decoder_spare,
)


# Encoders.

_ENCODER_TENSORS = {
    "embed": "embeddings.word_embeddings.weight",
    "position_embed": "embeddings.position_embeddings.weight",
    "segment_embed": "embeddings.token_type_embeddings.weight",
    "norm.scale": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
    "blocks.*.q_proj.kernel": "encoder.layer.*.attention.self.query.weight",
    "blocks.*.q_proj.bias": "encoder.layer.*.attention.self.query.bias",
    "blocks.*.k_proj.kernel": "encoder.layer.*.attention.self.key.weight",
    "blocks.*.k_proj.bias": "encoder.layer.*.attention.self.key.bias",
    "blocks.*.v_proj.kernel": "encoder.layer.*.attention.self.value.weight",
    "blocks.*.v_proj.bias": "encoder.layer.*.attention.self.value.bias",
    "blocks.*.o_proj.kernel": "encoder.layer.*.attention.output.dense.weight",
    "blocks.*.o_proj.bias": "encoder.layer.*.attention.output.dense.bias",
    "blocks.*.attention_norm.scale": "encoder.layer.*.attention.output.LayerNorm.weight",
    "blocks.*.attention_norm.bias": "encoder.layer.*.attention.output.LayerNorm.bias",
    "blocks.*.mlp.up_proj.kernel": "encoder.layer.*.intermediate.dense.weight",
    "blocks.*.mlp.up_proj.bias": "encoder.layer.*.intermediate.dense.bias",
    "blocks.*.mlp.down_proj.kernel": "encoder.layer.*.output.dense.weight",
    "blocks.*.mlp.down_proj.bias": "encoder.layer.*.output.dense.bias",
    "blocks.*.mlp_norm.scale": "encoder.layer.*.output.LayerNorm.weight",
    "blocks.*.mlp_norm.bias": "encoder.layer.*.output.LayerNorm.bias",
}


def _encoder_spare(name: str, config: EncoderConfig) -> bool:
    # Heads for what it was pre-trained on, and a table of the numbers 0, 1, 2, ...
    return name.startswith(("pooler.", "cls.")) or name == "embeddings.position_ids"


_ENCODER = Architecture(
    read_config=lambda fields, _: EncoderConfig.from_hf(fields),
    module=Encoder,
    tensors=lambda _: _ENCODER_TENSORS,
    spare=_encoder_spare,
    prefixes=(("bert.", ""),),
    endings=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
)

# By the `model_type` of config.json.
LANGUAGE_MODELS = dict.fromkeys(FAMILIES, _DECODER) | {"t5": _ENCODER_DECODER}
ENCODERS = {"bert": _ENCODER}
