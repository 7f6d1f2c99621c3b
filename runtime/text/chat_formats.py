"""The families' formats: a row for each, chosen by what stands in a model's chat template.

Sources: the families' published chat templates and what llama.cpp's tests say of their answers; see
docs/chat_templates.md for how many of these are read as they are there.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from .chat_styles import Channels, ChatFormat, JsonCalls, Literals, NamedCalls, Reasoning, Tagged
from .tool_calls import ANY_JSON


def _head(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


_NAME: Final = r'(?P<name>[^\s<>"{}\[\]()|]{1,200})'
_ENDS_IT: Final = Reasoning(calls_end_it=True)
_COHERE_HEAD: Final = _head(
    r'[\s\[]*\{\s*(?:"tool_call_id"\s*:\s*"[^"]*"\s*,\s*)?"tool_name"\s*:\s*"(?P<name>[^"\\]{1,256})"\s*,'
    r'\s*"parameters"\s*:\s*(?=\{)'
)


def _invoke(prefix: str, section: str, kind: str = "") -> NamedCalls:
    """Calls as `<invoke name="f"><parameter name="k">v</parameter></invoke>` in a section, each tag with a prefix."""
    mark = re.escape(prefix)
    return NamedCalls(
        starts=(f"<{section}>", f'<{prefix}invoke name="'),
        head=_head(rf'(?:<{re.escape(section)}>\s*)?<{mark}invoke name="{_NAME}"\s*>'),
        arguments=Tagged(
            key=_head(rf'<{mark}parameter name="(?P<key>[^"]+)"{kind}\s*>'),
            close=f"</{prefix}parameter>",
            end=_head(rf"</{mark}invoke>"),
        ),
        closers=(f"</{section}>",),
    )


def _function(section: str, lines: bool) -> NamedCalls:
    """Calls as `<function=f><parameter=k>v</parameter></function>` in a section, which some models leave out."""
    return NamedCalls(
        starts=(f"<{section}>", "<function="),
        head=_head(rf"(?:<{section}>\s*)?<function={_NAME}>"),
        arguments=Tagged(
            key=_head(r"<parameter=(?P<key>[^>\n]+)>"),
            close="</parameter>",
            end=_head(rf"</function>|</{section}>"),
            lines=lines,
        ),
        closers=(f"</{section}>",),
    )


_ARGUMENT_PAIRS: Final = NamedCalls(
    starts=("<tool_call>",),
    head=_head(rf"<tool_call>\s*{_NAME}\s*(?=<arg_key>|</tool_call>)"),
    arguments=Tagged(
        key=_head(r"<arg_key>(?P<key>[^<]+)</arg_key>\s*<arg_value>"),
        close="</arg_value>",
        end=_head(r"</tool_call>"),
    ),
)
_HUNYUAN: Final = NamedCalls(
    starts=("<tool_calls:opensource>", "<tool_call:opensource>"),
    head=_head(rf"(?:<tool_calls:opensource>\s*)?<tool_call:opensource>\s*{_NAME}\s*<tool_sep:opensource>"),
    arguments=Tagged(
        key=_head(r"<arg_key:opensource>(?P<key>[^<]+)</arg_key:opensource>\s*<arg_value:opensource>"),
        close="</arg_value:opensource>",
        end=_head(r"</tool_call:opensource>"),
    ),
    closers=("</tool_calls:opensource>",),
)
_KIMI_K2: Final = NamedCalls(
    starts=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    head=_head(
        r"(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[\w.\-/]+?)(?::\d+)?\s*"
        r"<\|tool_call_argument_begin\|>\s*(?=\{)"
    ),
    closers=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
)
_KIMI_K3: Final = NamedCalls(
    starts=("<|open|>tools<|sep|>", '<|open|>call tool="'),
    head=_head(rf'(?:<\|open\|>tools<\|sep\|>\s*)?<\|open\|>call tool="{_NAME}"[^<]*<\|sep\|>'),
    arguments=Tagged(
        key=_head(r'<\|open\|>argument key="(?P<key>[^"]+)"(?: type="(?P<kind>\w+)")?[^<]*<\|sep\|>'),
        close="<|close|>argument<|sep|>",
        end=_head(r"<\|close\|>call<\|sep\|>"),
    ),
    closers=("<|close|>tools<|sep|>", "<|close|>message<|sep|>"),
)
_DEEPSEEK: Final = NamedCalls(
    starts=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    head=_head(
        r"(?:<｜tool▁calls▁begin｜>\s*)?(?:<｜tool▁call▁begin｜>)?(?:function<｜tool▁sep｜>)?(?P<name>[^\s<>{}｜]{1,200})"
        r"(?:<｜tool▁sep｜>|\s*```json)\s*(?=\{)"
    ),
    closers=("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
)
_MISTRAL: Final = NamedCalls(
    starts=("[TOOL_CALLS]",),
    head=_head(r"\[TOOL_CALLS\]\s*(?P<name>[^\s\[\]{}]{1,200})\s*(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?=\{)"),
)
_PYTHON_LIST: Final = NamedCalls(
    starts=("<|tool_call_start|>",),
    head=_head(r"<\|tool_call_start\|>\s*\[?\s*(?P<name>[\w.\-]+)\("),
    arguments=Literals(key=_head(r"(?P<key>\w+)\s*="), end=")", quotes=('"', "'"), escapes=True),
    closers=("]", "<|tool_call_end|>"),
    more=_head(r"[,;]\s*(?P<name>[\w.\-]+)\("),
    more_start=",",
)
_GEMMA: Final = NamedCalls(
    starts=("<|tool_call>",),
    head=_head(r"<\|tool_call>\s*call:\s*(?P<name>[\w.\-]+)\s*\{"),
    arguments=Literals(key=_head(r"(?P<key>[^\s:{}]+)\s*:"), end="}", quotes=('<|"|>',), escapes=False),
    closers=("<tool_call|>",),
)
_MINIMAX_M3: Final = NamedCalls(
    starts=("]<]minimax[>[<tool_call>", ']<]minimax[>[<invoke name="'),
    head=_head(rf'(?:\]<\]minimax\[>\[<tool_call>\s*)?\]<\]minimax\[>\[<invoke name="{_NAME}">'),
    arguments=Tagged(
        key=_head(r"\]<\]minimax\[>\[<(?P<key>[^/<>][^<>]*)>"),
        close="]<]minimax[>[</{key}>",
        end=_head(r"\]<\]minimax\[>\[</invoke>"),
        nested=True,
    ),
    closers=("]<]minimax[>[</tool_call>",),
)
_MINICPM: Final = NamedCalls(
    starts=('<function name="',),
    head=_head(rf'<function name="{_NAME}"\s*>'),
    arguments=Tagged(
        key=_head(r'<param name="(?P<key>[^"]+)"\s*>'), close="</param>", end=_head(r"</function>"), character_data=True
    ),
)
_SOLAR: Final = NamedCalls(
    starts=("<|tool_call:begin|>",),
    head=_head(r"<\|tool_call:begin\|>[^<]*<\|tool_call:name\|>(?P<name>[^<]{1,200})<\|tool_call:args\|>\s*(?=\{)"),
    closers=("<|tool_call:end|>", "<|calls|>"),
)
_ALL: Final = NamedCalls(  # Functionary 3.2: each message begins with to whom it goes
    starts=(">>>",),
    head=_head(r">>>\s*(?P<name>[\w.\-]+)\s*\n\s*(?=\{)"),
    known=True,
)
_COHERE_SILENT: Final = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")

# The first whose signs all stand in a template is its format: what is more certain comes first.
FORMATS: Final[tuple[ChatFormat, ...]] = (
    ChatFormat(
        "Muse",
        ("<atem:function_calls>", "<|message|>"),
        channels=Channels(
            ("<|eom|>", "<|eot|>"),
            reasoning=" to=self<|message|>",
            content=" to=user<|message|>",
            next="<|eom|><|start|>assistant",
            reasons=("self",),
            calls=_invoke("atem:", "atem:function_calls"),
        ),
        tokens=("<|start|>", "<|message|>", "<|eom|>", "<|eot|>"),
    ),
    ChatFormat(
        "llm-jp (Harmony with spaces)",
        ("<|channel|>analysis<|message|>", "<|constrain|> json"),
        channels=Channels(("<|end|>", "<|call|>", "<|return|>"), space=True),
        tokens=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"),
    ),
    ChatFormat(
        "gpt-oss (Harmony)",
        ("<|channel|>analysis<|message|>",),
        channels=Channels(("<|end|>", "<|call|>", "<|return|>")),
        tokens=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"),
    ),
    ChatFormat(
        "Gemma 4",
        ("<|tool_call>call:",),
        Reasoning("<|channel>thought", "<channel|>"),
        _GEMMA,
        silent=("<|channel>thought\n<channel|>", "<|channel>thought<channel|>", "<|channel>", "<channel|>"),
        tokens=('<|"|>',),
    ),
    ChatFormat(
        "DeepSeek V3.2",
        ("｜DSML｜", "function_calls"),
        _ENDS_IT,
        _invoke("｜DSML｜", "｜DSML｜function_calls", r'(?: string="(?P<kind>true|false)")?'),
    ),
    ChatFormat(
        "DeepSeek V4",
        ("｜DSML｜", "tool_calls"),
        _ENDS_IT,
        _invoke("｜DSML｜", "｜DSML｜tool_calls", r'(?: string="(?P<kind>true|false)")?'),
    ),
    ChatFormat("DeepSeek V3, R1, V3.1", ("<｜tool▁calls▁begin｜>",), calls=_DEEPSEEK, tokens=("<｜tool▁sep｜>",)),
    ChatFormat(
        "Kimi K3",
        ("<|open|>", "open_tag('think')"),
        Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>", calls_end_it=True),
        _KIMI_K3,
        silent=(
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>tools<|sep|>",
            "<|close|>message<|sep|>",
        ),
        tokens=("<|open|>", "<|close|>", "<|sep|>"),
    ),
    ChatFormat(
        "Kimi K2", ("<|tool_call_argument_begin|>",), _ENDS_IT, _KIMI_K2, tokens=("<|tool_call_argument_begin|>",)
    ),
    ChatFormat(
        "MiniMax M3", ("]<]minimax[>[",), Reasoning("<mm:think>", "</mm:think>"), _MINIMAX_M3, silent=("</mm:think>",)
    ),
    ChatFormat("MiniMax M2", ("minimax:tool_call",), calls=_invoke("", "minimax:tool_call")),
    ChatFormat(
        "Seed-OSS", ("seed:tool_call",), Reasoning("<seed:think>", "</seed:think>"), _function("seed:tool_call", False)
    ),
    ChatFormat(
        "Hunyuan 3", ("<tool_sep{}>", ":opensource"), Reasoning("<think:opensource>", "</think:opensource>"), _HUNYUAN
    ),
    ChatFormat("GLM 4.5 and later, Ling, Laguna, Spark", ("<arg_key>", "<arg_value>"), _ENDS_IT, _ARGUMENT_PAIRS),
    ChatFormat("MiniCPM 5", ('<function name="',), calls=_MINICPM),
    ChatFormat(
        "Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5",
        ("<function=", "<parameter="),
        _ENDS_IT,
        _function("tool_call", True),
    ),
    ChatFormat(
        "Functionary 3.1",
        ("<function=", "</function>"),
        calls=NamedCalls(
            starts=("<function=",), head=_head(rf"<function={_NAME}>\s*(?=\{{)"), closers=("</function>",)
        ),
    ),
    ChatFormat("Functionary 3.2", (">>>all",), calls=_ALL, silent=(">>>all\n",), opening=">>>"),
    ChatFormat(
        "Mistral, newer",
        ("[TOOL_CALLS]", "[ARGS]"),
        Reasoning("[THINK]", "[/THINK]"),
        _MISTRAL,
        tokens=("[ARGS]", "[CALL_ID]"),
    ),
    ChatFormat(
        "LFM2",
        ("<|tool_call_start|>",),
        calls=_PYTHON_LIST,
        others=(("<|tool_list_start|>",), ("List of tools: [", "keep_past_thinking")),
    ),
    ChatFormat(
        "Cohere Command R7B and later",
        ("<|START_ACTION|>",),
        Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
        JsonCalls((("<|START_ACTION|>", "<|END_ACTION|>"),), head=_COHERE_HEAD, name_keys=("tool_name",)),
        silent=_COHERE_SILENT,
    ),
    ChatFormat(
        "Cohere Command R+",
        ("Action:", "tool_name"),
        calls=JsonCalls((("Action:\n```json\n", "```"),), head=_COHERE_HEAD, name_keys=("tool_name",)),
        silent=("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    ChatFormat(
        "Apertus",
        ("<|tools_prefix|>",),
        Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
        JsonCalls(
            (("<|tools_prefix|>", "<|tools_suffix|>"),),
            head=_head(r'[\s\[]*\{\s*"(?P<name>[^"\\]{1,256})"\s*:\s*(?=\{)'),
            name_keys=(),
        ),
    ),
    ChatFormat("Nemotron Nano 2", ("<TOOLCALL>",), calls=JsonCalls((("<TOOLCALL>", "</TOOLCALL>"),))),
    ChatFormat(
        "Apriel 1.6",
        ("[BEGIN FINAL RESPONSE]", "<tool_calls>"),
        Reasoning("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
        JsonCalls((("<tool_calls>", "</tool_calls>"),)),
    ),
    ChatFormat("Apriel 1.5", ("<tool_calls>[",), calls=JsonCalls((("<tool_calls>", "</tool_calls>"),))),
    ChatFormat("Firefunction", ("functools[",), calls=JsonCalls(((" functools[", ""), ("functools[", "")))),
    ChatFormat("GigaChat 3.1", ("<|function_call|>",), calls=JsonCalls((("<|function_call|>", ""),))),
    ChatFormat(
        "GigaChat 3",
        ("render_function_call", "<|message_sep|>"),
        calls=JsonCalls((("<|message_sep|>\n\nfunction call<|role_sep|>\n", ""),)),
        tokens=("<|message_sep|>", "<|role_sep|>"),
    ),
    ChatFormat(
        "Solar Open",
        ("<|tool_call:begin|>", "<|think|>"),
        Reasoning("<|think|>", "<|end|>"),
        _SOLAR,
        silent=("<|begin|>assistant", "<|content|>", "<|tool_calls|>", "<|begin|>", "<|end|>", "<|think|>"),
        tokens=("<|tool_call:name|>", "<|tool_call:args|>"),
    ),
    ChatFormat(
        "Granite 3", ("<|tool_call|>",), calls=JsonCalls((("<|tool_call|>", ""), ("<tool_call>", "")), bare=True)
    ),
)
# Hermes, Qwen, older Mistral, Llama 3 and whatever else calls tools in JSON.
GENERAL: Final = ChatFormat("JSON: Hermes, Qwen, Llama, Granite 4, older Mistral and others", (), calls=ANY_JSON)


@cache
def format_of(source: str) -> ChatFormat:
    """The format of a chat template's family."""
    for row in FORMATS:
        if any(all(sign in source for sign in signs) for signs in (row.signs, *row.others)):
            return row
    return GENERAL
