"""What --output means, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.errors import PolyarchError, UsageError
from polyarch.export.output import Output, parse, parse_all
from polyarch.oci.platform import Platform


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("-", Output("tar", "-")),
        ("out", Output("local", "out")),
        ("./a,b", None),
        ("foo=bar", Output("local", "foo=bar")),
        ("type=local,dest=out", Output("local", "out")),
        ("type=tar", Output("tar", "-")),
        ("type=oci", Output("oci", "-")),
        ("type=docker", Output("docker")),
        ("type=registry", Output("image", push=True)),
        ("type=registry,push=false", Output("image", push=False)),
        ("TYPE=local,DEST=out", Output("local", "out")),
        ("type=oci,dest=d,tar=false", Output("oci", "d", tar=False)),
        ('type=oci,"dest=a,b.tar"', Output("oci", "a,b.tar")),
        ("type=image,oci-mediatypes=false", Output("image", oci_media_types=False)),
        ("type=image,buildinfo=true,unpack=true,store=false", Output("image")),
        (
            "type=image,push-by-digest=1,name-canonical=t",
            Output("image", push_by_digest=True, name_canonical=True),
        ),
        ("type=cacheonly", Output("cacheonly")),
    ],
)
def test_reads_as_buildx_does(text: str, wanted: Output | None) -> None:
    if wanted is None:
        with pytest.raises(UsageError):
            parse(text)
    else:
        assert parse(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("type=foo", "no output type 'foo'"),
        ("type=imge", "did you mean 'image'"),
        ("dest=x", "type is missing"),
        ("type=local", "dest is required"),
        ("type=local,dest=-", "standard output"),
        ("type=oci,tar=false", "dest is required"),
        ("type=image,push=maybe", "push=maybe is neither true nor false"),
        ("type=image,pus=true", "did you mean 'push'"),
        ("type=image,nokey", "'nokey' is not key=value"),
        ("type=image,compression=lz", "no compression 'lz'"),
        ("type=image,compression=ztsd", "did you mean 'zstd'"),
        ("type=image,compression=estargz", "not supported"),
        ("type=image,compression-level=high", "not a number"),
        ("type=image,dest=x", "has no dest"),
        ('type=local,dest=a,"x=y', "CSV"),
        ("type=image,name=example.com/UPPER", "lower case"),
        ("type=image,annotation-indx.a=b", "did you mean 'index'"),
    ],
)
def test_refuses_and_says_why(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert said in caught.value.summary


def test_names_levels_and_annotations() -> None:
    output = parse('type=image,"name=a,example.com/b:2",compression=zstd,compression-level=99,annotation.k=v')
    assert [str(name) for name in output.names] == ["docker.io/library/a:latest", "example.com/b:2"]
    assert (output.compression.kind, output.compression.level) == ("zstd", 22)
    (annotation,) = output.annotations
    assert (annotation.key, annotation.value, annotation.level) == ("k", "v", "manifest")
    (other,) = parse("type=image,annotation-manifest-descriptor[linux/arm64].a.b=c=d").annotations
    assert (other.key, other.value, other.level) == ("a.b", "c=d", "manifest-descriptor")
    assert other.platform == Platform.parse("linux/arm64")


def test_push_and_load_join_in() -> None:
    assert parse_all([], push=True) == (Output("image", push=True),)
    assert parse_all(["type=image"], push=True) == (Output("image", push=True),)
    assert parse_all(["out"], push=True) == (Output("local", "out"), Output("image", push=True))
    assert parse_all(["type=docker"], load=True) == (Output("docker"),)
    assert parse_all(["type=docker,dest=f"], load=True)[1] == Output("docker")
    with pytest.raises(UsageError):
        parse_all(["type=tar", "type=oci"])
    with pytest.raises(UsageError):
        parse_all(["out", "out"])


@given(st.text(max_size=60))
def test_never_crashes(text: str) -> None:
    for candidate in (text, "type=" + text, "type=image," + text, 'type=oci,"' + text):
        try:
            parse(candidate)
        except PolyarchError as error:
            assert error.summary


@given(
    st.sampled_from(["image", "oci", "docker", "tar"]),
    st.text(st.characters(codec="utf-8", exclude_characters='"\r\n\0'), min_size=1, max_size=20),
    st.booleans(),
)
def test_quoted_fields_round_trip(kind: str, destination: str, flag: bool) -> None:
    if kind == "image":
        return
    text = f'type={kind},"dest={destination}",rewrite-timestamp={str(flag).lower()}'
    output = parse(text)
    assert (output.destination, output.rewrite_timestamp) == (destination, flag)
