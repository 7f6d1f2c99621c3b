"""The families' formats: a row for each, chosen by what stands in a model's chat template.

Sources: the families' published chat templates and what llama.cpp's tests say of their answers; see
docs/chat_templates.md for how many of these are read as they are there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

from .call_styles import (
    ARGUMENT_PAIRS,
    COHERE_HEAD,
    COHERE_SILENT,
    DEEPSEEK,
    DSML_KIND,
    ENDS_IT,
    FUNCTIONARY,
    GEMMA,
    HUNYUAN,
    JSON_CALL,
    KIMI_K2,
    KIMI_K3,
    MINICPM,
    MINIMAX_M3,
    MISTRAL,
    NAME,
    PYTHON_LIST,
    SOLAR,
    function_tags,
    invoke_tags,
    pattern_of,
    written_invoke,
)
from .chat_styles import Channels, ChatFormat, JsonCalls, NamedCalls, Reasoning
from .tool_calls import ANY_JSON

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
            calls=invoke_tags("atem:", "atem:function_calls"),
        ),
        tokens=("<|start|>", "<|message|>", "<|eom|>", "<|eot|>"),
        written=" to={name}<|message|>" + written_invoke("atem:", "atem:function_calls"),
    ),
    ChatFormat(
        "llm-jp (Harmony with spaces)",
        ("<|channel|>analysis<|message|>", "<|constrain|> json"),
        channels=Channels(("<|end|>", "<|call|>", "<|return|>"), space=True),
        written="<|channel|> commentary to=functions.{name}<|message|> {arguments}",
        tokens=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"),
    ),
    ChatFormat(
        "gpt-oss (Harmony)",
        ("<|channel|>analysis<|message|>",),
        channels=Channels(("<|end|>", "<|call|>", "<|return|>")),
        written="<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}",
        tokens=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"),
    ),
    ChatFormat(
        "Gemma 4",
        ("<|tool_call>call:",),
        Reasoning("<|channel>thought", "<channel|>"),
        GEMMA,
        silent=("<|channel>thought\n<channel|>", "<|channel>thought<channel|>", "<|channel>", "<channel|>"),
        tokens=('<|"|>',),
        written="<|tool_call>call:{name}{{arguments}}<tool_call|>",
    ),
    ChatFormat(
        "DeepSeek V3.2",
        ("｜DSML｜", "function_calls"),
        ENDS_IT,
        invoke_tags("｜DSML｜", "｜DSML｜function_calls", DSML_KIND, ' string="{text}"'),
        written=written_invoke("｜DSML｜", "｜DSML｜function_calls"),
    ),
    ChatFormat(
        "DeepSeek V4",
        ("｜DSML｜", "tool_calls"),
        ENDS_IT,
        invoke_tags("｜DSML｜", "｜DSML｜tool_calls", DSML_KIND, ' string="{text}"'),
        written=written_invoke("｜DSML｜", "｜DSML｜tool_calls"),
    ),
    ChatFormat(
        "DeepSeek V3, R1",
        ("<｜tool▁calls▁begin｜>", "```json"),
        calls=DEEPSEEK,
        tokens=("<｜tool▁sep｜>",),
        written="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    ChatFormat(
        "DeepSeek V3.1",
        ("<｜tool▁calls▁begin｜>",),
        calls=DEEPSEEK,
        tokens=("<｜tool▁sep｜>",),
        written="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
    ),
    ChatFormat(
        "Kimi K3",
        ("<|open|>", "open_tag('think')"),
        Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>", calls_end_it=True),
        KIMI_K3,
        silent=(
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>tools<|sep|>",
            "<|close|>message<|sep|>",
        ),
        tokens=("<|open|>", "<|close|>", "<|sep|>"),
        written='<|open|>tools<|sep|><|open|>call tool="{name}" index="1"<|sep|>{arguments}<|close|>call<|sep|>'
        "<|close|>tools<|sep|>",
    ),
    ChatFormat(
        "Kimi K2",
        ("<|tool_call_argument_begin|>",),
        ENDS_IT,
        KIMI_K2,
        tokens=("<|tool_call_argument_begin|>",),
        written="<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{arguments}"
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
    ChatFormat(
        "MiniMax M3",
        ("]<]minimax[>[",),
        Reasoning("<mm:think>", "</mm:think>"),
        MINIMAX_M3,
        silent=("</mm:think>",),
        written=']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="{name}">{arguments}]<]minimax[>[</invoke>\n'
        "]<]minimax[>[</tool_call>",
    ),
    ChatFormat(
        "MiniMax M2",
        ("minimax:tool_call",),
        calls=invoke_tags("", "minimax:tool_call"),
        written=written_invoke("", "minimax:tool_call"),
    ),
    ChatFormat(
        "Seed-OSS",
        ("seed:tool_call",),
        Reasoning("<seed:think>", "</seed:think>"),
        function_tags("seed:tool_call", False),
        written="<seed:tool_call>\n<function={name}>\n{arguments}</function>\n</seed:tool_call>",
    ),
    ChatFormat(
        "Hunyuan 3",
        ("<tool_sep{}>", ":opensource"),
        Reasoning("<think:opensource>", "</think:opensource>"),
        HUNYUAN,
        tokens=("<tool_sep:opensource>",),
        written="<tool_calls:opensource>\n<tool_call:opensource>{name}<tool_sep:opensource>\n{arguments}"
        "</tool_call:opensource>\n</tool_calls:opensource>",
    ),
    ChatFormat(
        "GLM 4.5 and later, Ling, Laguna, Spark",
        ("<arg_key>", "<arg_value>"),
        ENDS_IT,
        ARGUMENT_PAIRS,
        written="<tool_call>{name}\n{arguments}</tool_call>",
    ),
    ChatFormat(
        "MiniCPM 5",
        ('<function name="',),
        calls=MINICPM,
        written='<function name="{name}">{arguments}</function>',
    ),
    ChatFormat(
        "Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5",
        ("<function=", "<parameter="),
        ENDS_IT,
        function_tags("tool_call", True),
        written="<tool_call>\n<function={name}>\n{arguments}</function>\n</tool_call>",
    ),
    ChatFormat(
        "Functionary 3.1",
        ("<function=", "</function>"),
        calls=NamedCalls(
            starts=("<function=",), head=pattern_of(rf"<function={NAME}>\s*(?=\{{)"), closers=("</function>",)
        ),
        written="<function={name}>{arguments}</function>",
    ),
    ChatFormat(
        "Functionary 3.2",
        (">>>all",),
        calls=FUNCTIONARY,
        silent=(">>>all\n",),
        opening=">>>",
        written="{name}\n{arguments}",
    ),
    ChatFormat(
        "Mistral, newer",
        ("[TOOL_CALLS]", "[ARGS]"),
        Reasoning("[THINK]", "[/THINK]"),
        MISTRAL,
        tokens=("[ARGS]", "[CALL_ID]"),
        written="[TOOL_CALLS]{name}[ARGS]{arguments}",
    ),
    ChatFormat(
        "LFM2",
        ("<|tool_call_start|>",),
        calls=PYTHON_LIST,
        others=(("<|tool_list_start|>",), ("List of tools: [", "keep_past_thinking")),
        written="<|tool_call_start|>[{name}({arguments})]<|tool_call_end|>",
    ),
    ChatFormat(
        "Cohere Command R7B and later",
        ("<|START_ACTION|>",),
        Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
        JsonCalls((("<|START_ACTION|>", "<|END_ACTION|>"),), head=COHERE_HEAD, name_keys=("tool_name",)),
        silent=COHERE_SILENT,
        written='<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "{name}", "parameters": {arguments}}\n]'
        "<|END_ACTION|>",
    ),
    ChatFormat(
        "Cohere Command R+",
        ("Action:", "tool_name"),
        calls=JsonCalls((("Action:\n```json\n", "```"),), head=COHERE_HEAD, name_keys=("tool_name",)),
        silent=("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        written='Action:\n```json\n[{"tool_name": "{name}", "parameters": {arguments}}]\n```',
    ),
    ChatFormat(
        "Apertus",
        ("<|tools_prefix|>",),
        Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
        JsonCalls(
            (("<|tools_prefix|>", "<|tools_suffix|>"),),
            head=pattern_of(r'[\s\[]*\{\s*"(?P<name>[^"\\]{1,256})"\s*:\s*(?=\{)'),
            name_keys=(),
        ),
        written='<|tools_prefix|>[{"{name}": {arguments}}]<|tools_suffix|>',
    ),
    ChatFormat(
        "Nemotron Nano 2",
        ("<TOOLCALL>",),
        calls=JsonCalls((("<TOOLCALL>", "</TOOLCALL>"),)),
        written=f"<TOOLCALL>[{JSON_CALL}]</TOOLCALL>",
    ),
    ChatFormat(
        "Apriel 1.6",
        ("[BEGIN FINAL RESPONSE]", "<tool_calls>"),
        Reasoning("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
        JsonCalls((("<tool_calls>", "</tool_calls>"),)),
        written=f"<tool_calls>[{JSON_CALL}]</tool_calls>",
    ),
    ChatFormat(
        "Apriel 1.5",
        ("<tool_calls>[",),
        calls=JsonCalls((("<tool_calls>", "</tool_calls>"),)),
        written=f"<tool_calls>[{JSON_CALL}]</tool_calls>",
    ),
    ChatFormat(
        "Firefunction",
        ("functools[",),
        calls=JsonCalls(((" functools[", ""), ("functools[", ""))),
        written=f" functools[{JSON_CALL}]",
    ),
    ChatFormat(
        "GigaChat 3.1",
        ("<|function_call|>",),
        calls=JsonCalls((("<|function_call|>", ""),)),
        written=f"<|function_call|>{JSON_CALL}",
    ),
    ChatFormat(
        "GigaChat 3",
        ("render_function_call", "<|message_sep|>"),
        calls=JsonCalls((("<|message_sep|>\n\nfunction call<|role_sep|>\n", ""),)),
        tokens=("<|message_sep|>", "<|role_sep|>"),
        written=f"<|message_sep|>\n\nfunction call<|role_sep|>\n{JSON_CALL}",
    ),
    ChatFormat(
        "Solar Open",
        ("<|tool_call:begin|>", "<|think|>"),
        Reasoning("<|think|>", "<|end|>"),
        SOLAR,
        silent=("<|begin|>assistant", "<|content|>", "<|tool_calls|>", "<|begin|>", "<|end|>", "<|think|>"),
        tokens=("<|tool_call:name|>", "<|tool_call:args|>"),
        written="<|tool_calls|><|tool_call:begin|>1<|tool_call:name|>{name}<|tool_call:args|>{arguments}<|tool_call:end|>",
    ),
    ChatFormat(
        "Granite 3",
        ("<|tool_call|>",),
        calls=JsonCalls((("<|tool_call|>", ""), ("<tool_call>", "")), bare=True),
        written=f"<|tool_call|>[{JSON_CALL}]",
    ),
    ChatFormat(
        "MiniMax M1",
        ("<tool_calls>",),
        calls=JsonCalls((("<tool_calls>", "</tool_calls>"),)),
        written=f"<tool_calls>\n{JSON_CALL}\n</tool_calls>",
    ),
    ChatFormat(
        "Hermes, Qwen, Granite 4 and many others",
        ("<tool_call>",),
        calls=ANY_JSON,
        written=f"<tool_call>\n{JSON_CALL}\n</tool_call>",
    ),
    ChatFormat("Mistral, older", ("[TOOL_CALLS]",), calls=ANY_JSON, written=f"[TOOL_CALLS][{JSON_CALL}]"),
    ChatFormat(
        "Llama 3",
        ('{"name": function name, "parameters":',),
        calls=ANY_JSON,
        written='{"name": "{name}", "parameters": {arguments}}',
    ),
)
# Whatever else calls tools in JSON.
GENERAL: Final = ChatFormat("JSON: all others", (), calls=ANY_JSON)


@cache
def format_of(source: str) -> ChatFormat:
    """The format of a chat template's family; a model of it that was taught to reason as most do reasons so."""
    for row in FORMATS:
        if any(all(sign in source for sign in signs) for signs in (row.signs, *row.others)):
            think = replace(GENERAL.reasoning, calls_end_it=row.reasoning.calls_end_it)
            taught = row.channels is None and row.reasoning.open not in source and think.open in source
            return replace(row, reasoning=think) if taught else row
    return GENERAL
