"""The special strings of DeepSeek-V4, in V4's own spelling and order.

The bars are U+FF5C (fullwidth), the sign in "begin▁of▁sentence" is U+2581. Ids are never written
here: they belong to each checkpoint's tokenizer and are looked up by these strings.

Source: tokenizer.json of DeepSeek-V4 (ids 0-2 and 128800-128846).
Checked by: tests/parity/test_v4_tokenizer.py.
"""

from typing import Final

BOS: Final = "<｜begin▁of▁sentence｜>"
EOS: Final = "<｜end▁of▁sentence｜>"
PAD: Final = "<｜▁pad▁｜>"
USER: Final = "<｜User｜>"
ASSISTANT: Final = "<｜Assistant｜>"
THINK: Final = "<think>"
END_THINK: Final = "</think>"
DSML: Final = "｜DSML｜"
LATEST_REMINDER: Final = "<｜latest_reminder｜>"
EXTRACTED_URL: Final = "<｜extracted_url｜>"

# Quick-instruction tasks: the value of a message's `task` field -> the token that asks for it.
TASKS: Final = {
    "action": "<｜action｜>",
    "query": "<｜query｜>",
    "authority": "<｜authority｜>",
    "domain": "<｜domain｜>",
    "title": "<｜title｜>",
    "read_url": "<｜read_url｜>",
}

# The first three ids of every V4 vocabulary.
LEADING: Final = (BOS, EOS, PAD)

# All the others, in the order of their ids; V4's numbered placeholders and its image tokens
# (which only the vision models use) are left out.
TRAILING: Final = (
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    USER,
    ASSISTANT,
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
    "<｜begin▁of▁repo▁name｜>",
    "<｜end▁of▁repo▁name｜>",
    "<｜begin▁of▁file▁name｜>",
    "<｜end▁of▁file▁name｜>",
    "<｜begin▁of▁file｜>",
    "<｜end▁of▁file｜>",
    THINK,
    END_THINK,
    DSML,
    "<｜begin▁sys｜>",
    "<｜end▁sys｜>",
    LATEST_REMINDER,
    TASKS["action"],
    TASKS["query"],
    TASKS["authority"],
    TASKS["domain"],
    "<｜task｜>",
    "<｜political｜>",
    "<｜entity｜>",
    TASKS["title"],
    "<｜safety｜>",
    "<｜answer｜>",
    "<｜search｜>",
    "<dsml:",
    "</dsml:",
    "<｜search▁begin｜>",
    "<｜search▁end｜>",
    EXTRACTED_URL,
    TASKS["read_url"],
    "<｜end_of_query｜>",
)
