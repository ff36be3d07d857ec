"""Templates of others end, whatever they ask for; honest ones render as with Jinja's own sandbox, to the letter."""

# ruff: noqa: E501 (templates read best on one line)
from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import jinja2.ext
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mmpo.chat.templates import render as render_prompt
from mmpo.errors import UserError
from mmpo.outside import templates
from mmpo.outside.templates import BoundedEnvironment, TemplateTooMuch, limited

NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
ENDS = "{% endfor %}" * 3

HOSTILE = {
    "loops without output": NESTED + "{% set x = a %}" + ENDS,
    "loops with output": NESTED + "x" + ENDS,
    "empty output": NESTED + "{{ '' }}" + ENDS,
    "loops over what a filter yields": "{% for a in range(99999)|map('string') %}" * 3 + "x" + ENDS,
    "doubling by ~": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by +": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a list that doubles": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by format": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = '%s%s' % (n.x, n.x) %}{% endfor %}",
    "doubling by blocks": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = y %}{% endfor %}",
    "doubling by macros": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% else %}xxxxxxxx{% endif %}{% endmacro %}{{ m(60) }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a recursive loop": "{% for a in [[]] recursive %}{{ loop([[], []]) }}{% endfor %}",
    "repetition": "{{ 'a' * 10000000000 }}",
    "repetition by a variable": "{{ 'a' * n }}",
    "a list repeated": "{{ ([1] * 10000000000)|length }}",
    "repetition twice": "{{ ('a' * 9000000) * 9000000 }}",
    "a power": "{{ 10 ** 10000000000 }}",
    "powers of a variable": "{% set m = namespace(x=3) %}{% for i in range(60) %}{% set m.x = m.x * m.x %}{% endfor %}",
    "center": "{{ 'a'|center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "ljust by name": "{{ 'a'['ljust'](n) }}",
    "indent": "{{ 'a\nb'|indent(10000000000) }}",
    "zfill by map": "{{ range(99999)|map('string')|map('center', 9000000)|join }}",
    "format": "{{ '{:>10000000000}'.format(1) }}",
    "format with a width given": "{{ '{:>{}}'.format(1, 10000000000) }}",
    "percent": "{{ '%10000000000d' % 1 }}",
    "percent with a width given": "{{ '%*d' % (10000000000, 1) }}",
    "the filter format": "{{ '%10000000000d'|format(1) }}",
    "replace": "{% set a = 'a' * 1000000 %}{{ a.replace('a', a) }}",
    "the filter replace": "{% set a = 'a' * 1000000 %}{{ a|replace('', a) }}",
    "join": "{% set a = 'a' * 1000000 %}{{ a.join(a) }}",
    "the filter join": "{% set a = 'a' * 1000000 %}{{ a|join(a) }}",
    "tojson": "{{ [[[1]]]|tojson(indent=10000000000) }}",
    "many large texts": "{% set a = 'a' * 9000000 %}{% for i in range(9999) %}{{ a|upper }}{% endfor %}",
    "words at will": "{{ lipsum(n=1000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(10000000000) }}",
}  # fmt: skip


def environment(kind: type[ImmutableSandboxedEnvironment]) -> ImmutableSandboxedEnvironment:
    """As transformers makes one."""
    made = kind(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    made.filters["tojson"] = lambda value, indent=None: jinja2.utils.htmlsafe_json_dumps(value, indent=indent)
    return made


@pytest.mark.parametrize("name", HOSTILE)
def test_it_ends_in_little_time_and_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    tracemalloc.start()
    used = time.process_time()
    expected = (TemplateTooMuch, RecursionError, jinja2.exceptions.UndefinedError, OverflowError)
    try:
        with limited(), pytest.raises(expected):
            environment(BoundedEnvironment).from_string(HOSTILE[name]).render(n=10**10)
        assert time.process_time() - used < 4
        assert tracemalloc.get_traced_memory()[1] < 10**9, "bytes of this template at its worst"
    finally:
        tracemalloc.stop()


HONEST: dict[str, Any] = {
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m.role ~ ': ' ~ m.content }}{{ '' if loop.last else ',' }}"
    "{% endfor %}": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "{% for k, v in d.items() %}{{ loop.first }}{{ k }}={{ v }}{% if loop.previtem %}<{% endif %}{% endfor %}": {"d": {"a": 1, "b": 2}},
    "{% for x in xs|select('odd') if x > 1 %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% else %}none{% endfor %}": {"xs": [1, 2, 3, 5, 7]},
    "{{ '<image>' * n + '\n' }}{{ 2 ** 5 * 3 + 1 }}{{ '%s-%03d' % ('a', 7) }}{{ 7 % 4 }}": {"n": 3},
    "{{ 'a b'.split(' ')|join('+') }}{{ text|replace('x', 'yy')|trim|indent(2)|upper }}{{ 'q'.center(5) }}": {"text": " xx\nx "},
    "{{ '{:>5}|{}'.format(1, 'b') }}{{ {'a': [1, {'b': None}]}|tojson }}{{ xs|tojson(indent=2) }}": {"xs": [1, [2]]},
    "{% macro m(n) %}{% if n %}{{ n }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(4) }}{% set b %}{{ m(2) ~ '!' }}{% endset %}{{ b }}": {},
    "{% for x in tree recursive %}[{{ x.n }}{{ loop(x.kids) if x.kids }}]{% endfor %}": {"tree": [{"n": 1, "kids": [{"n": 2, "kids": []}]}]},
    "{% for x in nothing %}{{ x }}{% else %}empty{% endfor %}{{ nothing }}{{ [1] + [2] }}{{ xs[1:] }}{{ xs|map('string')|list }}": {"xs": [1, 2]},
    "{% set n = namespace(k=0) %}{% for x in xs %}{% set n.k = n.k + x %}{% endfor %}{{ n.k }}{{ 'ab' 'c' ~ 1 ~ none }}": {"xs": (1, 2)},
    "{% for a in range(3) %}{% for b in 'xy' %}{{ a ~ b }}{% continue %}z{% endfor %}{% endfor %}": {},
}  # fmt: skip


@pytest.mark.parametrize("source", HONEST)
def test_honest_templates_render_to_the_letter(source: str) -> None:
    expected = environment(ImmutableSandboxedEnvironment).from_string(source).render(**HONEST[source])
    bounded = environment(BoundedEnvironment).from_string(source)
    assert bounded.render(**HONEST[source]) == expected, "nothing counts outside"
    with limited():
        assert environment(BoundedEnvironment).from_string(source).render(**HONEST[source]) == expected
        assert bounded.render(**HONEST[source]) == expected


def test_a_long_honest_conversation_stays_far_below_the_limits() -> None:
    source = "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'user' %}{{ m.content|trim }}{% else %}{{ m.content ~ eos }}{% endif %}{% endfor %}"
    messages = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"{n} " * 500} for n in range(2000)]  # fmt: skip
    with limited():
        text = environment(BoundedEnvironment).from_string(source).render(messages=messages, eos="</s>")
    assert len(text) > 4_000_000


def test_a_prompt_of_ones_own_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "STEPS", 100_000)
    (tmp_path / "mine.j2").write_text(HOSTILE["loops without output"])
    with pytest.raises(UserError, match=r"mine\.j2: the template is stopped: it takes more than 100,000 steps"):
        render_prompt(tmp_path / "mine.j2")
