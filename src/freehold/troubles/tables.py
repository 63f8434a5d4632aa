"""A pandas merge, sort and group-by over three million rows.

A year of sales is joined with the products, ranked by day, and summed by month and by shop. Three small tables stay;
the frames they came from are dropped, and memory does not come back: pandas#9716 (queries, then a merge), pandas#21353.
"""

import numpy as np
import pandas as pd

PRODUCTS = 20_000
CATEGORIES = ["books", "garden", "toys", "music", "food", "sport", "tools", "home"]
SHARES = [0.30, 0.20, 0.15, 0.10, 0.10, 0.05, 0.05, 0.05]


def year_of_sales(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(2024)
    days = np.datetime64("2024-01-01", "s") + random.integers(0, 366, rows).astype("m8[D]")
    return pd.DataFrame(
        {
            "day": days,
            "shop": random.zipf(1.3, rows).clip(max=5_000).astype(np.int32),
            "product": (random.pareto(1.2, rows) * 50).clip(max=PRODUCTS - 1).astype(np.int32),
            "category": pd.Categorical.from_codes(random.choice(len(CATEGORIES), rows, p=SHARES), CATEGORIES),
            "price": np.round(random.lognormal(2.5, 0.8, rows), 2),
            "pieces": random.geometric(0.6, rows).astype(np.int16),
        }
    )


def price_list() -> pd.DataFrame:
    random = np.random.default_rng(7)
    return pd.DataFrame({"product": np.arange(PRODUCTS, dtype=np.int32), "cost": random.lognormal(2.0, 0.7, PRODUCTS)})


def main(scale: float = 1.0) -> list[pd.DataFrame]:
    sales = year_of_sales(int(3_000_000 * scale))
    sales["revenue"] = sales["price"] * sales["pieces"]
    joined = sales.merge(price_list(), on="product", how="left")
    joined["margin"] = joined["revenue"] - joined["cost"] * joined["pieces"]
    best = joined.sort_values(["day", "margin"], ascending=[True, False]).groupby("day").head(3)
    months = joined.groupby(["category", joined["day"].dt.month], observed=True)[["revenue", "margin"]].agg(
        ["sum", "max"]
    )
    shops = joined.groupby(["day", "shop"])["revenue"].sum().groupby("shop").agg(["mean", "max"])
    return [best, months, shops]


def warm_up() -> None:
    """Load what pandas imports late, so that imports do not count as the work's memory."""
    main(scale=0.001)
