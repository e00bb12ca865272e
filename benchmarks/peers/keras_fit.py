"""Keras: one `fit` per trajectory with a callback that keeps the loss and the weights of each epoch."""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
from iris_data import INPUTS, LABELS

keras.backend.set_floatx("float64")


class Keep(keras.callbacks.Callback):
    """The loss and the weights after each epoch, as the study's notebooks keep them."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.weights: list[Any] = []
        self.losses: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append(self.model.get_weights())
        self.losses.append(logs["loss"])


@cache
def model(eta: float) -> Any:
    """Compiled once: later calls only set its weights."""
    made = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(10, activation="sigmoid"), keras.layers.Dense(3, activation="softmax")]
    )
    made.compile(keras.optimizers.SGD(eta), "sparse_categorical_crossentropy")
    return made


def train(state: np.ndarray, eta: float, steps: int) -> np.ndarray:
    """The loss before each step, and the state after the last."""
    made, kept = model(eta), Keep()
    made.set_weights([state[:40].reshape(10, 4).T, state[40:50], state[50:80].reshape(3, 10).T, state[80:]])
    made.fit(INPUTS, LABELS, batch_size=len(INPUTS), epochs=steps, shuffle=False, verbose=0, callbacks=[kept])
    after = np.concatenate([w.T.ravel() for w in kept.weights[-1]])
    return np.concatenate([kept.losses, after])
