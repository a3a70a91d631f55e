"""All families of generated tasks by name: rows of a mixture, rows of the evaluation's table."""

from __future__ import annotations

from dougong.train.data.arithmetic import ARITHMETIC
from dougong.train.data.chinese import CHINESE
from dougong.train.data.conversation import CONVERSATIONS
from dougong.train.data.copying import COPYING
from dougong.train.data.facts import FACTS
from dougong.train.data.instructions import INSTRUCTIONS
from dougong.train.data.json_output import JSON_OUTPUT
from dougong.train.data.measures import MEASURES
from dougong.train.data.needles import HAYSTACKS, NEEDLES
from dougong.train.data.problems import PROBLEMS
from dougong.train.data.recall import RECALL
from dougong.train.data.stories import STORIES
from dougong.train.data.talk import TALK
from dougong.train.data.task import Family
from dougong.train.data.tool_calls import TOOL_CALLS

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        STORIES, TALK, FACTS, ARITHMETIC, PROBLEMS, RECALL, COPYING, NEEDLES, HAYSTACKS,
        INSTRUCTIONS, JSON_OUTPUT, TOOL_CALLS, MEASURES, CHINESE, CONVERSATIONS,
    )
}  # fmt: skip
