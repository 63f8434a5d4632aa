"""scikit-learn: a forest, clusters, components and a linear model, fitted and kept with their data."""

import time

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

random = np.random.default_rng(1)
data = random.standard_normal((60_000, 40))
target = (data[:, 0] + data[:, 1] ** 2 > 1).astype(int)
kept = [
    RandomForestClassifier(n_estimators=10, random_state=1, n_jobs=1).fit(data, target),
    KMeans(8, n_init=1, random_state=1).fit(data),
    PCA(10).fit(data),
    LogisticRegression().fit(data, target),
]
found = [kept[0].predict_proba(data), kept[1].transform(data), kept[2].transform(data), kept[3].predict_proba(data)]
time.sleep(2)  # what is idle is given back meanwhile
