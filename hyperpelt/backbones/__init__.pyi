from .dropout import set_dropout
from .families import Family, family_of, model_types
from .fitting import check_tokenizer, set_languages, without_language
from .loading import (
    config_hash,
    load_backbone,
    load_config,
    load_tokenizer,
    resolve_dtype,
)
from .targets import encode_targets as encode_targets
