"""Two tables that come with scikit-learn: handwritten digits, and patients with diabetes a year later."""

from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from torch import nn


def digits():
    """64 grey values of a digit, and which it is; the last fifth is the test part."""
    table: Any = load_digits()
    return parts(table.data / 16, table.target)


def diabetes():
    """Ten measurements of a patient, and how far the disease has gone, as a standardised number."""
    table: Any = load_diabetes()
    return parts(table.data / table.data.std(0), (table.target - table.target.mean()) / table.target.std())


def parts(inputs: np.ndarray, targets: np.ndarray):
    """A fifth of the rows, drawn once and for all, is the test part."""
    x, test_x, y, test_y = train_test_split(inputs, targets, test_size=0.2, random_state=0)
    return {"train": (x, y), "test": (test_x, test_y)}


def network(input_shape: tuple[int], outputs: int, width: int = 64):
    """What a table's rows go through. `input_shape` and `outputs` are what the data ask for."""
    (columns,) = input_shape
    return nn.Sequential(
        nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )
