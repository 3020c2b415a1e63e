"""Forward passes of imported weights through our blocks, in the arguments of `transformers`."""

import jax.numpy as jnp

from unified_fm.models.config import EncoderConfig
from unified_fm.models.embeddings import PatchEmbed, TextEmbed
from unified_fm.models.encoders import Encoder, Vision
from unified_fm.models.heads import MlmHead


def encoder(config, *, norm, **more):
    """Our encoder config of a `config.json`."""
    return EncoderConfig(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        eps=config["layer_norm_eps"],
        norm=norm,
        **more,
    )


def text(config, params, input_ids, attention_mask, token_type_ids=None):
    """hidden f[B L D], and MLM logits f[B L V] if there is a head, of BERT or RoBERTa."""
    cfg = encoder(config, norm="post")
    embed = TextEmbed(
        cfg,
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        segments=config["type_vocab_size"],
        pad_id=config["pad_token_id"],
        position_offset=config["model_type"],
    )
    x = embed.apply({"params": params["text_embed"]}, input_ids, token_type_ids)
    mask = attention_mask.astype(bool)
    hidden = Encoder(cfg).apply({"params": params["text"]}, x, mask)
    found = {"hidden": hidden}
    if "mlm_head" in params:
        # The tied decoder, given as a matrix of its own.
        head = params["mlm_head"] | {"embedding": params["text_embed"]["word"]["embedding"]}
        found["mlm_logits"] = MlmHead(cfg, config["vocab_size"]).apply({"params": head}, hidden)
    if "next_sentence_head" in params:
        pooled = jnp.tanh(_dense(params["pooler"], hidden[:, 0]))
        found["next_sentence_logits"] = _dense(params["next_sentence_head"], pooled)
    return found


def image(config, params, pixel_values):
    """hidden f[B 1+N D] after the final norm, and class logits if there is a head; ViT or BEiT."""
    beit = config["model_type"] == "beit"
    more = {"layer_scale": 0.1, "relative_position_bias": True, "key_bias": False} if beit else {}
    cfg = encoder(config, norm="pre", **more)
    grid = config["image_size"] // config["patch_size"]
    stem = PatchEmbed(cfg, config["image_size"], config["patch_size"], (0, 0, 0), (1, 1, 1))
    patches = stem.apply({"params": params["patch_embed"]}, pixel_values.transpose(0, 2, 3, 1))
    vision = Vision(
        cfg,
        patches=grid * grid,
        has_mask_token="mask_token" in params["vision"],
        absolute_positions="position" in params["vision"],
        grid=grid,
        pool="mean" if config.get("use_mean_pooling") else "class",
    )
    hidden = vision.apply({"params": params["vision"]}, patches)
    found = {"hidden": hidden, "pooled": hidden[:, 0]}
    if "image_head" in params:
        found["logits"] = _dense(params["image_head"], hidden[:, 0])
    return found


def _dense(params, x):
    return x @ params["kernel"] + params["bias"]
