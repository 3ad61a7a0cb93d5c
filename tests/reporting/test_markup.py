"""Escaping, and the Markdown of our reports as HTML."""

import html
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from dso_nas.reporting.markup import element, json_script, markdown_sections, table
from dso_nas.reporting.tables import report_markdown

EVIL = '</script><script>alert("1")</script>&<!--'


def test_text_and_attributes_are_escaped():
    made = element("p", table(("a",), [(EVIL,)]), title=EVIL, data_k=3, class_="x")
    assert "<script" not in made and made.count("&lt;script&gt;") == 2
    assert 'data-k="3" class="x"' in made and '"1"' not in made


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_json_cannot_end_its_element(content):
    made = json_script("data", content)
    inside = re.fullmatch(r'<script type="application/json" id="data">([^<>&]*)</script>', made)
    assert json.loads(inside.group(1)) == content


def test_a_report_becomes_sections(make_report):
    report = make_report()
    report["notes"] = ["a <b> | c"]
    report["title"] = EVIL
    found = markdown_sections(report_markdown(report))
    assert list(found) == ["", "Comparison", "What was found", "Time", "Notes", "Environment"]
    assert found[""].startswith("<p><strong>The search wins.</strong> ")
    assert found["Notes"] == "<ul><li>a &lt;b&gt; | c</li></ul>"
    assert "<img" not in "".join(found.values())
    rows = re.findall("<tr>(.*?)</tr>", found["Comparison"])
    assert len(rows) == 1 + len(report["results"]) + 1 and rows[0].count('<th class="number">') == 6
    cells = [html.unescape(cell) for cell in re.findall("<td[^>]*>(.*?)</td>", rows[1])]
    assert cells == ["searched", "2.74 %", "3.0 M", "512 M", "304", "× 1.250", "3 min 05 s"]


def test_a_bar_inside_a_cell_stays_inside(make_report):
    report = make_report()
    report["results"][0]["name"] = "a | b"
    assert "<td>a | b</td>" in markdown_sections(report_markdown(report))["Comparison"]
