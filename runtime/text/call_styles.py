"""How families write calls of tools: the styles that rows of `chat_formats` name."""

from __future__ import annotations

import re
from typing import Final

from .chat_styles import Literals, NamedCalls, Reasoning, Tagged


def pattern_of(pattern: str) -> re.Pattern[str]:
    """Of a head or a key; a dot matches line breaks too."""
    return re.compile(pattern, re.DOTALL)


# A call in JSON as most families write it.
JSON_CALL: Final = '{"name": "{name}", "arguments": {arguments}}'
NAME: Final = r'(?P<name>[^\s<>"{}\[\]()|]{1,200})'
ENDS_IT: Final = Reasoning(calls_end_it=True)
COHERE_HEAD: Final = pattern_of(
    r'[\s\[]*\{\s*(?:"tool_call_id"\s*:\s*"[^"]*"\s*,\s*)?"tool_name"\s*:\s*"(?P<name>[^"\\]{1,256})"\s*,'
    r'\s*"parameters"\s*:\s*(?=\{)'
)


def invoke_tags(prefix: str, section: str, kind: str = "", written_kind: str = "") -> NamedCalls:
    """Calls as `<invoke name="f"><parameter name="k">v</parameter></invoke>` in a section, each tag with a prefix."""
    mark = re.escape(prefix)
    return NamedCalls(
        starts=(f"<{section}>", f'<{prefix}invoke name="'),
        head=pattern_of(rf'(?:<{re.escape(section)}>\s*)?<{mark}invoke name="{NAME}"\s*>'),
        arguments=Tagged(
            key=pattern_of(rf'<{mark}parameter name="(?P<key>[^"]+)"{kind}\s*>'),
            close=f"</{prefix}parameter>",
            end=pattern_of(rf"</{mark}invoke>"),
            written_key=f'<{prefix}parameter name="{{key}}"{written_kind}>',
            written_close=f"</{prefix}parameter>\n",
        ),
        closers=(f"</{section}>",),
    )


def written_invoke(prefix: str, section: str) -> str:
    """Such a call as it is written."""
    invoke = f'<{prefix}invoke name="{{name}}">\n{{arguments}}</{prefix}invoke>'
    return f"<{section}>\n{invoke}\n</{section}>"


DSML_KIND: Final = r'(?: string="(?P<kind>true|false)")?'


def function_tags(section: str, lines: bool) -> NamedCalls:
    """Calls as `<function=f><parameter=k>v</parameter></function>` in a section, which some models leave out."""
    return NamedCalls(
        starts=(f"<{section}>", "<function="),
        head=pattern_of(rf"(?:<{section}>\s*)?<function={NAME}>"),
        arguments=Tagged(
            key=pattern_of(r"<parameter=(?P<key>[^>\n]+)>"),
            close="</parameter>",
            end=pattern_of(rf"</function>|</{section}>"),
            lines=lines,
            written_key="<parameter={key}>\n" if lines else "<parameter={key}>",
            written_close="\n</parameter>\n" if lines else "</parameter>\n",
        ),
        closers=(f"</{section}>",),
    )


ARGUMENT_PAIRS: Final = NamedCalls(
    starts=("<tool_call>",),
    head=pattern_of(rf"<tool_call>\s*{NAME}\s*(?=<arg_key>|</tool_call>)"),
    arguments=Tagged(
        key=pattern_of(r"<arg_key>(?P<key>[^<]+)</arg_key>\s*<arg_value>"),
        close="</arg_value>",
        end=pattern_of(r"</tool_call>"),
        written_key="<arg_key>{key}</arg_key>\n<arg_value>",
        written_close="</arg_value>\n",
    ),
)
HUNYUAN: Final = NamedCalls(
    starts=("<tool_calls:opensource>", "<tool_call:opensource>"),
    head=pattern_of(rf"(?:<tool_calls:opensource>\s*)?<tool_call:opensource>\s*{NAME}\s*<tool_sep:opensource>"),
    arguments=Tagged(
        key=pattern_of(r"<arg_key:opensource>(?P<key>[^<]+)</arg_key:opensource>\s*<arg_value:opensource>"),
        close="</arg_value:opensource>",
        end=pattern_of(r"</tool_call:opensource>"),
        written_key="<arg_key:opensource>{key}</arg_key:opensource>\n<arg_value:opensource>",
        written_close="</arg_value:opensource>\n",
    ),
    closers=("</tool_calls:opensource>",),
)
KIMI_K2: Final = NamedCalls(
    starts=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    head=pattern_of(
        r"(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[\w.\-/]+?)(?::\d+)?\s*"
        r"<\|tool_call_argument_begin\|>\s*(?=\{)"
    ),
    closers=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
)
KIMI_K3: Final = NamedCalls(
    starts=("<|open|>tools<|sep|>", '<|open|>call tool="'),
    head=pattern_of(rf'(?:<\|open\|>tools<\|sep\|>\s*)?<\|open\|>call tool="{NAME}"[^<]*<\|sep\|>'),
    arguments=Tagged(
        key=pattern_of(r'<\|open\|>argument key="(?P<key>[^"]+)"(?: type="(?P<kind>\w+)")?[^<]*<\|sep\|>'),
        close="<|close|>argument<|sep|>",
        end=pattern_of(r"<\|close\|>call<\|sep\|>"),
        written_key='<|open|>argument key="{key}" type="{kind}"<|sep|>',
        written_close="<|close|>argument<|sep|>",
    ),
    closers=("<|close|>tools<|sep|>", "<|close|>message<|sep|>"),
)
DEEPSEEK: Final = NamedCalls(
    starts=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    head=pattern_of(
        r"(?:<｜tool▁calls▁begin｜>\s*)?(?:<｜tool▁call▁begin｜>)?(?:function<｜tool▁sep｜>)?(?P<name>[^\s<>{}｜]{1,200})"
        r"(?:<｜tool▁sep｜>|\s*```json)\s*(?=\{)"
    ),
    closers=("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
)
MISTRAL: Final = NamedCalls(
    starts=("[TOOL_CALLS]",),
    head=pattern_of(r"\[TOOL_CALLS\]\s*(?P<name>[^\s\[\]{}]{1,200})\s*(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?=\{)"),
)
PYTHON_LIST: Final = NamedCalls(
    starts=("<|tool_call_start|>",),
    head=pattern_of(r"<\|tool_call_start\|>\s*\[?\s*(?P<name>[\w.\-]+)\("),
    arguments=Literals(
        key=pattern_of(r"(?P<key>\w+)\s*="),
        end=")",
        quotes=('"', "'"),
        escapes=True,
        written_key="{key}=",
        written_comma=", ",
    ),
    closers=("]", "<|tool_call_end|>"),
    more=pattern_of(r"[,;]\s*(?P<name>[\w.\-]+)\("),
    more_start=",",
)
GEMMA: Final = NamedCalls(
    starts=("<|tool_call>",),
    head=pattern_of(r"<\|tool_call>\s*call:\s*(?P<name>[\w.\-]+)\s*\{"),
    arguments=Literals(
        key=pattern_of(r"(?P<key>[^\s:{}]+)\s*:"),
        end="}",
        quotes=('<|"|>',),
        escapes=False,
        written_key="{key}:",
        written_comma=",",
    ),
    closers=("<tool_call|>",),
)
MINIMAX_M3: Final = NamedCalls(
    starts=("]<]minimax[>[<tool_call>", ']<]minimax[>[<invoke name="'),
    head=pattern_of(rf'(?:\]<\]minimax\[>\[<tool_call>\s*)?\]<\]minimax\[>\[<invoke name="{NAME}">'),
    arguments=Tagged(
        key=pattern_of(r"\]<\]minimax\[>\[<(?P<key>[^/<>][^<>]*)>"),
        close="]<]minimax[>[</{key}>",
        end=pattern_of(r"\]<\]minimax\[>\[</invoke>"),
        nested=True,
        written_key="]<]minimax[>[<{key}>",
        written_close="]<]minimax[>[</{key}>",
    ),
    closers=("]<]minimax[>[</tool_call>",),
)
MINICPM: Final = NamedCalls(
    starts=('<function name="',),
    head=pattern_of(rf'<function name="{NAME}"\s*>'),
    arguments=Tagged(
        key=pattern_of(r'<param name="(?P<key>[^"]+)"\s*>'),
        close="</param>",
        end=pattern_of(r"</function>"),
        character_data=True,
        written_key='<param name="{key}">',
        written_close="</param>",
    ),
)
SOLAR: Final = NamedCalls(
    starts=("<|tool_call:begin|>",),
    head=pattern_of(
        r"<\|tool_call:begin\|>[^<]*<\|tool_call:name\|>(?P<name>[^<]{1,200})<\|tool_call:args\|>\s*(?=\{)"
    ),
    closers=("<|tool_call:end|>", "<|calls|>"),
)
FUNCTIONARY: Final = NamedCalls(  # Functionary 3.2: each message begins with to whom it goes
    starts=(">>>",),
    head=pattern_of(r">>>\s*(?P<name>[\w.\-]+)\s*\n\s*(?=\{)"),
    known=True,
)
COHERE_SILENT: Final = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")
