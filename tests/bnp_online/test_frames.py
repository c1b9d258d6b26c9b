"""Tables in, tables out: the state is that of a loop of `learn_one`, and predictions keep the index."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest
from river import compose, preprocessing, stream

from bnp_online import BNPClassifier, BNPRegressor, SampleError

ROWS: list[dict[str, Any]] = [
    {"a": 1.0, "n": 3, "kind": "x", "on": True, "day": date(2026, 1, 1), "price": Decimal("1.5")},
    {"a": None, "n": 4, "kind": "y", "on": False, "day": date(2026, 1, 2), "price": Decimal("2.5")},
    {"a": 2.0, "n": None, "kind": None, "on": True, "day": None, "price": None},
    {"a": 0.5, "n": 1, "kind": "x", "on": None, "day": date(2026, 1, 4), "price": Decimal("0.5")},
] * 5
LABELS = ["u", "v", "v", "u"] * 5
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def pandas_frame() -> Any:
    frame = pd.DataFrame(COLUMNS, index=[f"r{i}" for i in range(len(ROWS))])
    return frame.astype({"n": "Int64", "kind": "category", "on": "boolean", "day": "datetime64[ns]"})


TABLES: dict[str, Callable[[], Any]] = {
    "dicts": lambda: ROWS,
    "columns": lambda: COLUMNS,
    "columns of arrays": lambda: {name: np.array(values, object) for name, values in COLUMNS.items()},
    "columns of series": lambda: {name: pd.Series(values, dtype=object) for name, values in COLUMNS.items()},
    "pandas": pandas_frame,
    "pandas with pyarrow": lambda: pandas_frame().convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars with categories": lambda: pl.DataFrame(COLUMNS).with_columns(pl.col("kind").cast(pl.Categorical)),
    "arrow": lambda: pa.table(COLUMNS),
}
TARGETS: dict[str, Callable[[Any], Any]] = {
    "list": lambda y: y,
    "array": np.array,
    "pandas": pd.Series,
    "pandas categories": lambda y: pd.Series(y, dtype="category"),
    "polars": lambda y: pl.Series(y),
    "arrow": pa.array,
    "arrow chunks": lambda y: pa.chunked_array([y[:3], y[3:]]),
    "frame with one column": lambda y: pd.DataFrame({"y": y}),
}


def looped() -> BNPClassifier:
    model = BNPClassifier(hidden=(4,))
    for x, y in zip(ROWS, LABELS, strict=True):
        model.learn_one(x, y)
    return model


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_learned_as_by_a_loop(table: str) -> None:
    model = BNPClassifier(hidden=(4,))
    model.learn_many(TABLES[table](), LABELS)
    assert model.fingerprint() == looped().fingerprint()


@pytest.mark.parametrize("form", TARGETS)
def test_targets_have_any_form(form: str) -> None:
    model = BNPClassifier(hidden=(4,))
    model.learn_many(ROWS, TARGETS[form](LABELS))
    assert model.fingerprint() == looped().fingerprint()


@pytest.mark.parametrize("table", TABLES)
def test_predictions_are_those_of_a_loop(table: str) -> None:
    model, X = looped(), TABLES[table]()
    values, shares = model.predict_many(X), model.predict_proba_many(X)
    expected = [model.predict_one(x) for x in ROWS]
    assert (
        [*values] == expected if not isinstance(values, pa.ChunkedArray) else values.to_pylist() == expected
    )
    rows = [model.predict_proba_one(x) for x in ROWS]
    if isinstance(shares, list):
        assert shares == rows
    else:
        assert [dict(zip(("u", "v"), row, strict=True)) for row in np.asarray(shares)] == rows


def test_a_frame_of_pandas_keeps_its_index_and_the_labels_as_columns() -> None:
    model, X = BNPClassifier(hidden=(4,)), pandas_frame()
    model.learn_many(X, pd.Series([label == "u" for label in LABELS], index=X.index))
    assert model.predict_many(X).index.equals(X.index)
    shares = model.predict_proba_many(X.iloc[::2])
    assert shares.index.equals(X.index[::2])
    assert [*shares.columns] == [True, False]


def test_a_frame_of_polars_has_names_of_labels_as_columns() -> None:
    model = BNPClassifier(hidden=(4,))
    model.learn_many(pl.DataFrame(COLUMNS), [1, 2] * 10)
    shares = model.predict_proba_many(pl.DataFrame(COLUMNS))
    assert isinstance(shares, pl.DataFrame)
    assert shares.columns == ["1", "2"]
    assert isinstance(model.predict_many(pl.DataFrame(COLUMNS)), pl.Series)


def test_before_the_first_label_a_table_of_predictions_is_empty() -> None:
    X = pandas_frame()
    assert BNPClassifier().predict_many(X).isna().all()
    assert BNPClassifier().predict_proba_many(X).shape == (20, 0)
    assert [*BNPRegressor().predict_many(X)] == [0.0] * 20


def test_a_pipeline_of_river_learns_mini_batches() -> None:
    X = pd.DataFrame({"a": np.arange(40.0) % 7, "b": np.arange(40.0) % 3})
    y = pd.Series(X["a"] > 3)
    model = preprocessing.StandardScaler() | BNPClassifier(hidden=(4,))
    for start in range(0, 40, 10):
        model.learn_many(X[start : start + 10], y[start : start + 10])
    assert (model.predict_many(X) == y).mean() > 0.8
    assert model.predict_proba_many(X).shape == (40, 2)
    regression = compose.Select("b") | BNPRegressor(hidden=(4,))
    regression.learn_many(X, X["b"])
    assert regression.predict_many(X).index.equals(X.index)


@pytest.mark.filterwarnings("ignore:`stream.iter_:DeprecationWarning")
def test_the_streams_of_river_can_be_learned() -> None:
    frame = pandas_frame().drop(columns=["price"])
    for samples in (
        stream.iter_pandas(frame, pd.Series(LABELS, frame.index)),
        stream.iter_polars(pl.DataFrame(COLUMNS).drop("price"), pl.Series(LABELS)),
    ):
        model = BNPClassifier(hidden=(4,))
        for x, y in samples:
            model.learn_one(x, y)
        assert model.step == 20
        assert model.labels == ("u", "v")


@pytest.mark.parametrize(
    ("X", "y", "text"),
    [
        ([{"a": 1.0}, {"a": float("inf")}], [1, 2], "row 1: x.a: is not finite"),
        ([{"a": 1.0}, {"a": 1.0}], [1, "z"], "row 1: y: is of type str"),
        ([{"a": 1.0}, {"a": 1.0}], [1, None], "row 1: y: is missing"),
        ([{"a": 1.0}, 3], [1, 2], "row 1: x: must be of type dict"),
        ([{"a": 1.0}], [1, 2], "y: has 2 targets for 1 samples"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), [1], "x.a: is the name of two columns"),
        (pa.table([[1], [2]], names=["b", "b"]), [1], "x.b: is the name of two columns"),
        (pl.LazyFrame({"a": [1]}), [1], "X: is a lazy frame: call .collect"),
        ({"a": [1.0, 2.0], "b": [1.0]}, [1, 2], "x.b: has 1 values, another column 2"),
        ({"a": 1.0}, [1], "x.a: must be a sequence of values, not float"),
        ("file.csv", [1], "X: must be a list of dicts"),
        (3, [1], "X: must be a list of dicts"),
        ([{"a": 1.0}], "u", "y: must be a sequence of values, not str"),
        ([{"a": 1.0}], None, "y: must be a sequence of values, not NoneType"),
        ([{"a": 1.0}], np.zeros((1, 2)), "y: has the shape"),
        ([{"a": 1.0}], pd.DataFrame({"a": [1], "b": [2]}), "y: has 2 columns"),
    ],
)
def test_a_bad_table_is_refused_with_its_row_and_changes_nothing(X: Any, y: Any, text: str) -> None:
    model = looped() if text.startswith("y: is of") else BNPClassifier(hidden=(4,))
    before = model.fingerprint()
    with pytest.raises(SampleError, match=text.replace(".", "[.]")):
        model.learn_many(X, y)
    assert model.fingerprint() == before


def test_a_row_in_an_error_of_an_array() -> None:
    model = BNPRegressor(hidden=(2,), input_shape=(2,))
    with pytest.raises(SampleError, match="row 1: y: is not finite"):
        model.learn_many(np.zeros((2, 2)), [1.0, float("inf")])
    with pytest.raises(SampleError, match=r"row 1: x\[0\]: is not finite"):
        model.predict_many(np.array([[0.0, 1.0], [np.inf, 2.0]]))


def test_the_former_name_of_the_targets_is_deprecated() -> None:
    model = BNPClassifier(hidden=(4,))
    with pytest.warns(DeprecationWarning, match="now named y"):
        model.learn_many(ROWS, Y=LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn_many(ROWS, y=LABELS)
    assert model.step == 40
