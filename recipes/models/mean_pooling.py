"""A classifier that averages an encoder's outputs over the tokens of a text, as sentence encoders were trained.

transformers' own classifiers pool in the way of their architecture, most of them by the first token; only a few, such
as ModernBERT, have an option for the mean. This one takes any text encoder of transformers. It is a
``PreTrainedModel``: ``save_pretrained`` writes an ordinary folder without code in it, and ``from_pretrained`` loads it.
A folder's ``config.json`` names the module to import in ``model_type``::

    import recipes.models.mean_pooling
    model = AutoModelForSequenceClassification.from_pretrained("runs/cls/version_0/model")

Without the import, transformers refuses the folder and names this module, instead of loading other outputs silently.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "dropout")
"""Names of the dropout before the head in transformers' configurations, the more specific ones first."""


class MeanPoolingConfig(PretrainedConfig):
    """The configuration of an encoder, and what its classifier adds.

    Args:
        text_config: That of the encoder, or its values.
        classifier_dropout: Dropout before the head. None: the encoder's own.
        kwargs: What every configuration has, such as ``id2label``.
    """

    model_type = "recipes.models.mean_pooling"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - transformers' own pattern
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        classifier_dropout: float | None = None,
        **kwargs: Any,
    ) -> None:
        # First: it sets the attention's implementation, also that of a text_config which is there already.
        super().__init__(**kwargs)
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        if classifier_dropout is None:
            given = (getattr(text_config, name, None) for name in DROPOUTS)
            classifier_dropout = next((value for value in given if value is not None), 0.0)
        self.classifier_dropout = classifier_dropout


class MeanPoolingForSequenceClassification(PreTrainedModel):
    """An encoder, the mean of its outputs over a text's tokens, dropout, and a linear layer.

    Args:
        config: The configuration.
        encoder: The encoder with its weights. None: a new one.
    """

    config_class = MeanPoolingConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    # What the encoder supports is checked when it is made.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: MeanPoolingConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        text_config: Any = config.text_config
        if encoder is None:
            encoder = AutoModel.from_config(text_config, **without_pooler(text_config))
        self.encoder = encoder
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(text_config.hidden_size, int(config.num_labels or 0))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits of shape (batch, labels), and the loss if there are labels.

        Args:
            input_ids: Tokens of shape (batch, tokens).
            attention_mask: Of the same shape, 1 for the tokens that count, 0 for padding. None: all count.
            labels: Of shape (batch,).
            kwargs: Further inputs of the encoder.
        """
        outputs = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        pooled = mean_over_tokens(outputs.last_hidden_state, attention_mask)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )


def mean_over_tokens(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mean of each text's vectors, summed in float32.

    Args:
        hidden: Of shape (batch, tokens, width).
        attention_mask: Of shape (batch, tokens), 0 for padding; None: all tokens count.

    Returns:
        Of shape (batch, width), in the dtype of ``hidden``. Zero for a text without a token.
    """
    if attention_mask is None:
        return hidden.mean(1)
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    total = (hidden * mask).sum(1, dtype=torch.float32)
    return (total / mask.sum(1, dtype=torch.float32).clamp(min=1.0)).to(hidden.dtype)


def without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """The argument that leaves out the layer after the first token, which would get no gradient; none without one.

    Args:
        config: That of the encoder.
    """
    kind: Any = MODEL_MAPPING[type(config)]
    has_argument = "add_pooling_layer" in inspect.signature(kind).parameters
    return {"add_pooling_layer": False} if has_argument else {}


AutoConfig.register(MeanPoolingConfig.model_type, MeanPoolingConfig)
AutoModelForSequenceClassification.register(MeanPoolingConfig, MeanPoolingForSequenceClassification)
