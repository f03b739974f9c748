"""For how many tokens a model has positions."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NUMBERED_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"}
    | {"xlm-roberta", "xlm-roberta-xl", "xmod"}
)
"""Model types of transformers whose first position is not 0 but the id of the padding token plus one."""


def positions_of(config: "PretrainedConfig") -> int | None:
    """The number of tokens for which a model has positions; None if it has no limit.

    RoBERTa and its relatives number them from the id of the padding token plus one.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    relative_only = not getattr(text, "position_biased_input", True)  # DeBERTa v3
    if positions is None or positions < 0 or relative_only:  # XLNet says -1
        return None
    if text.model_type not in NUMBERED_AFTER_PADDING:
        return int(positions)
    return int(positions) - (text.pad_token_id or 0) - 1
