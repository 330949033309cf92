"""The table and the page of what compaction has made of networks."""

import re

import pytest

from experiments.report import compacted

ROWS = [
    compacted.Row(0, (50_000, 5_000), (100.0, 12.5), 0, 540, (2e-4, 4e-5), (1.8e-4, 2e-5)),
    compacted.Row(1, (50_000, 2_500), (100.0, 5.0), 2, 540, (2e-4, 5e-5), (1.8e-4, 3e-5)),
]


def page(rows):
    return compacted.page(rows, 256, title="digits", machine="a CPU", layers="in/kernel <8>", command="python -m it")


def test_numbers_of_each_network_and_their_means():
    lines = compacted.text(ROWS, 256).splitlines()
    assert len(lines) == 4
    assert "50,000 -> 5,000, 10.0x" in lines[1]
    assert "8.0x less" in lines[1]
    assert "0 of 540" in lines[1]
    assert re.findall(r"([\d.]+)x(?: less)?", lines[2]) == ["20.0", "20.0", "4.0", "6.0"]
    assert lines[3] == "mean of 2: 15.0x smaller (standard deviation 7.1), 4.5x faster, 7.5x in a compiled loop"
    assert len(compacted.text(ROWS[:1], 256).splitlines()) == 2


def test_the_page_says_it_in_a_sentence_draws_it_and_escapes():
    html = page(ROWS)
    assert "2 networks are 15.0 times smaller. 2 of 1,080 predictions of test samples differ." in html
    assert "A call with 256 samples is 4.5 times faster, a compiled loop over such batches 7.5 times." in html
    assert "in/kernel &lt;8&gt;" in html
    assert html.count("<svg") == 1
    for label in compacted.MEASURES.values():
        assert f">{label}</text>" in html
    assert "The network is 10.0 times smaller. None of 540" in page(ROWS[:1])


def test_flops_that_are_unknown_are_said_and_not_drawn():
    rows = [ROWS[0]._replace(flops=None)]
    assert "unknown" in compacted.text(rows, 256)
    html = page(rows)
    assert "<td>unknown</td>" in html
    assert ">FLOPs</text>" not in html


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_a_network_that_is_no_smaller_is_drawn_too(factor):
    rows = [ROWS[0]._replace(parameters=(1000, round(1000 / factor)), call=(1e-4, 1e-4 / factor))]
    assert page(rows).count("<svg") == 1
