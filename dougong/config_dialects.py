"""The dialects of config.json, translated to one set of fields and back (no torch).

Published: Hugging Face's `config.json` of the released checkpoints; the names used everywhere here.
Transformers: what transformers 5.23.0 saves, with `layer_types` in place of `compress_ratios`.
Inference: the released `inference/config.json` (`dim`, `n_layers`, ...): its model.py's ModelArgs.
Two spellings of one fact must agree. What may be present without meaning is in `config_keys`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dougong.config_checks import refuse, require
from dougong.config_keys import (
    FIXED_EXTRAS,
    FIXED_V3,
    FIXED_V4,
    IGNORED_INFERENCE,
    IGNORED_QUANTIZATION,
    IGNORED_ROPE_V4,
    IGNORED_V3,
    IGNORED_V4,
    INFERENCE_DEFAULTS,
    INFERENCE_NAMES,
    LAYER_TYPES,
    Fields,
)
from dougong.errors import ConfigError


def refuse_other_models(values: Mapping[str, object]) -> None:
    """Raises ConfigError, in one sentence, for relatives of V4 that are another graph."""
    model_type = values.get("model_type")
    if model_type in ("deepseek_v41", "deepseek_v4_1") or "text_config" in values:
        raise ConfigError(
            f"model_type {model_type!r}: DeepSeek-V4.1 is another architecture than V4 and is not "
            "supported; use a DeepSeek-V4 checkpoint."
        )
    for key in values:
        if key.startswith("dspark_"):
            raise ConfigError(
                f"{key} is set: this is a DSpark checkpoint, whose draft stages replace the MTP "
                "block and are not supported; use the DeepSeek-V4 checkpoint without DSpark."
            )


def read_v4(values: Mapping[str, object]) -> Fields:
    """The published names and values of a V4 configuration in any dialect."""
    fields = _from_inference(values) if "dim" in values else dict(values)
    is_transformers = "layer_types" in fields
    _read_dtype(fields)
    _read_layer_types(fields)
    _read_partial_rotary_factor(fields)
    _read_rope_parameters(fields)
    _read_quantization(fields)
    if is_transformers and "quantization_config" not in fields:
        fields.pop("expert_dtype", None)  # transformers leaves it behind when it has dequantized
    _drop_fixed(fields, FIXED_V4 | FIXED_EXTRAS)
    if isinstance(ratios := fields.get("compress_ratios"), list):
        fields["compress_ratios"] = tuple(ratios)
    _read_token_ids(fields)
    if isinstance(scaling := fields.get("rope_scaling"), dict):
        _drop_rope_theta(fields, scaling := dict(scaling))
        fields["rope_scaling"] = _yarn(scaling, IGNORED_ROPE_V4)
    return {key: value for key, value in fields.items() if key not in IGNORED_V4}


def read_v3(values: Mapping[str, object]) -> Fields:
    """The published names and values of a V3 or V3.2 configuration."""
    fields = dict(values)
    has_indexer = fields.get("index_topk") is not None
    model_type = "deepseek_v32" if has_indexer else "deepseek_v3"
    _drop_fixed(fields, FIXED_V3 | FIXED_EXTRAS | {"model_type": model_type})
    _read_dtype(fields)
    _read_rope_parameters(fields)
    _read_quantization(fields)
    if (kinds := _pop(fields, "mlp_layer_types", list)) is not None:
        dense = _prefix(kinds, "dense", "sparse")
        _agree(fields, "first_k_dense_replace", dense, "mlp_layer_types")
    if isinstance(scaling := fields.get("rope_scaling"), dict):
        fields["rope_scaling"] = _yarn(scaling, frozenset())
    return {key: value for key, value in fields.items() if key not in IGNORED_V3}


def _from_inference(values: Mapping[str, object]) -> Fields:
    """The published dialect of an inference/config.json."""
    given = {**INFERENCE_DEFAULTS, **values}
    fields: Fields = dict(FIXED_V4)
    for name, published in INFERENCE_NAMES.items():
        if name not in given:
            raise ConfigError(f"{name} is missing; inference/config.json must give it.")
        fields[published] = given.pop(name)
    if "original_seq_len" not in given:
        raise ConfigError("original_seq_len is missing; give 0 for a model without YaRN.")
    scaling = {
        "type": "yarn",
        "factor": given.pop("rope_factor", None),
        "original_max_position_embeddings": given.pop("original_seq_len"),
        "beta_fast": given.pop("beta_fast", 32),
        "beta_slow": given.pop("beta_slow", 1),
    }
    if scaling["original_max_position_embeddings"] != 0:
        fields["rope_scaling"] = scaling
    dtype, scale_fmt = given.pop("dtype", "fp8"), given.pop("scale_fmt", "ue8m0")
    expert_dtype = given.pop("expert_dtype", None)
    require(dtype in ("fp8", "bf16"), "dtype", dtype, "'fp8' or 'bf16'")
    if dtype == "fp8":
        fields["quantization_config"] = {"scale_fmt": scale_fmt}
        fields["expert_dtype"] = "fp8" if expert_dtype is None else expert_dtype
    elif expert_dtype is not None:
        fields["expert_dtype"] = expert_dtype
    return fields | {key: given[key] for key in given if key not in IGNORED_INFERENCE}


def _read_token_ids(fields: Fields) -> None:
    """transformers writes an id as a list of one, or null for its default."""
    for key in ("bos_token_id", "eos_token_id"):
        given = fields.get(key, 0)
        if given is None:
            del fields[key]
        elif isinstance(given, list) and len(given) == 1:
            fields[key] = given[0]


def _drop_rope_theta(fields: Fields, scaling: Fields) -> None:
    """Takes out the theta that transformers adds to `rope_scaling`; it must be one of the two."""
    known = [fields.get("rope_theta", 10000.0), fields.get("compress_rope_theta", 160000.0)]
    theta = scaling.pop("rope_theta", known[0])
    require(theta in known, "rope_scaling.rope_theta", theta, f"{known[0]} or {known[1]}")


def _read_dtype(fields: Fields) -> None:
    if (dtype := fields.pop("dtype", None)) is not None:
        _agree(fields, "torch_dtype", dtype, "dtype")


def _read_layer_types(fields: Fields) -> None:
    """Folds `layer_types` into `compress_ratios` and `mlp_layer_types` into `num_hash_layers`."""
    if (kinds := _pop(fields, "mlp_layer_types", list)) is not None:
        _agree(fields, "num_hash_layers", _prefix(kinds, "hash_moe", "moe"), "mlp_layer_types")
        _check_length(fields, "mlp_layer_types", kinds)
    if (types := _pop(fields, "layer_types", list)) is None:
        return
    for layer, kind in enumerate(types):
        if not isinstance(kind, str) or kind not in LAYER_TYPES:
            refuse(f"layer_types[{layer}]", kind, " or ".join(LAYER_TYPES))
    _check_length(fields, "layer_types", types)
    ratios = [LAYER_TYPES[kind] for kind in types]
    mtp = fields.get("num_nextn_predict_layers", 0)
    ratios += [0] * (mtp if isinstance(mtp, int) and 0 <= mtp <= len(types) else 0)
    _agree(fields, "compress_ratios", ratios, "layer_types")


def _check_length(fields: Fields, name: str, entries: list[object]) -> None:
    layers, given = fields.get("num_hidden_layers"), len(entries)
    require(given == layers, f"len({name})", given, f"num_hidden_layers ({layers})")


def _prefix(kinds: list[object], first: str, then: str) -> int:
    """How many leading entries are `first`; the rest must be `then`."""
    count = next((i for i, kind in enumerate(kinds) if kind != first), len(kinds))
    for kind in kinds[count:]:
        require(kind == then, "mlp_layer_types", kind, f"{first!r} layers, then {then!r} layers")
    return count


def _read_partial_rotary_factor(fields: Fields) -> None:
    factor, head_dim = fields.pop("partial_rotary_factor", None), fields.get("head_dim")
    if factor is None or type(head_dim) is not int:  # which is refused when the fields are checked
        return
    require(
        type(factor) in (int, float) and 0 < factor <= 1,
        "partial_rotary_factor",
        factor,
        "a number above 0, at most 1",
    )
    rope_dim = fields.get("qk_rope_head_dim", int(head_dim * factor))
    require(
        int(head_dim * factor) == rope_dim,
        "partial_rotary_factor",
        factor,
        f"qk_rope_head_dim ({rope_dim}) / head_dim ({head_dim})",
    )
    fields["qk_rope_head_dim"] = rope_dim


def _read_rope_parameters(fields: Fields) -> None:
    """Folds transformers' `rope_parameters`, one set or {main, compress}, into the old keys."""
    if (parameters := _pop(fields, "rope_parameters", dict)) is None:
        return
    if "main" not in parameters:
        _read_rope_set(fields, parameters, "rope_theta", "rope_parameters")
        return
    for label in parameters:
        require(label in ("main", "compress"), "rope_parameters", label, "main and compress")
    main, compress = parameters["main"], parameters.get("compress")
    if not isinstance(main, dict) or not isinstance(compress, dict):
        refuse("rope_parameters", parameters, "{'main': {...}, 'compress': {...}}")
    kind = main.get("rope_type", "default")
    require(kind == "default", "rope_parameters.main.rope_type", kind, "'default'")
    _read_rope_set(fields, main, "rope_theta", "rope_parameters.main")
    _read_rope_set(fields, compress, "compress_rope_theta", "rope_parameters.compress")


def _read_rope_set(fields: Fields, parameters: Fields, theta_key: str, where: str) -> None:
    scaling = dict(parameters)
    if (theta := scaling.pop("rope_theta", None)) is not None:
        _agree(fields, theta_key, theta, f"{where}.rope_theta")
    fields_of_set = {**fields, "partial_rotary_factor": scaling.pop("partial_rotary_factor", None)}
    _read_partial_rotary_factor(fields_of_set)
    if scaling.get("rope_type", scaling.get("type", "default")) == "default":
        return
    given = fields.get("rope_scaling")
    if isinstance(given, dict) and _yarn(given, IGNORED_ROPE_V4) != _yarn(scaling, IGNORED_ROPE_V4):
        refuse("rope_scaling", given, f"what {where} says: {scaling}")
    fields["rope_scaling"] = scaling


def _yarn(scaling: Fields, ignored: frozenset[str]) -> Fields | None:
    """The fields of RopeScaling in a `rope_scaling` object; None where it scales nothing."""
    rest = dict(scaling)
    kinds = [rest.pop(key) for key in ("type", "rope_type") if key in rest]
    if kinds and all(kind == "default" for kind in kinds):
        return None
    is_yarn = kinds and all(kind == "yarn" for kind in kinds)
    require(bool(is_yarn), "rope_scaling.type", kinds, "'yarn'")
    factor = rest.pop("attention_factor", None)
    require(factor in (None, 1), "rope_scaling.attention_factor", factor, "1.0")
    return {key: value for key, value in rest.items() if key not in ignored}


def _read_quantization(fields: Fields) -> None:
    for key in ("quantization_config", "rope_scaling", "expert_dtype"):
        if key in fields and fields[key] is None:
            del fields[key]
    quantization = fields.get("quantization_config")
    if not isinstance(quantization, dict):
        return
    rest = {key: value for key, value in quantization.items() if key not in IGNORED_QUANTIZATION}
    if (expert_dtype := rest.pop("expert_dtype", None)) is not None:
        _agree(fields, "expert_dtype", expert_dtype, "quantization_config.expert_dtype")
    rest.setdefault("scale_fmt", None)
    if isinstance(block := rest.get("weight_block_size"), list):
        rest["weight_block_size"] = tuple(block)
    fields["quantization_config"] = rest


def _pop(fields: Fields, key: str, kind: type) -> Any:
    """The value of `key`, taken out; None where it is missing or null, refused if not a `kind`."""
    value = fields.pop(key, None)
    if value is not None and not isinstance(value, kind):
        refuse(key, value, "a list" if kind is list else "an object")
    return value


def _drop_fixed(fields: Fields, fixed: Fields) -> None:
    if "model_type" not in fields:
        raise ConfigError("model_type is missing; allowed: deepseek_v4, deepseek_v3, deepseek_v32.")
    for key, allowed in fixed.items():
        if key in fields:
            value = fields.pop(key)
            require(value == allowed, key, value, repr(allowed))


def _agree(fields: Fields, key: str, value: object, source: str) -> None:
    """Sets `key` to what `source` says; raises ConfigError if it is given and says otherwise."""
    given = fields.setdefault(key, value)
    if (list(given) if isinstance(given, tuple) else given) != value:
        refuse(key, given, f"{value}, as {source} says")


def published(config: Any, fixed: Fields, architecture: str) -> Fields:
    """The published dialect of a configuration dataclass; fields that are None are left out."""
    fields: Fields = {"architectures": [architecture], **fixed, "model_type": config.model_type}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "rope_scaling" and value is not None:
            fields[field.name] = {"type": "yarn", **_plain(value)}
        elif dataclasses.is_dataclass(value):
            fields[field.name] = _plain(value)
        elif value is not None:
            fields[field.name] = list(value) if isinstance(value, tuple) else value
    return fields


def _plain(nested: Any) -> Fields:
    """A nested dataclass as JSON; what is None, or an mscale that V4 does not have, is left out."""
    values = dataclasses.asdict(nested).items()
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values
        if value is not None and not (key in IGNORED_ROPE_V4 and value == 0.0)
    }
