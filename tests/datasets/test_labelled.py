"""Users' files of labelled texts: every format, what is malformed in each, and the memory it takes."""

import json
import tracemalloc
from types import GeneratorType

import pytest

from attnlab.contract import InputError
from attnlab.datasets.files import DatasetMissing, FormatError
from attnlab.datasets.labelled import LONGEST, Bad, Row, detect, read
from attnlab.paths import shared_data

SST = "(3 (2 A) (4 (3 fine) (2 film)))\n(2 (2 So) (2 so))\n(1 (2 not) (0 (1 dull) (3 fun)))\n"
SEMEVAL = "The $T$ is nice\nold staff\n1\n$T$ exists\nfood\n0\nBad $T$ !\nsoup\n-1\n"
JSONL = (
    '{"text": "a fine film", "label": 1}\n'
    '{"text": "a dull film", "label": "negative", "rationale": [[2, 6]]}\n'
    '{"text": "so so", "label": "2", "rationale": [0, true], "id": "x"}\n'
)


def write(tmp_path, content, name="data"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = [
    ("sst", SST, [Row("A fine film", 1, (False, True, False), 1),
                  Row("not dull fun", 0, (False, True, False), 3)]),
    ("semeval", SEMEVAL, [Row("The old staff is nice", 1, None, 1),
                          Row("Bad soup !", 0, None, 7)]),
    ("imdb", "well, a fine film,1\ndull,0\n", [Row("well, a fine film", 1, None, 1),
                                                Row("dull", 0, None, 2)]),
    ("imdb", 'review,sentiment\n"fine, ""really""",positive\nbad,neg\n',
     [Row('fine, "really"', 1, None, 2), Row("bad", 0, None, 3)]),
    ("tsv", "fine\t1\n\nso, so\t2\r\nnone at all\tNeg", [Row("fine", 1, None, 1),
                                                       Row("so, so", 2, None, 3),
                                                       Row("none at all", 0, None, 4)]),
    ("tsv", "\ufeffsentence\tlabel\nfine\t1\n", [Row("fine", 1, None, 2)]),
    ("jsonl", JSONL, [Row("a fine film", 1, None, 1),
                      Row("a dull film", 0, (False, True, False), 2),
                      Row("so so", 2, (False, True), 3)]),
]  # fmt: skip


@pytest.mark.parametrize(("format", "content", "rows"), GOOD)
def test_every_format_is_told_and_read(tmp_path, format, content, rows):
    path = write(tmp_path, content)
    assert detect(path) == format
    assert list(read(path)) == rows == list(read(path, format))


def test_imdb_reads_the_tab_form_too(tmp_path):
    assert list(read(write(tmp_path, "a, b\t1\n"), "imdb")) == [Row("a, b", 1, None, 1)]
    assert [type(r) for r in read(write(tmp_path, "a\t2\n"), "imdb")] == [Bad]


BAD = [  # format, content with one good instance, line of the bad one, what is said
    ("sst", "(3 (2 a) (3 film)\n(3 fine)\n", 1, "bracket closed"),
    ("sst", "(3 fine)\n(9 film)\n", 2, "label 0-4"),
    ("imdb", "fine,1\nno label\n", 2, "label 0 or 1"),
    ("imdb", "fine,1\n,1\n", 2, "text TAB label"),
    ("imdb", 'fine,1\n"a",b,1\n', 2, "text TAB label"),
    ("imdb", 'fine,1\n"' + "a" * 200_000 + '",1\n', 2, "field larger"),
    ("sst", "(3 fine)\n" + "(3 " * 5000 + "(3 a)" + ")" * 5000 + "\n", 2, "too deeply"),
    ("tsv", "fine\t1\nbad\t-1\n", 2, "text TAB label"),
    ("tsv", "fine\t1\nbad\tlabel\n", 2, "text TAB label"),
    ("tsv", b"\xff\xfe\t1\nfine\t1\n", 1, "UTF-8"),
    ("tsv", b"x" * (2 * LONGEST + 5) + b"\t1\nfine\t1\n", 1, "longer"),
    ("jsonl", '{"text": "a"\n{"text": "fine", "label": 1}', 1, "JSON object"),
    ("jsonl", '[1]\n{"text": "fine", "label": 1}', 1, "JSON object"),
    ("jsonl", '{"text": " ", "label": 1}\n{"text": "fine", "label": 1}', 1, '"text"'),
    ("jsonl", '{"text": "a", "label": true}\n{"text": "fine", "label": 1}', 1, '"label"'),
    ("jsonl", '{"text": "a", "label": -1}\n{"text": "fine", "label": 1}', 1, '"label"'),
    ("semeval", "$T$ x\nfood\n7\nfine $T$\nfood\n1\n", 1, "polarity"),
    ("semeval", "$T$ x\nfood\nfine $T$\nfood\n1\n", 1, "three lines"),
    ("semeval", "fine $T$\nfood\n1\n$T$ x\nfood\n", 4, "three lines"),
    ("semeval", "x $T$ $T$\nfood\n1\nfine $T$\nfood\n1\n", 1, "one $T$"),
    ("semeval", "no aspect\nfood\n1\nfine $T$\nfood\n1\n", 1, "one $T$"),
]
BAD += [
    ("jsonl", f'{{"text": "two words", "label": 1, "rationale": {r}}}\n{{"text": "fine", "label": 1}}',
     1, '"rationale"')
    for r in ("[1]", "[1, 2]", "[[0, 99]]", "[[3, 3]]", "[[0]]", "[[0, 1.5]]", '"word"', '[1, "a"]')
]  # fmt: skip


@pytest.mark.parametrize(("format", "content", "line", "says"), BAD)
def test_a_malformed_line_is_reported_and_the_others_are_read(
    tmp_path, format, content, line, says
):
    rows = list(read(write(tmp_path, content), format))
    bad = [r for r in rows if isinstance(r, Bad)]
    assert [b.line for b in bad] == [line]
    assert says in bad[0].reason
    good = [r for r in rows if isinstance(r, Row)]
    assert len(good) == 1
    assert "fine" in good[0].text


def test_the_format_is_told_despite_malformed_first_lines(tmp_path):
    assert detect(write(tmp_path, "oops\n???\nfine, really\t1\nbad\t0\n")) == "tsv"


@pytest.mark.parametrize("content", ["", "\n\n", "only prose here\nand here, too\n"])
def test_a_file_in_no_format_is_refused(tmp_path, content):
    with pytest.raises(FormatError, match="one of the formats sst, imdb, semeval, tsv, jsonl"):
        read(write(tmp_path, content))


def test_names_are_checked_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="did you mean jsonl"):
        read(tmp_path / "nothing", "json")
    with pytest.raises(DatasetMissing, match="nothing"):
        read(tmp_path / "nothing")


def test_memory_does_not_grow_with_the_file(tmp_path):
    line = json.dumps({"text": "a fairly dull film " * 50, "label": 0}) + "\n"
    path = write(tmp_path, line * 4000)
    assert path.stat().st_size > 3_500_000
    rows = read(path)
    assert isinstance(rows, GeneratorType)
    tracemalloc.start()
    count = sum(1 for _ in rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000
    assert peak < 500_000


PUBLISHED = [  # file, format, rows, of them positive
    ("sst/dev.txt", "sst", 872, 444),
    ("imdb/dev_1200.csv", "imdb", 1200, None),
    ("semeval14/Restaurants_Train.xml.seg", "semeval", 2971, 2164),
]


@pytest.mark.parametrize(("file", "format", "count", "positive"), PUBLISHED)
def test_published_files(file, format, count, positive):
    here = shared_data()
    if here is None or not (here / file).is_file():
        pytest.skip(f"no shared/data/{file} beside this checkout")
    assert detect(here / file) == format
    rows = [r for r in read(here / file) if isinstance(r, Row)]
    assert len(rows) == count
    assert positive in (None, sum(r.label for r in rows))
    assert all(r.rationale is None or len(r.rationale) == len(r.text.split()) for r in rows)
