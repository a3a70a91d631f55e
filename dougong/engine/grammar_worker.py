"""The child process that compiles grammars: whatever a grammar does to it, the engine goes on.

Lines of JSON in and out. First comes the tokenizer, {"tokenizer": ..., "bytes": N}, and this says
{"ready": true}; then each grammar, {"kind": ..., "text": ...}, gives {"grammar": ...} or
{"error": ...}. The parent kills it when it takes too long; memory beyond N bytes is refused here.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xgrammar

MAX_GRAMMAR_CHARACTERS = 32 * 2**20  # of a compiled one, as text
TRIAL_TOKENS = 32  # written by each grammar before it is let out, so that slow ones show here
MAX_DEPTH = 1_000  # of recursion in xgrammar, whose own limit of 10,000 can overflow the stack
# Keywords of JSON Schema that xgrammar reads over. What it knows of and cannot do it warns about.
UNENFORCED = {
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "dependentRequired", "dependentSchemas", "dependencies",
}  # fmt: skip
NAMED = {"properties", "patternProperties", "$defs", "definitions"}  # hold schemas under any name
VALUES = {"enum", "const", "default", "examples"}  # hold no schemas
_PLACE = re.compile(r"^\[[0-9:]+\] \S+:\d+: ")  # of its own sources, before xgrammar's sentences


def unenforced(schema: Any) -> Iterator[str]:
    """Keywords in a schema that answers would not be held to."""
    pending = [schema]
    while pending:
        found = pending.pop()
        if isinstance(found, list):
            pending += found
        elif isinstance(found, dict):
            yield from (key for key in found if key in UNENFORCED and found[key] is not False)
            for key, value in found.items():
                if key in NAMED and isinstance(value, dict):
                    pending += value.values()
                elif key not in VALUES:
                    pending.append(value)


def check_schemas(kind: str, text: str) -> None:
    """ValueError for a keyword that answers would not be held to."""
    if kind == "json_schema":
        schema = json.loads(text)
    elif kind == "tools":
        functions = [tool["function"] for tool in json.loads(text)["tools"]]
        schema = [function.get("parameters") for function in functions]
    else:
        return
    for keyword in unenforced(schema):
        raise ValueError(f"{keyword!r} cannot be enforced; leave it out")


def compile_grammar(compiler: xgrammar.GrammarCompiler, kind: str, text: str) -> Any:
    """The compiled grammar. Raises whatever xgrammar raises."""
    if kind == "json_schema":
        return compiler.compile_json_schema(text, any_whitespace=False)
    if kind == "json_object":  # of any shape
        return compiler.compile_json_schema(
            '{"type": "object"}', any_whitespace=False, strict_mode=False
        )
    if kind == "regex":
        return compiler.compile_regex(text)
    if kind == "grammar":
        return compiler.compile_grammar(text)
    asked = json.loads(text)  # kind is "tools"
    tag = xgrammar.get_model_structural_tag(
        "deepseek_v4",
        tools=asked["tools"],
        tool_choice=asked["choice"],
        reasoning=False,
        max_whitespace_cnt=1,  # V4's markup has one newline where it has any
    )
    return compiler.compile_structural_tag(tag)


def try_out(compiled: Any, vocab_size: int) -> None:
    """Writes a few tokens by the grammar: always the middle one of those that may come."""
    matcher = xgrammar.GrammarMatcher(compiled)
    words = xgrammar.allocate_token_bitmask(1, vocab_size)
    for _ in range(TRIAL_TOKENS):
        matcher.fill_next_token_bitmask(words)
        bits = np.unpackbits(words[0].numpy().view(np.uint8), bitorder="little")[:vocab_size]
        allowed = np.flatnonzero(bits)
        if not len(allowed):
            raise ValueError("it comes to a point from which nothing can follow")
        matcher.accept_token(int(allowed[len(allowed) // 2]))
        if matcher.is_terminated():
            return


def warnings(file: int) -> str:
    """What xgrammar has written to stderr since the last call, on one line."""
    text = os.pread(file, 2**16, 0).decode(errors="replace")
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    return " ".join(text.split())


def answer(
    compiler: xgrammar.GrammarCompiler, vocab_size: int, warned: int, line: str
) -> dict[str, Any]:
    """The reply to one line; `warned` is the file that stderr goes to."""
    try:
        asked = json.loads(line)
        check_schemas(asked["kind"], asked["text"])
        compiled = compile_grammar(compiler, asked["kind"], asked["text"])
        if warning := warnings(warned):
            raise ValueError(warning.replace("Warning: ", ""))
        try_out(compiled, vocab_size)
        text = compiled.serialize_json()
    except MemoryError:
        return {"error": "memory"}
    except Exception as problem:  # the library raises what it likes
        warnings(warned)
        if "bad_alloc" in str(problem):
            return {"error": "memory"}
        sentence = _PLACE.sub("", " ".join(str(problem).split()))
        return {"error": sentence[:300] or type(problem).__name__}
    return {"error": "memory"} if len(text) > MAX_GRAMMAR_CHARACTERS else {"grammar": text}


def main() -> None:
    """Answers lines until the parent closes the pipe."""
    start = json.loads(sys.stdin.readline())
    info = xgrammar.TokenizerInfo.deserialize_json(start["tokenizer"])
    # one grammar at a time, and none kept: the parent keeps what it needs
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    xgrammar.set_max_recursion_depth(MAX_DEPTH)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + start["bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    warned = os.memfd_create("warnings")
    os.dup2(warned, sys.stderr.fileno())
    say({"ready": True})
    for line in sys.stdin:
        say(answer(compiler, info.vocab_size, warned, line))


def say(reply: dict[str, Any]) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
