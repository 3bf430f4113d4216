"""The config: every field is described, `--set` changes one, a wrong value is one line."""

import pytest

from neuralblack.config import AugmentationConfig, TrainConfig, with_overrides
from neuralblack.errors import InputError


@pytest.mark.parametrize("kind", [TrainConfig, AugmentationConfig])
def test_every_field_says_what_it_is(kind):
    assert all(field.description and field.description.endswith(".") for field in kind.model_fields.values())


def test_overrides_reach_plain_fields_lists_nested_fields_and_schedules():
    config = with_overrides(
        TrainConfig(), ["lr=1e-4", "epochs=3", "train_folds=[1, 3]", "augmentation.flip=0", "schedule={0: 1, 3: 2}"]
    )

    assert (config.lr, config.epochs, config.train_folds, config.augmentation.flip) == (1e-4, 3, (1, 3), 0)
    assert config.schedule == {0: 1, 3: 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr=0", ["--set lr", "found 0", "expected a value greater than 0. Fix: give another", "Peak learning rate"]),
        ("lr=fast", ["--set lr", "'fast'", "number"]),
        ("lr=nan", ["--set lr: found nan; expected a number. Fix: give another"]),
        ("epochs=0", ["--set epochs", "greater than or equal to 1"]),
        ("rate=1", ["'rate'", "one of", "lr_decay", "Fix: take one of these names"]),
        ("augmentation.twist=1", ["'augmentation.twist'", "rotate_degrees"]),
        ("lr", ["no '='", "FIELD=VALUE"]),
        ("lr=[", ["a YAML value"]),
        ("batch_norm=sync", ["--set batch_norm", "'sync'", "eval"]),
        ("validation_folds=2", ["--set validation_folds: found 2; expected a list, such as [2]"]),
        ("validation_folds=two", ["found 'two'; expected a list, such as [1]"]),
        ("schedule=5", ["--set schedule: found 5; expected a name, or a mapping such as {0: 1, 3: 2}"]),
        ("schedule={0: x}", ["--set schedule: found {0: 'x'}; expected a name, or a mapping"]),
        ("schedule={0:1,3:2}", ["found no space behind a colon", "--set 'schedule={0: 1, 3: 2}'"]),
        ("schedule={0: 1, 0: 2}", ["found 0 twice", "each key once"]),
    ],
)
def test_a_wrong_override_names_the_field_the_value_and_what_was_expected(text, words):
    with pytest.raises(InputError) as error:
        with_overrides(TrainConfig(), [text])

    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
