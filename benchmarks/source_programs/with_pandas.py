"""pandas and pyarrow: numbers and text in tables, group-by, join, Parquet there and back; the tables are kept."""

import io
import time

import numpy as np
import pandas as pd
from pyarrow import parquet

random = np.random.default_rng(1)
rows = 1_500_000
table = pd.DataFrame(
    {
        "key": random.integers(0, 50_000, rows),
        "value": random.standard_normal(rows),
        "name": pd.array([f"customer {n % 70_000}" for n in range(rows)], dtype="str"),
    }
)
sums = table.groupby("name")["value"].agg(["sum", "mean"]).reset_index()
joined = table.merge(sums, on="name")
file = io.BytesIO()
joined.to_parquet(file)
again = parquet.read_table(file)
time.sleep(2)  # what is idle is given back meanwhile
