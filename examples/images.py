"""Handwritten digits, one image at a time: predicted, scored, then learned."""

from __future__ import annotations

from collections import deque
from statistics import mean

from sklearn import datasets  # type: ignore[import-untyped]  # it ships no types

import bnp_online as bnp


def main(n: int = 600) -> float:
    """Return the accuracy on the last 200 images."""
    digits = datasets.load_digits()
    model = bnp.BNPClassifier(network="cnn", input_shape=(1, 8, 8), hidden=(32,), device="cpu")
    right: deque[bool] = deque(maxlen=200)
    for i, (image, digit) in enumerate(zip(digits.images[:n], digits.target[:n], strict=True)):
        x = image[None] / 16  # one channel
        guess = model.predict_one(x)
        if guess is not None:
            right.append(guess == int(digit))
        model.learn_one(x, int(digit))
        if (i + 1) % (n // 5) == 0:
            print(f"{i + 1:5} images, of the last 200 right: {mean(right):.0%}")
    return mean(right)


if __name__ == "__main__":
    main()
