import pytest

from deid_diffusion.evaluation.groups import read_groups
from deid_diffusion.evaluation.results import EvaluationError


def test_numbers_become_thirds_and_gaps_are_unknown(tmp_path):
    rows = [f"{i:02},{20 + i if i else ''},{'xy'[i % 2]}" for i in range(13)]
    (tmp_path / "g.csv").write_text("id,age,kind\n" + "\n".join(rows))
    attributes, groups = read_groups(tmp_path / "g.csv")
    assert attributes == ("age", "kind")
    assert groups["00"] == ("unknown", "x")
    assert groups["01"] == ("21 to 24", "y")
    assert groups["12"] == ("29 to 32", "x")


@pytest.mark.parametrize("text", ["", "id,age\n", "id\n1\n", "id,age\n1,2,3\n"])
def test_tables_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(EvaluationError, match="needs a header"):
        read_groups(tmp_path / "g.csv")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"g\.csv"):
        read_groups(tmp_path / "g.csv")
