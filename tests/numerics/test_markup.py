"""Tables of HTML."""

from tf_hessian.numerics.markup import table


def test_cells_are_escaped():
  assert table([("<b> & 1",)]) == "<table><tr><td>&lt;b&gt; &amp; 1</td></tr></table>"


def test_table_without_rows_is_empty():
  assert table([]) == "<table></table>"
