"""Go templates: what is there works as in Go, what is not is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.cli.govalues import Struct, show, to_json
from polyarch.cli.template import Template
from polyarch.errors import UsageError

DATA = Struct(
    "app",
    {
        "Name": "n",
        "Images": {"linux/amd64": Struct("image", {"Cmd": ["/bin/sh", "-c"], "Size": 1}, {"cmd": []})},
        "List": [{"a": 1}, {"a": 2}],
        "Empty": [],
        "Yes": True,
        "Nothing": None,
    },
    {"name": "n<&>"},
)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "n"),
        ("{{ .Name }}x", "nx"),
        ("a {{- .Name -}} b", "anb"),
        ("{{json .}}", '{"name":"n\\u003c\\u0026\\u003e"}'),
        ('{{(index .Images "linux/amd64").Cmd}}', "[/bin/sh -c]"),
        ('{{index .List 1 "a"}}', "2"),
        ("{{range .List}}{{.a}},{{end}}", "1,2,"),
        ("{{range $i, $e := .List}}{{$i}}={{$e.a}} {{end}}", "0=1 1=2 "),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range $k, $v := .Images}}{{$k}}{{println}}{{end}}", "linux/amd64\n"),
        ("{{if .Yes}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}1{{else if .Nothing}}2{{else}}3{{end}}", "3"),
        ("{{with .Name}}{{.}}{{$.Yes}}{{end}}", "ntrue"),
        ("{{$x := .Name}}{{$x}}{{/* a comment */}}", "n"),
        ('{{.Name | upper | printf "%s!"}}', "N!"),
        ('{{printf "%-3s|%q|%d" .Name .Name 5}}', 'n  |"n"|5'),
        ('{{if and .Yes (eq .Name "m" "n")}}both{{end}}', "both"),
        ('{{or .Nothing "other"}}{{not .Yes}}', "otherfalse"),
        ('{{join (index .Images "linux/amd64").Cmd ","}}', "/bin/sh,-c"),
        ("{{len .List}}{{len .Name}}", "21"),
        ("{{.Images}}", "map[linux/amd64:{[/bin/sh -c] 1}]"),
        ("{{.Nothing}}{{.Images.absent}}", "<no value><no value>"),
        ('{{"}}"}}{{`a"b`}}', '}}a"b'),
    ],
)
def test_renders_as_go_does(template: str, wanted: str) -> None:
    assert Template(template).render(DATA) == wanted


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{", "unclosed action"),
        ("{{.Name", "unclosed action"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{if .Name}}", "without {{end}}"),
        ("{{range .Name}}{{end}}", "can't iterate"),
        ("{{.Nam}}", "can't evaluate field Nam in type app"),
        ("{{.Name.X}}", "can't evaluate field X in type string"),
        ("{{.Nothing.X}}", "nil pointer"),
        ("{{nope .}}", "function 'nope' not defined"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{.Name)}}", "unexpected right paren"),
        ('{{define "x"}}{{end}}', "not supported"),
        ("{{$x}}", "undefined variable"),
        ("{{.Name 1}}", "methods are not supported"),
        ("{{index .List 9}}", "out of range"),
        ("{{len 1 2}}", "error calling len"),
        ("{{}}", "missing value"),
        ("{{.Name | }}", "missing value"),
        ("{{#}}", "unexpected '#'"),
    ],
)
def test_refuses_and_says_why(template: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Template(template).render(DATA)
    assert said in caught.value.summary


def test_says_what_was_meant() -> None:
    with pytest.raises(UsageError) as caught:
        Template("{{.Nmae}}").render(DATA)
    assert caught.value.hint == "did you mean .Name?"


@given(st.text('{}.|()$ "`-:=,\\aN1', max_size=40))
def test_never_crashes(text: str) -> None:
    for candidate in (text, "{{" + text + "}}", "{{range .List}}" + text + "{{end}}"):
        try:
            Template(candidate).render(DATA)
        except UsageError as error:
            assert error.summary.startswith("--format: ")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(UsageError):
        Template("{{if .Yes}}" * 5000)
    with pytest.raises(UsageError):
        Template("{{" + "(" * 5000 + ".Name" + ")" * 5000 + "}}")


def test_values_as_go_prints_them() -> None:
    assert show([True, None, {"b": 1, "a": [2]}]) == "[true <nil> map[a:[2] b:1]]"
    assert to_json({"a": []}, indent="\t") == '{\n\t"a": []\n}'
