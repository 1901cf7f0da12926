"""Size and nature of a synthetic data set."""

from __future__ import annotations

import dataclasses
import math

from amstf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Size and nature of a synthetic data set.

    Attributes:
        users: Number of users.
        items: Number of items, each with one image.
        impressions: Number of samples of all splits together.
        image_width: Features of an image, F. The paper's VGG16 features have 4,096.
        behaviours: Most earlier clicks that a sample holds.
        new_items: Share of the items that appear only in the test split.
        new_validation_items: Share of the items that training does not show either and validation
            does, so that what is chosen by validation is chosen for new items too.
        new_item_impressions: Share of the impressions of the test, or of validation, that show one
            of these.
        validation_share: Share of the impressions in the validation split.
        test_share: Share of the impressions in the test split, the last in time.
        page_size: Impressions of a page view. A page is of one user at one hour, and all its
            samples hold the earlier clicks as of its begin. With 1 each impression is its own.
        seed: Makes the same data every time.
        style_width: Dimensions of the latent style.
        style_from_category: Share of the variance of style that an item's category explains.
        zipf: Exponent of item popularity.
        bias: Logit of a click when all else is at its mean.
        propensity: Strength (standard deviation of the logit) of how much a user clicks at all.
        visible_quality: Strength of the quality that the image shows.
        hidden_quality: Strength of the quality that only an item's history shows.
        taste: Strength of the match of taste and style.
        interests: Tastes of a user; an item is liked as the one likes it that likes it best. With
            several the mean of a user's behaviours says little, and attention is needed.
        taste_drift: Angle in radians by which each taste of a user turns from the first to the last
            impression. What was clicked lately then says more than what a user's id has learnt.
        id_effects: Strength of what brand, gender, category, age and hour add.
        image_noise: Standard deviation of the noise of a feature, where the signal has 1.
        text_width: Features of an item's title; 0 for a data set without titles.

    Raises:
        ConfigError: If a value is out of range.
    """

    users: int = 1500
    items: int = 3000
    impressions: int = 130_000
    image_width: int = 512
    behaviours: int = 16
    new_items: float = 0.2
    new_validation_items: float = 0.0
    new_item_impressions: float = 0.3
    validation_share: float = 0.08
    test_share: float = 0.15
    page_size: int = 1
    seed: int = 1
    style_width: int = 2
    style_from_category: float = 0.2
    zipf: float = 0.8
    bias: float = -1.4
    propensity: float = 0.4
    visible_quality: float = 0.5
    hidden_quality: float = 0.5
    taste: float = 1.0
    id_effects: float = 0.3
    image_noise: float = 0.3
    interests: int = 1
    taste_drift: float = 0.0
    text_width: int = 0

    def __post_init__(self) -> None:
        for name in (
            "users", "items", "impressions", "image_width", "behaviours", "page_size",
            "style_width", "interests",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "new_items", "new_validation_items", "new_item_impressions", "validation_share",
            "test_share",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"--{name} is {getattr(self, name)}; it is a share, from 0 to less than 1"
                )
        if not 0 <= self.taste_drift < math.inf:
            raise ConfigError(
                f"--taste_drift is {self.taste_drift}; it is an angle in radians, from 0 to less "
                "than infinity"
            )
        if self.validation_share + self.test_share >= 1:
            raise ConfigError(
                f"--validation_share {self.validation_share} and --test_share {self.test_share} "
                "leave nothing to train on; their sum must be less than 1"
            )
        if self.new_items + self.new_validation_items >= 1:
            raise ConfigError(
                f"--new_items {self.new_items} and --new_validation_items "
                f"{self.new_validation_items} leave no items to train on; their sum must be less "
                "than 1"
            )
        for name in ("seed", "text_width"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must not be negative")
