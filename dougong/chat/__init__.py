"""Text <-> ids: tokenizers, V4's prompt encoder, and the parsing of what the model answers.

No torch. Imports only errors, config and formats of the package.
"""
