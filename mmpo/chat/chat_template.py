"""The one place where a model's chat template is run: by transformers, within the limits of `mmpo.outside`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils import chat_template_utils

from mmpo.errors import UserError
from mmpo.outside.templates import BoundedEnvironment, TemplateTooMuch, limited

# transformers makes its sandbox inside a function of its own, by this name. Other users of transformers in the process
# are not bounded: nothing counts outside `limited()`.
if not issubclass(chat_template_utils.ImmutableSandboxedEnvironment, BoundedEnvironment):
    vars(chat_template_utils)["ImmutableSandboxedEnvironment"] = BoundedEnvironment
    chat_template_utils._compile_jinja_template.cache_clear()


def render(
    owner: Any, messages: Sequence[Mapping[str, Any]], *, source: str, template: str | None = None, **options: Any
) -> str:
    """The messages as the chat template of a processor or tokenizer writes them; `template` is used in its place.

    Raises `UserError`, naming the model's `source`, for a template that loops without end, or makes too much text. What
    else it raises (some refuse a system message) is left to the caller.
    """
    try:
        with limited():
            text: str = owner.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    except TemplateTooMuch as error:
        raise UserError(
            f"{source}: the model's chat template is stopped: {error}",
            hint="look at chat_template.jinja (or tokenizer_config.json) of the model; is it the original?",
        ) from None
    return text
