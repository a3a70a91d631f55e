"""Text <-> ids: tokenizers, V4's prompt encoder, and the parsing of what the model answers.

No torch. Imports only errors, config and formats of the package.
"""

from dougong.chat.completion import Completion, CompletionParser, parse
from dougong.chat.prompt import encode_conversation, render
from dougong.chat.tokenizer import StreamDecoder, Tokenizer, load_tokenizer

__all__ = [
    "Completion",
    "CompletionParser",
    "StreamDecoder",
    "Tokenizer",
    "encode_conversation",
    "load_tokenizer",
    "parse",
    "render",
]
