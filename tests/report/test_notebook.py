"""Results in a real notebook, run by a real kernel."""

import nbformat
import pytest
from nbclient import NotebookClient
from tiny import base_weights, tuned, write_model

from erestore.api import Store
from erestore.report.notebook import table_html

CELLS = (
    "from erestore import Store; store = Store.open('store'); store",
    "store.commit('ft', base='base', name='again', message='<b>bold</b> & more')",
    "store.log()",
    "store.show('ft')",
    "result = store.diff('base', 'ft', details=True); result",
    "from erestore.report.figures import map_figure; map_figure(result)",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    place = tmp_path_factory.mktemp("notebook")
    weights = base_weights()
    write_model(place / "base", weights)
    write_model(place / "ft", tuned(weights, 1))
    store = Store.init(place / "store")
    store.import_base(place / "base", name="base")
    store.commit(place / "ft", base="base", name="ft")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    return [cell.outputs[-1].data for cell in notebook.cells]


def test_a_store_lists_its_branches(outputs):
    assert ">ft<" in outputs[0]["text/html"]
    assert ">imported<" in outputs[0]["text/html"]


def test_a_commit_says_what_it_is(outputs):
    assert ">again<" in outputs[1]["text/html"]
    assert "relative error" in outputs[1]["text/html"]


def test_a_log_shows_messages_as_they_are_and_not_as_markup(outputs):
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; more" in outputs[2]["text/html"]
    assert "<b>bold" not in outputs[2]["text/html"]


def test_show_says_edge_and_base(outputs):
    assert ">adapted<" in outputs[3]["text/html"]


def test_a_diff_says_what_moved(outputs):
    assert "ft differs from base in" in outputs[4]["text/html"]
    assert "<table>" in outputs[4]["text/html"]


def test_figures_are_plotlys_and_draw_themselves(outputs):
    drawn = outputs[5]["application/vnd.plotly.v1+json"]
    assert {trace["type"] for trace in drawn["data"]} == {"heatmap"}


def test_long_tables_say_what_they_leave_out():
    assert "and 1,234 more" in table_html(("a",), [("b",)], more=1234)
    assert "more" not in table_html(("a",), [("b",)])
