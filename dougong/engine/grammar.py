"""Structured output: answers held to a JSON schema, a regex, a grammar, or V4's tool calls.

xgrammar turns a grammar into a mask over the vocabulary for each token. Compiling can take any time
and memory, so it is done in a child process, under a budget, in the thread of whoever asks: never
in the engine's. Which tokens may come is a function of the tokens so far, so answers stay what
they are alone.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dougong.chat import Tokenizer, special
from dougong.engine.engine import EngineError
from dougong.errors import BackendError, InputError

Kind = Literal["json_schema", "json_object", "regex", "grammar", "tools"]

MAX_TEXT = 256 * 1024  # characters of a grammar before it is compiled
CACHE_CHARACTERS = 64 * 2**20  # of compiled grammars, kept for those who send the same again
START_S = 300.0  # until the child has imported what it needs, on a busy machine
# What one answer's masks may take of the engine's time: others wait for it. An ambiguous grammar
# takes more for each token than for the one before; usual ones, less than a millisecond.
GRACE_S, TOKEN_S = 1.0, 0.005


@dataclass(frozen=True)
class GrammarSpec:
    """What answers are held to. `text`: the schema or the tools as JSON, the regex, the EBNF.

    Raises InputError for a text that is too long.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_TEXT:
            raise InputError(
                f"the {self.what} has {len(self.text):,} characters; {MAX_TEXT:,} are possible."
            )

    @property
    def what(self) -> str:
        """Its name in a sentence."""
        return {"json_schema": "JSON schema", "json_object": "JSON grammar"}.get(
            self.kind, self.kind
        )


class Guide:
    """Which ids may come next in one answer; told each id as it comes.

    Until the id `after` has come (the end of reasoning), all but `end_id` may.
    """

    def __init__(self, compiled: Any, num_ids: int, end_id: int, after: int | None) -> None:
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._words = xgrammar.allocate_token_bitmask(1, num_ids)
        self._num_ids, self._end_id, self._after = num_ids, end_id, after
        self._allowed_s = GRACE_S

    def allowed(self) -> Tensor | None:
        """Bool mask of the ids [num_ids]; None when every id may come, and after the end."""
        if self._after is not None:
            allowed_V = torch.ones(self._num_ids, dtype=torch.bool)
            allowed_V[self._end_id] = False
            return allowed_V
        if self._matcher.is_terminated():
            return None
        with self._in_time():
            self._matcher.fill_next_token_bitmask(self._words)
        bits = np.unpackbits(self._words[0].numpy().view(np.uint8), bitorder="little")
        return torch.from_numpy(bits[: self._num_ids]).bool()

    def take(self, token: int) -> None:
        """Notes an id that was drawn from those allowed."""
        if self._after is not None:
            self._after = None if token == self._after else self._after
        elif not self._matcher.is_terminated():
            self._allowed_s += TOKEN_S
            with self._in_time():
                self._matcher.accept_token(token)

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """Turns whatever the library raises into this request's error, and gives up what is slow.

        Time of this thread alone, so that a busy machine changes nothing.
        """
        start_s = time.thread_time()
        try:
            yield
        except Exception as problem:
            raise InputError(f"the grammar cannot be followed: {problem}.") from None
        self._allowed_s -= time.thread_time() - start_s
        if self._allowed_s < 0:
            raise InputError(
                f"the grammar takes more than {TOKEN_S * 1000:g} ms a token; make it less "
                "ambiguous."
            )


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar, from which every answer gets a guide of its own."""

    compiled: Any
    num_ids: int
    end_id: int
    after: int | None = None

    def guide(self) -> Guide:
        """A guide that stands at the beginning."""
        return Guide(self.compiled, self.num_ids, self.end_id, self.after)


class Grammars:
    """Compiles grammars for one tokenizer. From any thread; one is compiled at a time.

    Args: seconds, num_bytes: what the compilation of one may take.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, seconds: float = 10.0, num_bytes: int = 2**30
    ) -> None:
        self._tokenizer, self._seconds, self._num_bytes = tokenizer, seconds, num_bytes
        self._cache_lock, self._child_lock = threading.Lock(), threading.Lock()
        self._is_closed = False
        self._info: Any = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._cache: OrderedDict[GrammarSpec, tuple[Any, int]] = OrderedDict()

    def compile(self, spec: GrammarSpec, *, thinking: bool = False) -> Grammar:
        """The grammar; with `thinking` it begins where the reasoning ends.

        Raises: InputError if it is malformed or exceeds the budget; BackendError without xgrammar.
        """
        after = self._tokenizer.special_id(special.END_THINK) if thinking else None
        compiled = self._known(spec)  # who brings a known one waits for nobody's compilation
        if compiled is None:
            with self._child_lock:
                compiled = self._known(spec) or self._compile(spec)
        return Grammar(compiled, self._tokenizer.num_ids, self._tokenizer.eos_id, after)

    def close(self) -> None:
        """Ends the child process; whoever waits for it is refused."""
        self._is_closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._child_lock:
            self._end_child()

    # -- compiled ones -------------------------------------------------------------------------

    def _known(self, spec: GrammarSpec) -> Any:
        with self._cache_lock:
            if spec not in self._cache:
                return None
            self._cache.move_to_end(spec)
            return self._cache[spec][0]

    def _keep(self, spec: GrammarSpec, compiled: Any, size: int) -> None:
        with self._cache_lock:
            self._cache[spec] = compiled, size
            while sum(size for _, size in self._cache.values()) > CACHE_CHARACTERS:
                self._cache.popitem(last=False)

    # -- the child, under the lock -------------------------------------------------------------

    def _compile(self, spec: GrammarSpec) -> Any:
        if self._is_closed:
            raise EngineError("the engine is closed; make another one.")
        try:
            import xgrammar
        except ImportError:
            raise BackendError(
                "structured output needs xgrammar: pip install 'dougong[grammar]'."
            ) from None
        child = self._ready_child()
        reply = self._ask(child, {"kind": spec.kind, "text": spec.text}, self._seconds)
        if reply is None or reply.get("error") == "memory":
            late = reply is None and child.poll() is None
            self._end_child()  # what it holds by now is not worth keeping
            if self._is_closed:
                raise EngineError("the engine is closed; make another one.")
            self._child = self._start_child()  # who comes next need not wait for all of it
            took = f"more than {self._seconds:g} s" if late else "too much memory"
            raise InputError(f"the {spec.what} takes {took} to compile; make it simpler.")
        if (error := reply.get("error")) is not None:
            raise InputError(f"the {spec.what} cannot be used: {str(error).rstrip('.')}.")
        text = str(reply["grammar"])
        compiled = xgrammar.CompiledGrammar.deserialize_json(text, self._info)
        self._keep(spec, compiled, len(text))
        return compiled

    def _ready_child(self) -> subprocess.Popen[bytes]:
        """The child, told of the tokenizer and waiting for grammars."""
        if self._child is None or self._child.poll() is not None:
            self._end_child()
            self._child = self._start_child()
        if not self._is_ready:
            self._info = self._info or _tokenizer_info(self._tokenizer)
            start = {"tokenizer": self._info.serialize_json(), "bytes": self._num_bytes}
            if self._ask(self._child, start, START_S) is None:
                self._end_child()
                raise BackendError("the process that compiles grammars does not start.")
            self._is_ready = True
        return self._child

    def _start_child(self) -> subprocess.Popen[bytes]:
        self._is_ready = False
        return subprocess.Popen(
            [sys.executable, "-m", "dougong.engine.grammar_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _ask(
        self, child: subprocess.Popen[bytes], line: dict[str, Any], seconds: float
    ) -> dict[str, Any] | None:
        """The child's reply; None if it is late or dead."""
        assert child.stdin is not None
        assert child.stdout is not None
        limit_s, reply = time.monotonic() + seconds, bytearray()
        try:
            child.stdin.write(json.dumps(line).encode() + b"\n")
            child.stdin.flush()
        except OSError:
            return None
        while not reply.endswith(b"\n"):
            left_s = limit_s - time.monotonic()
            if left_s <= 0 or not select.select([child.stdout], [], [], left_s)[0]:
                return None
            part = child.stdout.read1(2**20)  # type: ignore[attr-defined]
            if not part:
                child.wait()
                return None
            reply += part
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _end_child(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._child = None


def _tokenizer_info(tokenizer: Tokenizer) -> Any:
    """xgrammar's view of the vocabulary: the bytes of each id.

    Special tokens have none, so no string of a JSON answer can hold one; but the tool markup's own.
    """
    import xgrammar

    hidden = {text.encode() for text in special.LEADING + special.TRAILING if text != special.DSML}
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.num_ids)]
    return xgrammar.TokenizerInfo(
        [b"" if piece in hidden else piece for piece in pieces],
        xgrammar.VocabType.RAW,
        vocab_size=tokenizer.num_ids,
        stop_token_ids=[tokenizer.eos_id],
    )
