import random
import re
import shlex

import pytest

from packformer.command_line.grammar import parse
from packformer.command_line.overrides import refuse_altered_text, refuse_lost_lists

_PRINTABLE = [chr(code) for code in range(32, 0x3000) if chr(code).isprintable()]
_SPECIAL = [*"=,[]{}()#$\\'\"~:;&|<>*?!`%^+-@/. ", "1e3", "null"]


@pytest.mark.parametrize(
    "override",
    [
        "data.path=2024",
        "output_dir=007",
        "data.path=2.5",
        "name=gqa",
        "data.path=a,b",
        "name=",
        "data.path=[corpus,2027]",
        'data.path="1e3"',
        "data.path=1e3x",
        "data.path=2024/1e3",
        "optimizer.learning_rate=1e-3",
        "-m",
        "data.path=_1",
        "data.path=2_",
        "data.path=2__0",
        "data.path=-5",
        "data.path='a=b'",
        "--config-dir=a=b",
        "optimizer.learning_rate=choice(1,2)",
    ],
)
def test_what_is_read_as_it_is_written_passes(override):
    refuse_altered_text([override])


@pytest.mark.parametrize(
    ("override", "read", "written"),
    [
        ("data.path=2_024", "2024", 'data.path="2_024"'),
        ("output_dir=1e3", "1000.0", 'output_dir="1e3"'),
        ("name=+5", "5", 'name="+5"'),
        ("data.path=2024,1.50", "1.5", 'data.path=2024,"1.50"'),
        ("data.path=[2e3, 12e3,x2e3]", "2000.0", 'data.path=["2e3", 12e3,x2e3]'),
        ("data.field=1E3", "1000.0", 'data.field="1E3"'),
        ("data.path=.5", "0.5", 'data.path=".5"'),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(override, read, written):
    with pytest.raises(ValueError, match=re.escape(f"number {read}: write '{written}'")):
        refuse_altered_text([override])


@pytest.mark.parametrize(
    ("override", "written"),
    [
        ("data.path=a=1e3", "'data.path=\"a=1e3\"'"),
        ("data.path=a[1].txt", "'data.path=\"a[1].txt\"'"),
        ("data.path=#1", "'data.path=\"#1\"'"),
        ("data.path=語料", "'data.path=\"語料\"'"),
        ("data.path=~/texts", "'data.path=\"~/texts\"'"),
        ("data.path=[a=b, 語料]", '\'data.path=["a=b","語料"]\''),
        ("data.path=[a](1)", "'data.path=\"[a](1)\"'"),
        ("+logger.wandb.project=a#b", "'+logger.wandb.project=\"a#b\"'"),
        ("trainer.profiler=a=b", "'trainer.profiler=\"a=b\"'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_to_write_it(override, written):
    with pytest.raises(ValueError, match=re.escape(f"{override} cannot be read: write {written}")):
        refuse_altered_text([override])


def test_an_escape_and_a_dictionary_are_no_names():
    with pytest.raises(
        ValueError, match=re.escape("""would be read as a,b: write 'data.path="a\\,b"'""")
    ):
        refuse_altered_text([r"data.path=a\,b"])
    with pytest.raises(
        ValueError, match=re.escape("""as a dictionary: write 'data.path="{a:b}"'""")
    ):
        refuse_altered_text(["data.path={a:b}"])


def _is_deliberate(name):
    """Quotes, a list, a reference, a sweep, no value."""
    return name.startswith(("'", '"', "[")) or "${" in name or "," in name or name == "null"


def test_any_name_works_as_typed_or_the_message_shows_how():
    draw = random.Random(0)
    refused = 0
    for _ in range(600):
        pools = draw.choices((_SPECIAL, _PRINTABLE, "ab1_"), (2, 1, 2), k=draw.randint(1, 12))
        name = "".join(draw.choice(pool) for pool in pools)
        argument = f"data.path={name}"
        if _is_deliberate(name):
            continue
        try:
            refuse_altered_text([argument])
        except ValueError as error:
            refused += 1
            (argument,) = shlex.split(str(error).rpartition(": write ")[2])
        assert str(parse(argument).value()) == name
    assert 200 < refused < 500


@pytest.mark.parametrize("pattern", ["ÄL", '"ÄL"', "SL,ÄL", "S~L", "~", "ß", "SL:S", "語"])
def test_a_pattern_that_cannot_be_read_is_not_advised_in_quotes(train, small, pattern):
    done = train(*small, "layers=local_global", f"layers.pattern={pattern}")
    assert done.code == 1
    told = pattern.strip('"')
    assert f"error: layers.pattern ({told}) must be letters from A to Z, one per layer" in done.err
    assert "+layers" not in done.err


@pytest.mark.parametrize(
    "override", ["layers.Ä.attention.window=5", "+layers.Ä={attention:{window:5}}", "~layers.Ä"]
)
def test_letters_are_ascii(override):
    with pytest.raises(ValueError, match=r"layers.Ä names no layers: letters of .* are A to Z"):
        refuse_altered_text([override])


@pytest.mark.parametrize(
    ("override", "read", "written"),
    [
        ("layers.pattern=NULL", "null", '"NULL"'),
        ("layers.pattern=Null", "null", '"Null"'),
        ("+layers.pattern=nULL", "null", '"nULL"'),
        ("layers.pattern=SL,NULL", "SL,null", 'SL,"NULL"'),
    ],
)
def test_letters_that_are_read_as_null_are_refused(override, read, written):
    told = f"{override} would be read as {read}, and null makes all layers alike: write null if "
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        refuse_altered_text([override])
    assert f"or 'layers.pattern={written}' for these letters" in str(refused.value)


@pytest.mark.parametrize(
    "pattern", ["null", "SL,null", '"NULL"', "'NULL'", 'SL,"Null"', "NULLS", "SNULL", "INF"]
)
def test_null_and_letters_that_stay_letters_pass(pattern):
    refuse_altered_text([f"layers.pattern={pattern}"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "model.num_heads=4,5 seed=1 model.num_heads=4",
            "model.num_heads=4,5 lists values of model.num_heads, and model.num_heads=4 gives it "
            "another: leave one out",
        ),
        ("+seed=choice(1,2) seed=1", "+seed=choice(1,2) lists values of seed, and seed=1 gives"),
        ("seed=range(3) seed=0,1", "seed=range(3) lists values of seed, and seed=0,1 gives it"),
        (
            "-m +experiment=gqa,mha,gqa",
            "+experiment=gqa,mha,gqa lists gqa twice: list each value once",
        ),
        ("optimizer.learning_rate=1e-3,0.001", "lists 0.001 twice: list each value once"),
    ],
)
def test_lists_that_would_be_lost_or_doubled_are_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        refuse_lost_lists(given.split())


@pytest.mark.parametrize(
    "given",
    [
        "seed=1 seed=2",  # the last one counts
        "seed=1 model.width=64 seed=2,3",
        "seed=0,1 model.width=64,128 -m --cfg=job",
        "data.path='a,b' data.path=c",
        "optimizer.learning_rate=interval(1,2) seed=range(3)",
        "not=[a,reading seed=0,1",
    ],
)
def test_other_settings_may_be_given_again(given):
    refuse_lost_lists(given.split())
